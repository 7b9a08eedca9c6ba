"""HyPO (Song et al., 2024): DPO on the pairs, and the KL to the reference on samples of the policy.

python -m experiments.train --config=configs/preference/hypo.py:runlocal --workdir=runs/hypo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses.preference import regularized


def get_config(arg: str | None = None) -> ConfigDict:
    # The samples are the demonstrations' (what the reference was tuned on); configs/online draws them from the policy.
    return base.paired(
        "hypo",
        arg,
        ref(regularized.hypo, beta=0.1, kl_weight=0.01),
        rewrite=rewrite.sampled,
        options={"parts": {"chosen": 0, "rejected": 1, "online": 2}},
        bind={"old_online_logps": "ref_online_logps"},
        wide=2,
    )

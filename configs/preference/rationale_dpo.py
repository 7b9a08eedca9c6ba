"""DPO, or ORPO, with rationales (Just et al., 2024): the policy also learns to explain the preference.

python -m experiments.train --config=configs/preference/rationale_dpo.py:runlocal --workdir=runs/rationale_dpo
python -m experiments.train --config=configs/preference/rationale_dpo.py:orpo --workdir=runs/rationale_orpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import derive, rewrite
from prefjax.losses.preference import rationale


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, orpo=False)
    loss = ref(rationale.rationale_dpo, beta=0.1, gamma=0.001)
    fields = {
        "rewrite": rewrite.explained,
        "derive": derive.rationales,
        "options": {"parts": {"chosen": 0, "rejected": 1, "rationale": 2}},
        "wide": 2,
    }
    if args.orpo:
        return base.reference_free("rationale_orpo", args, rationale.rationale_orpo, **fields)
    return base.paired("rationale_dpo", args, loss, **fields)

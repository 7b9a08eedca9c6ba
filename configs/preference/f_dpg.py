"""f-DPG (Go et al., 2023): an f-divergence to the optimum of RLHF, by a score function on the reference's samples.

python -m experiments.train --config=configs/preference/f_dpg.py:runlocal --workdir=runs/f_dpg
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses import policy_divergence
from prefjax.views import language


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "f_dpg",
        arg,
        ref(policy_divergence.f_dpg, divergence="reverse_kl"),
        view=language.responses,
        options={"target_beta": 0.1},
        kind="sft",
        reference=True,
    )

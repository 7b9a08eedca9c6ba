"""Robust DPO (Chowdhury et al., 2024): an unbiased estimate of the loss on labels that flip at a known rate.

python -m experiments.train --config=configs/preference/robust_dpo.py:runlocal --workdir=runs/robust_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import robust


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("robust_dpo", arg, ref(robust.robust_dpo, beta=0.1, label_smoothing=0.1), world={"noise": 0.1})

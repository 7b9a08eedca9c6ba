"""LN-DPO (Ahrabian et al., 2024): DPO on log-ratios averaged over tokens.

python -m experiments.train --config=configs/preference/ln_dpo.py:runlocal --workdir=runs/ln_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import averaged
from prefjax.metrics import preference


def get_config(arg: str | None = None) -> ConfigDict:
    loss = ref(averaged.sigmoid_norm, beta=2.0)
    metrics = ref(preference.length_normalized, beta=loss.get_ref("beta"))
    return base.paired("ln_dpo", arg, loss, metrics=metrics)

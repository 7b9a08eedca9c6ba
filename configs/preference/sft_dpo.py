"""DPO with a likelihood term (3D-Properties; Yan et al., 2024).

python -m experiments.train --config=configs/preference/sft_dpo.py:runlocal --workdir=runs/sft_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import flexible


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("sft_dpo", arg, ref(flexible.sft_dpo, beta=0.1, sft_weight=0.1))

"""LD-DPO (Liu et al., 2024): tokens beyond the shorter response's length count less.

python -m experiments.train --config=configs/preference/ld_dpo.py:runlocal --workdir=runs/ld_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import tokenwise


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("ld_dpo", arg, ref(tokenwise.ld_dpo, beta=0.1, alpha=0.5))

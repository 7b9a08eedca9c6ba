"""APO-zero on single judged responses (D'Oosterlinck et al., 2024).

python -m experiments.train --config=configs/preference/apo_zero_unpaired.py:runlocal --workdir=runs/apo_zero_unpaired
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import unary


def get_config(arg: str | None = None) -> ConfigDict:
    return base.unpaired("apo_zero_unpaired", arg, ref(unary.apo_zero_unpaired, beta=0.1))

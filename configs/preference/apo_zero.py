"""APO-zero (D'Oosterlinck et al., 2024): the chosen response up, the rejected one down, each against the reference.

python -m experiments.train --config=configs/preference/apo_zero.py:runlocal --workdir=runs/apo_zero
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import anchored


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("apo_zero", arg, ref(anchored.apo_zero, beta=0.1))

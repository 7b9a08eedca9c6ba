"""APO-down (D'Oosterlinck et al., 2024): both responses down, the rejected one more: for a policy that is better.

python -m experiments.train --config=configs/preference/apo_down.py:runlocal --workdir=runs/apo_down
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import anchored


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("apo_down", arg, ref(anchored.apo_down, beta=0.1))

"""KTO on pairs (Ethayarajh et al., 2024): each side against the batch's mean log-ratio of the other.

python -m experiments.train --config=configs/preference/kto_pair.py:runlocal --workdir=runs/kto_pair
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import unary


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("kto_pair", arg, ref(unary.kto_pair, beta=0.1))

"""BCO on pairs (Jung et al., 2024): both responses classified by their implicit rewards.

python -m experiments.train --config=configs/preference/bco_pair.py:runlocal --workdir=runs/bco_pair
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import unary


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("bco_pair", arg, ref(unary.bco_pair, beta=0.1))

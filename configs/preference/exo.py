"""EXO (Ji et al., 2024): the reverse KL between the pair's two distributions.

python -m experiments.train --config=configs/preference/exo.py:runlocal --workdir=runs/exo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import divergence


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("exo", arg, ref(divergence.exo, beta=0.1))

"""NCA (Chen et al., 2024): noise contrast that keeps the chosen response's likelihood from falling.

python -m experiments.train --config=configs/preference/nca.py:runlocal --workdir=runs/nca
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import anchored


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("nca", arg, ref(anchored.nca, beta=0.1))

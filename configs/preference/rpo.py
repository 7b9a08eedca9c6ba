"""RPO (Liu et al., 2024): DPO plus imitation of a baseline response, here the chosen one.

python -m experiments.train --config=configs/preference/rpo.py:runlocal --workdir=runs/rpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import regularized


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("rpo", arg, ref(regularized.rpo, beta=0.1, eta=0.005))

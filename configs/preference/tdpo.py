"""TDPO (Zeng et al., 2024): DPO less the difference of exact forward KLs along the two responses.

python -m experiments.train --config=configs/preference/tdpo.py:runlocal --workdir=runs/tdpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import tokenwise


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("tdpo", arg, ref(tokenwise.tdpo, beta=0.1, alpha=0.5))

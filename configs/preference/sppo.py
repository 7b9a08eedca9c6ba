"""SPPO (Wu et al., 2024): log-ratios are regressed on win rates against the policy itself (1 and 0 for a pair).

python -m experiments.train --config=configs/preference/sppo.py:runlocal --workdir=runs/sppo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import anchored


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("sppo", arg, ref(anchored.sppo, beta=0.1))

"""DiscoPOP (Lu et al., 2024): a loss found by a language model, between logistic and exponential.

python -m experiments.train --config=configs/preference/discopop.py:runlocal --workdir=runs/discopop
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import discovered


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("discopop", arg, ref(discovered.discopop, beta=0.05))

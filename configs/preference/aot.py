"""AOT (Melnyk et al., 2024): chosen rewards dominate rejected ones as distributions, sorted within the batch.

python -m experiments.train --config=configs/preference/aot.py:runlocal --workdir=runs/aot
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import transport


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("aot", arg, ref(transport.aot, beta=0.1))

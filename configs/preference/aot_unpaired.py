"""AOT on unpaired rewards (Melnyk et al., 2024): chosen and rejected log-ratios sorted each on their own.

python -m experiments.train --config=configs/preference/aot_unpaired.py:runlocal --workdir=runs/aot_unpaired
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import transport


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("aot_unpaired", arg, ref(transport.aot_unpaired, beta=0.1))

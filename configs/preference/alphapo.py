"""AlphaPO (Gupta et al., 2025): SimPO with rewards of another shape than the logarithm.

python -m experiments.train --config=configs/preference/alphapo.py:runlocal --workdir=runs/alphapo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import averaged


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reference_free("alphapo", arg, ref(averaged.alphapo, alpha=0.25, beta=2.0, gamma=0.5))

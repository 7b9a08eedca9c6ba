"""Triple preference optimisation (Saeidi et al., 2024): preference and supervised tuning in one loss, no reference.

python -m experiments.train --config=configs/preference/tpo_triple.py:runlocal --workdir=runs/tpo_triple
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import likelihood


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reference_free("tpo_triple", arg, ref(likelihood.tpo_triple, beta=0.01, gamma=0.5))

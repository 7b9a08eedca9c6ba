"""ASFT (Wang et al., 2024): each response's absolute likelihood, without a reference.

python -m experiments.train --config=configs/preference/asft.py:runlocal --workdir=runs/asft
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses.preference import asft


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reference_free("asft", arg, asft.asft, more={"sft": base.likelihood()})

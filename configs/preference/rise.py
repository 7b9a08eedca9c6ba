"""RISE (Xu et al., 2024): DPO from an injected error on, plus the likelihood of the right solution.

python -m experiments.train --config=configs/preference/rise.py:runlocal --workdir=runs/rise
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import stepwise


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("rise", arg, ref(stepwise.rise, beta=0.4, alpha=0.05), kind="siblings")

"""DOVE (Bansal et al., 2024): preferences between whole instruction-response pairs, across prompts.

python -m experiments.train --config=configs/preference/dove.py:runlocal --workdir=runs/dove
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import derive
from prefjax.losses.preference import joint


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("dove", arg, ref(joint.dove, beta=0.1), derive=derive.joint, wide=2)

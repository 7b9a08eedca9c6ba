"""Reward-augmented DPO (Zhang et al., 2024): every pair twice, told which score to aim at.

python -m experiments.train --config=configs/preference/reward_augmented_dpo.py:runlocal --workdir=runs/goals
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses.preference import paired


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("reward_augmented_dpo", arg, ref(paired.dpo, beta=0.1), rewrite=rewrite.goals)

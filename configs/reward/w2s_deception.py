"""Weak-to-strong supervision under conflict (Yang et al., 2024): a study of how strong models deceive weak ones.

python -m experiments.train --config=configs/reward/w2s_deception.py:runlocal --workdir=runs/w2s_deception
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses import reward_conflict


def get_config(arg: str | None = None) -> ConfigDict:
    bind = {"preference_probs": "probability", "preference_truths": "agrees"}
    return base.reward_model(
        "w2s_deception", arg, ref(reward_conflict.conflict_reward, alpha=0.5), bind=bind, world={"temperature": 0.3}
    )

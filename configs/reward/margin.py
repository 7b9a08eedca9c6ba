"""UltraFeedback's reward model (Cui et al., 2023): Bradley-Terry with the ratings' difference as a margin.

python -m experiments.train --config=configs/reward/margin.py:runlocal --workdir=runs/margin
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_pairs


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model("margin", arg, reward_pairs.adaptive_margin)

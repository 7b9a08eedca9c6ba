"""A reward model by a hinge on the difference of scores.

python -m experiments.train --config=configs/reward/ranking_hinge.py:runlocal --workdir=runs/ranking_hinge
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_pairs


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model("ranking_hinge", arg, reward_pairs.ranking_hinge)

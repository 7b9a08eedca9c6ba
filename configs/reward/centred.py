"""Bradley-Terry with scores pulled to zero mean (Eisenstein et al., 2023).

python -m experiments.train --config=configs/reward/centred.py:runlocal --workdir=runs/centred
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.losses import reward, reward_pairs
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    more = {"centring": recipe.term(rewards.scored_pairs, reward_pairs.centring, coefficient=0.01)}
    return base.reward_model("centred", arg, reward.bradley_terry, more=more)

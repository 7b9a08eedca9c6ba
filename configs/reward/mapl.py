"""MAPL (Sun et al., 2025): Bradley-Terry, and comparisons of one response, and of one preference, under two prompts.

python -m experiments.train --config=configs/reward/mapl.py:runlocal --workdir=runs/mapl
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.data import derive
from prefjax.losses import reward, reward_prompts
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    parts = {"chosen": 0, "rejected": 1, "matching": 0, "mismatched": 2, "weaker_chosen": 2, "weaker_rejected": 3}
    more = {
        name: recipe.term(rewards.scored_pairs, loss, parts=parts)
        for name, loss in (("intra", reward_prompts.mapl_intra), ("inter", reward_prompts.mapl_inter))
    }
    options = {"parts": parts}
    return base.reward_model(
        "mapl", arg, reward.bradley_terry, options=options, more=more, derive=derive.other_prompts, wide=3
    )

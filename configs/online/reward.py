"""A reward model that can be fooled: few pairs, noisy labels. What the online algorithms then learn from.

python -m experiments.train --config=configs/online/reward.py:runlocal --workdir=runs/proxy
python -m experiments.train --config=configs/online/reward.py:init=runs/weak --workdir=runs/proxy
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base as offline
from configs.online import base
from prefjax import recipe
from prefjax.config import Config
from prefjax.losses import reward
from prefjax.metrics import preference
from prefjax.views import language as views


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg)
    term = recipe.term(views.scored_pairs, reward.bradley_terry, metrics=preference.reward_model)
    config: Config = offline.stage(
        "proxy_reward",
        args,
        kind="pairs",
        objective={"reward": term},
        steps=100,
        learning_rate=2e-3,
        outputs=1,
        world={**base.world(args), "noise": 0.1},
    )
    if args.data == "gold" and not args.runlocal:
        config.data.size = 1000
    return config

"""HelpSteer2's regression (Wang et al., 2024): one output a rated attribute.

python -m experiments.train --config=configs/reward/helpsteer2_regression.py:runlocal --workdir=runs/ratings
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.data import rewrite
from prefjax.data.gold import reward
from prefjax.losses import reward_attributes
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "helpsteer2_regression",
        arg,
        reward_attributes.attribute_regression,
        view=rewards.scored_responses,
        options={"stacks": {"attribute_ratings": reward.ATTRIBUTES}},
        kind="sft",
        rewrite=rewrite.attributes,
        outputs=len(reward.ATTRIBUTES),
        steps=300,
        learning_rate=1e-3,
    )

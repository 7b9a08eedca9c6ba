"""A tiny reward model on features that the domain says matter (Nath et al., 2024): the text is not read.

python -m experiments.train --config=configs/reward/domain_features.py:runlocal --workdir=runs/domain_features
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.data.gold.reward import ATTRIBUTES
from prefjax.losses import reward
from prefjax.rewards import domain_features
from prefjax.views import learned


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "domain_features",
        arg,
        reward.bradley_terry,
        view=learned.features,
        options={"names": ATTRIBUTES, "monotone": True},
        rewrite=rewrite.attributes,
        outputs=0,
        learned={"features": ref(domain_features.init, features=len(ATTRIBUTES))},
        learning_rate=3e-2,
    )

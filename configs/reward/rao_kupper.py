"""A reward model with ties by Rao and Kupper (1967).

python -m experiments.train --config=configs/reward/rao_kupper.py:runlocal --workdir=runs/rao_kupper
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses import reward_pairs


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "rao_kupper", arg, ref(reward_pairs.rao_kupper), rewrite=rewrite.with_ties, world={"ties": "rao_kupper"}
    )

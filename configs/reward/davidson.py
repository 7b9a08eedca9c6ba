"""A reward model with ties by Davidson (1970).

python -m experiments.train --config=configs/reward/davidson.py:runlocal --workdir=runs/davidson
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses import reward_pairs


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "davidson", arg, ref(reward_pairs.davidson), rewrite=rewrite.with_ties, world={"ties": "davidson"}
    )

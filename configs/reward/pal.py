"""PAL (Chen et al., 2024) on a decoder that learns along: users as mixtures of prototypical ideal points.

python -m experiments.train --config=configs/reward/pal.py:runlocal --workdir=runs/pal
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses import reward
from prefjax.rewards import pal
from prefjax.views import learned


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "pal",
        arg,
        reward.bradley_terry,
        view=learned.pal,
        outputs=0,
        learned={"pal": ref(pal.init_a, width=16, users=8, prototypes=2)},
        world={"annotators": ("terse", "chatty") * 4},
    )

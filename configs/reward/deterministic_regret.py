"""Preferences by regret between two states (Knox et al., 2022): a reward and a value for every token.

python -m experiments.train --config=configs/reward/deterministic_regret.py:runlocal --workdir=runs/deterministic_regret
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import segments
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "deterministic_regret",
        arg,
        segments.deterministic_regret_preference,
        view=rewards.segments,
        kind="pairs",
        outputs=2,
        steps=300,
        learning_rate=1e-3,
    )

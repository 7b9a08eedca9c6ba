"""Preferences by regret (Knox et al., 2022): the response whose tokens lose less is preferred.

python -m experiments.train --config=configs/preference/regret_preference.py:runlocal --workdir=runs/regret_preference
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import segments
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "regret_preference",
        arg,
        segments.regret_preference,
        view=rewards.segments,
        kind="pairs",
        outputs=1,
        learning_rate=1e-3,
    )

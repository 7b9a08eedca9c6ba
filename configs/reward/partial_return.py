"""Preferences by partial return (Christiano et al., 2017): a reward for every token, summed.

python -m experiments.train --config=configs/reward/partial_return.py:runlocal --workdir=runs/partial_return
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import segments
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "partial_return",
        arg,
        segments.partial_return,
        view=rewards.segments,
        kind="pairs",
        outputs=1,
        steps=300,
        learning_rate=1e-3,
    )

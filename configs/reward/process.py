"""A process reward model: is the solution right so far, after every step (Lightman et al., 2023).

python -m experiments.train --config=configs/reward/process.py:runlocal --workdir=runs/process
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_process
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "process",
        arg,
        reward_process.process_reward,
        view=rewards.scored_lists,
        kind="prefixes",
        outputs=1,
        steps=300,
        learning_rate=1e-3,
    )

"""An outcome reward model: was the response judged good (Cobbe et al., 2021).

python -m experiments.train --config=configs/reward/outcome.py:runlocal --workdir=runs/outcome
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_process
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "outcome",
        arg,
        reward_process.outcome_reward,
        view=rewards.scored_responses,
        kind="unpaired",
        outputs=1,
        steps=300,
        learning_rate=1e-3,
    )

"""A reward model on labels that may be wrong: label smoothing (Wang et al., 2024).

python -m experiments.train --config=configs/reward/smoothed.py:runlocal --workdir=runs/smoothed
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses import reward_pairs


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "smoothed", arg, ref(reward_pairs.smoothed_bradley_terry, label_smoothing=0.1), world={"noise": 0.1}
    )

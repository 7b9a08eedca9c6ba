"""A reward model on graded comparisons (slightly better, much better), its cutpoints learned.

python -m experiments.train --config=configs/reward/ordinal.py:runlocal --workdir=runs/ordinal
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses import reward_pairs
from prefjax.rewards import learned as arrays


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "ordinal",
        arg,
        reward_pairs.ordinal,
        rewrite=ref(rewrite.levels, cuts=(0.1, 0.3)),
        learned={"cutpoint_gaps": ref(arrays.cutpoint_gaps, levels=2)},
    )

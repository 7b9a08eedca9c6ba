"""A reward model on soft comparisons: how sure the annotator was (Christiano et al., 2017).

python -m experiments.train --config=configs/reward/soft.py:runlocal --workdir=runs/soft
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_pairs


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg)
    bind = {"preference_probs": "probability"} if args.data == "gold" else {}
    return base.reward_model("soft", args, reward_pairs.soft_bradley_terry, bind=bind)

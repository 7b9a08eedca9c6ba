"""Reward models that tell responses apart (Wang et al., 2024): an adaptive margin and a contrastive term.

python -m experiments.train --config=configs/reward/preference_strength.py:runlocal --workdir=runs/preference_strength
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.losses import reward_contrast, reward_pairs
from prefjax.ops import options
from prefjax.rewards import learned as arrays
from prefjax.views import learned


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, contrast="simcse")
    contrast = {"simcse": reward_contrast.simcse_reward, "swav": reward_contrast.swav_reward}
    term = recipe.term(learned.contrasted, options.choose(contrast, contrast=args.contrast), coefficient=0.1)
    return base.reward_model(
        "preference_strength",
        args,
        reward_pairs.adaptive_margin,
        view=learned.contrasted,
        more={"contrast": term},
        learned={"prototypes": ref(arrays.prototypes, count=8)} if args.contrast == "swav" else None,
    )

"""A reward model on ranked lists by Plackett and Luce; `form=pairs` takes all pairs (InstructGPT).

python -m experiments.train --config=configs/reward/lists.py:runlocal --workdir=runs/lists
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_lists
from prefjax.ops import options
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, form="plackett_luce")
    forms = {"plackett_luce": reward_lists.plackett_luce, "pairs": reward_lists.all_pairs}
    return base.single(
        "lists",
        args,
        options.choose(forms, form=args.form),
        view=rewards.scored_lists,
        kind="lists",
        bind={"labels": "list_labels"},
        outputs=1,
        steps=300,
        learning_rate=1e-3,
    )

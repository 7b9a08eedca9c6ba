"""HelpSteer2-Preference (Wang et al., 2024): regression on ratings, then scaled Bradley-Terry from there, on features.

python -m experiments.train --config=configs/reward/features_helpsteer2.py:runlocal --workdir=runs/ratings
python -m experiments.train --config=configs/reward/features_helpsteer2.py:stage=preference,init=runs/ratings \\
    --workdir=runs/helpsteer2
python -m experiments.train --config=configs/reward/features_helpsteer2.py:stage=preference,data=votes.jsonl \\
    --workdir=runs/features_votes
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.features import base
from prefjax import recipe
from prefjax.config import did_you_mean, ref
from prefjax.losses import reward_attributes, reward_pairs
from prefjax.metrics import features as metrics
from prefjax.metrics import preference
from prefjax.rewards import heads
from prefjax.views import features as views

STAGES = ("regression", "preference")


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, stage="regression")
    if args.stage not in STAGES:
        raise ValueError(f"stage={args.stage!r} is unknown; {did_you_mean(str(args.stage), STAGES)}")
    if args.stage == "regression":
        objective = {}
        for side in ("chosen", "rejected"):
            bind = {name: f"{side}_{name}" for name in ("attribute_scores", "attribute_ratings")}
            usual = ref(metrics.ratings) if side == "chosen" else None
            loss = reward_attributes.attribute_regression
            objective[side] = recipe.term(views.pairs, loss, coefficient=0.5, bind=bind, metrics=usual)
    else:
        usual = ref(preference.reward_model)
        objective = {"preference": recipe.term(views.pairs, reward_pairs.scaled_bradley_terry, metrics=usual)}
    gold = {"annotators": ("strict",), "world": {"temperature": 0.2}}
    return base.stage(
        f"features_{args.stage}",
        args,
        data=base.data(args, encoder="random", gold=gold),
        model=ref(heads.attributes),
        objective=objective,
        steps=base.steps_of(args, 600 if args.data == "gold" else 300),
        learning_rate=1e-2,
    )

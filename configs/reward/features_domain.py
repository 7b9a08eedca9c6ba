"""A linear reward on features (Nath et al., 2024): gold attributes, or the embeddings of a frozen encoder.

python -m experiments.train --config=configs/reward/features_domain.py:runlocal --workdir=runs/features_domain
python -m experiments.train --config=configs/reward/features_domain.py:data=votes.jsonl,cache=runs/features \\
    --workdir=runs/features_domain
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.features import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.losses import reward
from prefjax.metrics import preference
from prefjax.rewards import heads
from prefjax.views import features as views


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg)
    gold = args.data == "gold"
    term = recipe.term(views.pairs, reward.bradley_terry, metrics=ref(preference.reward_model))
    return base.stage(
        "features_domain",
        args,
        data=base.data(args, encoder="attributes"),
        model=ref(heads.domain_features, monotone=gold and not args.encoder),
        objective={"reward": term},
        steps=base.steps_of(args, 600 if gold else 300),
        learning_rate=3e-2,
        weight_decay=0.0 if gold else 0.1,
    )

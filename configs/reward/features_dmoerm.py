"""DMoERM (Quan, 2024): a sparse expert a task, in each a dense mixture of low-rank experts, on features.

The three phases follow each other in one run: base, capabilities (gold attributes; of files the pair's own label), and
the network that reads them. Unlike in the paper, heads of capabilities start at random and not at the base's.

python -m experiments.train --config=configs/reward/features_dmoerm.py:runlocal --workdir=runs/features_dmoerm
python -m experiments.train --config=configs/reward/features_dmoerm.py:data=test.jsonl.gz,on_error=skip \\
    --workdir=runs/features_dmoerm
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
    steps = base.steps_of(args, 900 if args.data == "gold" else 450)
    turns = [round(part * steps / 3) for part in range(3)] + [steps]
    phase = [ref(heads.between, start=turns[i], stop=turns[i + 1]) for i in range(3)]
    base_scores = {"chosen_scores": "chosen_base_scores", "rejected_scores": "rejected_base_scores"}
    usual = ref(preference.reward_model)
    return base.stage(
        "features_dmoerm",
        args,
        data=base.data(args, encoder="random", gold={"world": {"tasks": ("copy", "reverse", "largest", "opposite")}}),
        model=ref(heads.dmoerm, capabilities=4, rank=4),
        objective={
            "mixture": recipe.term(views.pairs, reward.bradley_terry, metrics=usual, schedule=phase[2]),
            "base": recipe.term(views.pairs, reward.bradley_terry, bind=base_scores, schedule=phase[0]),
            "capabilities": recipe.term(views.pairs, heads.capability_loss, schedule=phase[1]),
        },
        steps=steps,
        learning_rate=3e-3,
    )

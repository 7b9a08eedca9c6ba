"""KTO (Ethayarajh et al., 2024): single responses marked desirable or not, with a baseline from mismatched pairs.

python -m experiments.train --config=configs/preference/kto.py:runlocal --workdir=runs/kto
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.losses.preference import unpaired
from prefjax.metrics import preference
from prefjax.views import language as views


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg)
    loss = ref(unpaired.kto, beta=0.1)
    term = recipe.term(views.responses, loss, metrics=ref(preference.unpaired, beta=loss.get_ref("beta")))
    return base.stage(
        "kto",
        args,
        kind="unpaired",
        recipe_of_data={"mismatched": True},
        objective={"kto": term},
        steps=200,
        learning_rate=3e-4,
        reference=True,
    )

"""AFT (Wang et al., 2023): scores of wrong solutions stay below right ones, but within a boundary.

python -m experiments.train --config=configs/preference/aft.py:runlocal --workdir=runs/aft
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.losses.preference import candidates, listwise
from prefjax.views import language


def get_config(arg: str | None = None) -> ConfigDict:
    return base.listwise(
        "aft",
        arg,
        ref(candidates.aft, beta=0.2),
        reference=False,
        more={"best": recipe.term(language.lists, listwise.best_nll)},
    )

"""RRHF (Yuan et al., 2023): length-normalised log-probs ranked by a hinge, plus the likelihood of the best.

python -m experiments.train --config=configs/preference/rrhf.py:runlocal --workdir=runs/rrhf
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.losses.preference import listwise
from prefjax.views import language


def get_config(arg: str | None = None) -> ConfigDict:
    return base.listwise(
        "rrhf", arg, listwise.rrhf, reference=False, more={"best": recipe.term(language.lists, listwise.best_nll)}
    )

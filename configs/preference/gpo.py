"""General preference optimisation (Zhang et al., 2024): log-ratios regressed on preference scores.

python -m experiments.train --config=configs/preference/gpo.py:runlocal --workdir=runs/gpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses import general_preference
from prefjax.views import language


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "gpo",
        arg,
        ref(general_preference.gpo, beta=0.1),
        view=language.responses,
        kind="lists",
        rewrite=rewrite.contested_singles,
        reference=True,
    )

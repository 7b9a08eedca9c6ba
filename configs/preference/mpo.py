"""MPO (Wang et al., 2024): DPO, BCO on each response, and supervised tuning, added.

python -m experiments.train --config=configs/preference/mpo.py:runlocal --workdir=runs/mpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.losses.preference import paired, unary
from prefjax.views import language


def get_config(arg: str | None = None) -> ConfigDict:
    more = {
        "quality": recipe.term(language.pairs, ref(unary.bco_pair, beta=0.1), coefficient=0.2),
        "generation": base.likelihood(1.0),
    }
    return base.paired("mpo", arg, ref(paired.dpo, beta=0.1), coefficient=0.8, more=more)

"""MAPL with implicit rewards (Sun et al., 2025): a response suits its own prompt, where pairs differ more.

python -m experiments.train --config=configs/preference/mapl.py:runlocal --workdir=runs/mapl
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.data import derive
from prefjax.losses import reward_prompts
from prefjax.losses.preference import paired
from prefjax.views import language


def get_config(arg: str | None = None) -> ConfigDict:
    parts = {"chosen": 0, "rejected": 1, "matching": 0, "mismatched": 2, "weaker_chosen": 2, "weaker_rejected": 3}
    more = {
        name: recipe.term(language.pairs, ref(loss, beta=0.1), parts=parts)
        for name, loss in (("intra", reward_prompts.mapl_intra_dpo), ("inter", reward_prompts.mapl_inter_dpo))
    }
    dpo = ref(paired.dpo, beta=0.1)
    return base.paired("mapl", arg, dpo, options={"parts": parts}, more=more, derive=derive.other_prompts, wide=3)

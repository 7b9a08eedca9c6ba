"""DPO with ties by Davidson (Chen et al., 2024): the odds of a tie follow the two strengths.

python -m experiments.train --config=configs/preference/davidson_dpo.py:runlocal --workdir=runs/davidson_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses.preference import graded


def get_config(arg: str | None = None) -> ConfigDict:
    loss = ref(graded.davidson_dpo, beta=0.1)
    return base.paired("davidson_dpo", arg, loss, rewrite=rewrite.with_ties, world={"ties": "davidson"})

"""MM-DPO (Zhang et al., 2025): the clearer a reward model finds the pair, the larger beta.

python -m experiments.train --config=configs/preference/mm_dpo.py:runlocal --workdir=runs/mm_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import multi_objective


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("mm_dpo", arg, ref(multi_objective.mm_dpo, beta=0.1))

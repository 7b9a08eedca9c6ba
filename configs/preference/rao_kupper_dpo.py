"""DPO with ties by Rao and Kupper (Chen et al., 2024): responses closer than a threshold are judged equal.

python -m experiments.train --config=configs/preference/rao_kupper_dpo.py:runlocal --workdir=runs/rao_kupper_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses.preference import graded


def get_config(arg: str | None = None) -> ConfigDict:
    loss = ref(graded.rao_kupper_dpo, beta=0.1)
    return base.paired("rao_kupper_dpo", arg, loss, rewrite=rewrite.with_ties, world={"ties": "rao_kupper"})

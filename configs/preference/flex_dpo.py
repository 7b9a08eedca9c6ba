"""Flex-DPO (Yan et al., 2024): a beta for each response, so that the rejected one falls more slowly.

python -m experiments.train --config=configs/preference/flex_dpo.py:runlocal --workdir=runs/flex_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import flexible


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("flex_dpo", arg, ref(flexible.flex_dpo, beta_chosen=0.1, beta_rejected=0.05))

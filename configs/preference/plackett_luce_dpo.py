"""Plackett-Luce DPO (Rafailov et al., 2023, appendix): DPO on the whole ranking of K responses.

python -m experiments.train --config=configs/preference/plackett_luce_dpo.py:runlocal --workdir=runs/plackett_luce_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import listwise


def get_config(arg: str | None = None) -> ConfigDict:
    return base.listwise("plackett_luce_dpo", arg, ref(listwise.plackett_luce_dpo, beta=0.1))

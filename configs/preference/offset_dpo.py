"""ODPO (Amini et al., 2024): DPO whose margin must exceed the difference of the annotator's utilities.

python -m experiments.train --config=configs/preference/offset_dpo.py:runlocal --workdir=runs/offset_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import graded


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("offset_dpo", arg, ref(graded.offset_dpo, beta=0.1))

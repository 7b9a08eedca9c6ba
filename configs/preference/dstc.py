"""DSTC (Liu et al., 2024): DPO on self-generated code and tests, the pair chosen by minimax selection.

python -m experiments.train --config=configs/preference/dstc.py:runlocal --workdir=runs/dstc
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses.preference import paired


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired(
        "dstc",
        arg,
        ref(paired.dpo, beta=0.1),
        kind="prompts",
        rewrite=rewrite.dstc,
        world={"tasks": ("infer",), "length": (2, 3)},
        wide=2,
    )

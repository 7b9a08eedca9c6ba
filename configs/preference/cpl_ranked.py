"""Contrastive preference learning from scored segments (Hejna et al., 2023): every pair of the batch.

python -m experiments.train --config=configs/preference/cpl_ranked.py:runlocal --workdir=runs/cpl_ranked
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses import segments
from prefjax.views import language


def get_config(arg: str | None = None) -> ConfigDict:
    return base.single(
        "cpl_ranked",
        arg,
        ref(segments.cpl_ranked, alpha=0.1, bias=0.5),
        view=language.responses,
        kind="sft",
        bind={"segment_returns": "gold"},
    )

"""Prefer-to-classify (Kim et al., 2023): a classifier that also learns which of two texts is the clearer case.

python -m experiments.train --config=configs/preference/p2c.py:runlocal --workdir=runs/p2c
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import derive
from prefjax.losses.preference import auxiliary
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    classes, heads = 2, 3
    return base.single(
        "p2c",
        arg,
        ref(auxiliary.p2c, diversity_weight=0.1),
        view=rewards.classified_pairs,
        options={"classes": classes},
        kind="unpaired",
        derive=derive.same_class,
        outputs=classes + heads,
        learning_rate=1e-3,
    )

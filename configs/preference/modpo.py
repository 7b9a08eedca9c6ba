"""MODPO (Zhou et al., 2023): one objective's pairs, the others as margins of frozen rewards.

python -m experiments.train --config=configs/preference/modpo.py:runlocal --workdir=runs/modpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses.preference import multi_objective


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired(
        "modpo",
        arg,
        ref(multi_objective.modpo, beta=0.1, objective_weight=0.5),
        rewrite=rewrite.attributes,
        options={
            "stacks": {"margin_rewards": ("brevity", "politeness")},
            "constants": {"margin_weights": (0.25, 0.25)},
        },
        world={"annotators": "strict"},
    )

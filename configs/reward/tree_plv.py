"""Tree-PLV (He et al., 2024): a verifier that prefers the better of two sibling steps.

python -m experiments.train --config=configs/reward/tree_plv.py:runlocal --workdir=runs/tree_plv
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_process
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "tree_plv", arg, reward_process.tree_plv, view=rewards.siblings, kind="siblings", world={"whole": False}
    )

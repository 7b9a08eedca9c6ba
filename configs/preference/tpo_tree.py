"""TPO on trees (Liao et al., 2024): a ranking loss on whole lists of solutions, tokens weighted by their steps.

python -m experiments.train --config=configs/preference/tpo_tree.py:runlocal --workdir=runs/tpo_tree
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import treelists


def get_config(arg: str | None = None) -> ConfigDict:
    return base.listwise("tpo_tree", arg, ref(treelists.tpo_tree, beta=0.1))

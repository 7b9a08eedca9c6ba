"""DPO on siblings of a tree search, labels smoothed by how often each was visited (Xie et al., 2024).

python -m experiments.train --config=configs/preference/mcts_dpo.py:runlocal --workdir=runs/mcts_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import stepwise


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("mcts_dpo", arg, ref(stepwise.mcts_dpo, beta=0.1), kind="siblings")

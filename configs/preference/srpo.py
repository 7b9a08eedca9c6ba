"""SRPO (Choi et al., 2024): a policy that also learns to revise, on one pair.

python -m experiments.train --config=configs/preference/srpo.py:runlocal --workdir=runs/srpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import derive
from prefjax.losses.preference import games


def get_config(arg: str | None = None) -> ConfigDict:
    roles = ("chosen", "rejected", "improved", "worsened", "kept_chosen", "kept_rejected")
    return base.paired(
        "srpo",
        arg,
        ref(games.srpo, beta=0.1, alpha=0.5),
        derive=derive.revisions,
        options={"parts": {role: k for k, role in enumerate(roles)}},
        wide=3,
    )

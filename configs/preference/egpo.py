"""EGPO (Zhou et al., 2025): online IPO on win rates, with extragradient steps.

python -m experiments.train --config=configs/preference/egpo.py:runlocal --workdir=runs/egpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.data import rewrite
from prefjax.losses.preference import games
from prefjax.optim import extragradient
from prefjax.views import judges


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg)
    return base.paired(
        "egpo",
        args,
        ref(games.online_ipo, beta=0.1),
        view=judges.curriculum,
        options={"every": 100},
        kind="lists",
        rewrite=rewrite.contests,
        optimizer=ref(extragradient.adamw, learning_rate=3e-4 if args.data == "gold" else 1e-4),
    )

"""General preference model (Zhang et al., 2024): embeddings whose turn decides, so that cycles can be fitted.

python -m experiments.train --config=configs/reward/gpm.py:runlocal --workdir=runs/gpm
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses import general_preference
from prefjax.metrics import general
from prefjax.rewards import gpm
from prefjax.views import learned


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model(
        "gpm",
        arg,
        ref(general_preference.gpm, tau=0.1),
        view=learned.gpm,
        kind="cycles",
        outputs=0,
        learned={"gpm": ref(gpm.init, planes=2)},
        metrics=general.preference_model,
    )

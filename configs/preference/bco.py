"""BCO (Jung et al., 2024): single responses classified by implicit rewards, shifted by their running mean.

python -m experiments.train --config=configs/preference/bco.py:runlocal --workdir=runs/bco
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import train
from prefjax.config import ref
from prefjax.losses.preference import unary
from prefjax.metrics import running


def get_config(arg: str | None = None) -> ConfigDict:
    loss = ref(unary.bco, beta=0.1)
    return base.unpaired(
        "bco",
        arg,
        loss,
        bind={"shift": "reward_shift"},
        metrics=ref(running.bco, beta=loss.get_ref("beta")),
        carry=ref(train.running, name="reward_shift"),
        refresh=ref(train.running_mean, name="reward_shift", metric="rewards/mean"),
    )

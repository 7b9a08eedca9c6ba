"""Step-DPO (Lai et al., 2024): DPO on the step at which a wrong solution leaves the right one.

python -m experiments.train --config=configs/preference/step_dpo.py:runlocal --workdir=runs/step_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import tokenwise


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("step_dpo", arg, ref(tokenwise.step_dpo, beta=0.4), kind="siblings")

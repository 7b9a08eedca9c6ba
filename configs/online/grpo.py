"""GRPO (Shao et al., 2024) on a reward that a program verifies: advantages within groups of responses to one prompt.

python -m experiments.rollout --config=configs/online/grpo.py:runlocal --workdir=runs/grpo
python -m experiments.rollout --config=configs/online/grpo.py:init=runs/sft --workdir=runs/grpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.online import base
from prefjax import recipe
from prefjax.losses import policy
from prefjax.views import policy as views


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg)
    return base.stage("grpo", args, objective={"grpo": recipe.term(views.rollouts, policy.grpo)}, reference=False)

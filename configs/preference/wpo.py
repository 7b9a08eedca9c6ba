"""WPO (Zhou et al., 2024): DPO in which pairs count as much as the policy would have written them.

python -m experiments.train --config=configs/preference/wpo.py:runlocal --workdir=runs/wpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import paired
from prefjax.weights import preference as weights


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("wpo", arg, ref(paired.dpo, beta=0.1), weight=weights.wpo)

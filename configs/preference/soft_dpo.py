"""DPO on soft labels: how sure the annotator was of the preference (conservative DPO; Mitchell, 2023).

python -m experiments.train --config=configs/preference/soft_dpo.py:runlocal --workdir=runs/soft_dpo
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import graded


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg)
    bind = {"preference_probs": "probability"} if args.data == "gold" else {}
    return base.paired("soft_dpo", args, ref(graded.soft_dpo, beta=0.1), bind=bind)

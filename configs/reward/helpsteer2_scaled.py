"""HelpSteer2-Preference (Wang et al., 2024): Bradley-Terry scaled by how strong the preference is.

python -m experiments.train --config=configs/reward/helpsteer2_scaled.py:runlocal --workdir=runs/helpsteer2_scaled
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.losses import reward_pairs


def get_config(arg: str | None = None) -> ConfigDict:
    return base.reward_model("helpsteer2_scaled", arg, reward_pairs.scaled_bradley_terry)

"""A loss from a sentence of logic (Richardson et al., 2024): the default formula, conditions and link are DPO's.

python -m experiments.train --config=configs/preference/semantic_loss.py:runlocal --workdir=runs/semantic_loss
python -m experiments.train --config=configs/preference/semantic_loss.py --workdir=runs/other \\
    --config.objective.semantic_loss.loss.link=hinge
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import logic


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("semantic_loss", arg, ref(logic.semantic_loss_with_reference, beta=0.1))

"""SCIR (Zhou et al., 2025): DPO where the implicit reward and the model's own judge agree.

python -m experiments.train --config=configs/preference/scir.py:runlocal --workdir=runs/scir
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import consistency
from prefjax.views import judges


def get_config(arg: str | None = None) -> ConfigDict:
    loss = ref(consistency.scir, beta=0.1)
    view = {"view": judges.internal_judges, "options": {"beta": loss.get_ref("beta")}}
    return base.paired("scir", arg, loss, **view, outputs=1)

"""SLiC's hinge on the margin of implicit rewards (Zhao et al., 2023; with a reference Liu et al., 2023).

python -m experiments.train --config=configs/preference/slic.py:runlocal --workdir=runs/slic
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import hinge


def get_config(arg: str | None = None) -> ConfigDict:
    return base.paired("slic", arg, ref(hinge.slic, beta=0.1))

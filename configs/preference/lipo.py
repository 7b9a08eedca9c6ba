"""LiPO (Liu et al., 2024): preference optimisation as learning to rank; `form` chooses the ranking loss.

python -m experiments.train --config=configs/preference/lipo.py:runlocal --workdir=runs/lipo
python -m experiments.train --config=configs/preference/lipo.py:form=softmax --workdir=runs/lipo_softmax
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import lipo
from prefjax.ops import options


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, form="lambda")
    forms = {
        "lambda": ref(lipo.lipo_lambda, beta=0.05),
        "pairs": ref(lipo.lipo_pairs, beta=0.05),
        "hinge": ref(lipo.lipo_pairs, beta=0.05, form="hinge"),
        "softmax": ref(lipo.lipo_softmax, beta=0.05),
        "points": ref(lipo.lipo_points, beta=0.05),
    }
    return base.listwise("lipo", args, options.choose(forms, form=args.form))

"""SPO (Li et al., 2024): DPO, and telling how many key tokens were taken away from a response.

python -m experiments.train --config=configs/preference/spo_degree.py:runlocal --workdir=runs/spo_degree
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.data import derive
from prefjax.losses.preference import auxiliary, paired
from prefjax.views import rewards


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, degrees=3)
    more = {"degree": recipe.term(rewards.degrees, auxiliary.spo_degree, coefficient=0.1)}
    return base.paired(
        "spo_degree",
        args,
        ref(paired.dpo, beta=0.1),
        more=more,
        derive=ref(derive.thinned, degrees=args.degrees),
        outputs=args.degrees,
        wide=2,
    )

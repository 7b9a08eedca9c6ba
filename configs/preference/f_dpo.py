"""f-DPO (Wang et al., 2023): other divergences to the reference than the reverse KL.

python -m experiments.train --config=configs/preference/f_dpo.py:runlocal --workdir=runs/f_dpo
python -m experiments.train --config=configs/preference/f_dpo.py:divergence=forward_kl --workdir=runs/forward_kl
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax.config import ref
from prefjax.losses.preference import divergence


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, divergence="jensen_shannon")
    loss = ref(divergence.f_dpo, beta=0.1, divergence=args.divergence)
    return base.paired("f_dpo", args, loss)

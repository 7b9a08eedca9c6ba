"""DPO with low-rank adapters (Hu et al., 2021): the frozen model is the reference, of which there is one copy.

python -m experiments.train --config=configs/preference/dpo_lora.py:runlocal --workdir=runs/dpo_lora
python -m experiments.train --config=configs/preference/dpo_lora.py:init=runs/sft,quantize=nf4 --workdir=runs/qlora \\
    --config.model.rank=16
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from prefjax import recipe
from prefjax.config import ref
from prefjax.losses.preference import paired
from prefjax.metrics import preference
from prefjax.models import lora
from prefjax.views import adapted
from prefjax.views import language as views


def get_config(arg: str | None = None) -> ConfigDict:
    args = base.arguments(arg, quantize="")
    loss = ref(paired.dpo, beta=0.1)
    metrics = ref(preference.paired, beta=loss.get_ref("beta"))
    term = recipe.term(adapted.adapted, loss, metrics=metrics, inner=ref(views.pairs))
    config = base.stage(
        "dpo_lora",
        args,
        kind="pairs",
        objective={"dpo": term},
        steps=200 if args.data == "gold" else 100,
        learning_rate=2e-3,
        rules=ref(lora.rules),
    )
    whole = config.model
    config.model = ref(lora.adapted, base=whole, targets=lora.TARGETS, quantize=args.quantize or None)
    return config

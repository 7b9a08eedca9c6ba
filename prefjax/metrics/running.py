"""Metrics that a refresh follows over a run."""

from __future__ import annotations

import functools

from jax.typing import ArrayLike

from prefjax.metrics import preference


def bco(*, beta: ArrayLike = 0.1) -> preference.Metrics:
    """`preference.unpaired`, and rewards/mean: the implicit reward of all responses, whose running mean shifts BCO.

    With `train.running_mean` the mean is that of all batches before this one; the paper and TRL up to 0.28 count the
    present batch as well.
    """
    mean = functools.partial(preference.implicit_rewards, beta=beta)
    return {**preference.unpaired(beta=beta), "rewards/mean": mean}

"""Initial values of arrays that are learned beside a model and that a loss takes by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cutpoint_gaps(key: jax.Array, *, levels: int = 2) -> jax.Array:
    """[levels] zeros: cutpoints of `losses.reward_pairs.ordinal` that start log 2 apart."""
    del key
    return jnp.zeros(levels)


def prototypes(key: jax.Array, *, features: int, count: int = 8) -> jax.Array:
    """[count, features] cluster centres of `losses.reward_contrast.swav_reward`, normal."""
    return jax.random.normal(key, (count, features))

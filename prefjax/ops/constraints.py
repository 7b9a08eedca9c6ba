"""How a Lagrange multiplier, learned without bounds, weighs a constraint."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from prefjax.ops import numerics, options

Form = Literal["sigmoid", "tanh", "linear"]


def multiplier_weights(multipliers: jax.Array, form: str) -> jax.Array:
    """[C] -> [C] weights: "sigmoid" in (0, 1), reward >= threshold; "tanh" in (-1, 1), reward = threshold; "linear"."""
    forms = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "linear": numerics.as_float}
    return options.choose(forms, form=form)(numerics.as_float(multipliers))

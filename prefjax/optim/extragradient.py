"""Extragradient: look ahead, take the gradient there, and step from where one was."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from prefjax.optim import recipes


class ExtragradientState(NamedTuple):
    """Whether the parameters are looked ahead, where they were before, and the inner optimiser's state."""

    ahead: jax.Array
    anchor: optax.Params
    inner: optax.OptState


def extragradient(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Two updates in a row are one extragradient step of `tx`.

    The first moves theta_t to theta_{t+1/2} = theta_t + tx(g(theta_t)) without touching the state of `tx`; the second
    returns to theta_t and moves to theta_{t+1} = theta_t + tx(g(theta_{t+1/2})). Evaluate and save after an even
    number of updates.

    Args:
      tx: the optimiser of each half; it must be given the parameters.
    Returns: optax.GradientTransformation.
    Reference: Zhou, Fazel, Du, "Extragradient Preference Optimization (EGPO): Beyond Last-Iterate Convergence for Nash
      Learning from Human Feedback", 2025, arXiv:2503.08942. Reported: the two phases of zhourunlong/EGPO
      lms/trainers/extragradient_trainer.py.
    """

    def init(params: optax.Params) -> ExtragradientState:
        return ExtragradientState(jnp.zeros((), bool), jax.tree.map(jnp.array, params), tx.init(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ExtragradientState]:
        if params is None:
            raise ValueError("extragradient: update needs params, for it returns to where they were")

        def pick(if_ahead, otherwise):
            return jax.tree.map(lambda a, b: jnp.where(state.ahead, a, b), if_ahead, otherwise)

        anchor = pick(state.anchor, params)
        move, inner = tx.update(updates, state.inner, anchor)
        back = jax.tree.map(lambda a, p: a - p, anchor, params)
        move = jax.tree.map(lambda m, b: m + b.astype(m.dtype), move, back)
        return move, ExtragradientState(~state.ahead, anchor, pick(inner, state.inner))

    return optax.GradientTransformation(init, update)


def adamw(*, total_steps: int, learning_rate: float = 3e-4) -> optax.GradientTransformation:
    """Extragradient steps of `recipes.adamw`, for a config; an even number of steps ends a whole one."""
    return extragradient(recipes.adamw(total_steps=total_steps, learning_rate=learning_rate))

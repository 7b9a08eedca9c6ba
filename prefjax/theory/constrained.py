"""The best policy of a bandit whose second reward must reach a threshold."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.ops import numerics
from prefjax.theory import preference


class Constrained(NamedTuple):
    """Log-probs [Y] of the optimum and its multiplier, 0 where the constraint does not bind."""

    logps: jax.Array
    multiplier: jax.Array


def constrained_optimum(
    ref_logps: jax.Array,
    rewards: jax.Array,
    constraint_rewards: jax.Array,
    threshold: ArrayLike,
    *,
    beta: ArrayLike,
    steps: int = 100,
) -> Constrained:
    """argmax E[r] - beta KL(pi || ref) subject to E[r_con] >= threshold: ref exp((r + lambda r_con) / beta) / Z.

    lambda >= 0 and lambda (E[r_con] - threshold) = 0. For a threshold that no policy reaches lambda ends at its cap.

    Args:
      ref_logps, rewards, constraint_rewards: [Y]. threshold: below max r_con. beta: > 0.
      steps: of bisection of lambda / (1 + lambda).
    Returns: Constrained.
    Reference: Moskovitz et al., "Confronting Reward Model Overoptimization with Constrained RLHF", 2023,
      arXiv:2310.04373; Classical (Karush, 1939; Kuhn and Tucker, 1951).
    """
    rewards, extra = numerics.as_float(rewards), numerics.as_float(constraint_rewards)

    def policy(share: jax.Array) -> jax.Array:
        return preference.optimal_policy(ref_logps, rewards + share / (1 - share) * extra, beta=beta)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        short = jnp.exp(policy(middle)) @ extra < threshold
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    zero = jnp.zeros((), rewards.dtype)
    low, high = jax.lax.fori_loop(0, steps, halve, (zero, jnp.full_like(zero, 1 - 1e-6)))
    share = jnp.where(jnp.exp(policy(zero)) @ extra >= threshold, 0, (low + high) / 2)
    return Constrained(policy(share), share / (1 - share))

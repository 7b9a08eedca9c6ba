"""The multipliers' side of constrained reinforcement learning from several rewards."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prefjax.ops import constraints, numerics, shapes


def lagrange(
    constraint_returns: jax.Array,
    multipliers: jax.Array,
    thresholds: jax.Array,
    *,
    form: constraints.Form = "sigmoid",
) -> jax.Array:
    """The loss of Lagrange multipliers: sum_c w(mu_c) (R_c - theta_c), minimised in mu.

    The weight of a component falls once its reward exceeds its threshold, and rises below it.

    Args:
      constraint_returns: [B, C] reward R_c of each component; no gradient flows.
      multipliers: [C] mu, unbounded. thresholds: [C] theta; no gradient flows.
      form: w: "sigmoid", for R >= theta (mu-PPO); "tanh", of either sign, for R = theta (xi-PPO); "linear".
    Returns: [B]. Raises: ValueError if shapes differ or `form` is unknown.
    `optim.multipliers.dual_step` takes its gradient step on a carried state.
    Reference: Moskovitz et al., "Confronting Reward Model Overoptimization with Constrained RLHF", 2023,
      arXiv:2310.04373. Confirmed: tedmoskovitz/ConstrainedRL4LMs
      rl4lms/algorithms/constrained_ppo/constrained_ppo.py.
    """
    shapes.same_shape(ndim=1, multipliers=multipliers, thresholds=thresholds)
    if jnp.ndim(constraint_returns) != 2 or jnp.shape(constraint_returns)[1:] != jnp.shape(multipliers):
        raise ValueError(
            f"constraint_returns has shape {list(jnp.shape(constraint_returns))}; expected [B, C] with the C of "
            f"multipliers and thresholds, {list(jnp.shape(multipliers))}"
        )
    excess = jax.lax.stop_gradient(numerics.as_float(constraint_returns) - numerics.as_float(thresholds))
    return jnp.sum(constraints.multiplier_weights(multipliers, form) * excess, axis=1)

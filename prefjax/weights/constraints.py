"""How several rewards' advantages become one, by Lagrange multipliers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prefjax.ops import constraints, numerics


def mixed_advantages(
    advantages: jax.Array,
    constraint_advantages: jax.Array,
    multipliers: jax.Array,
    *,
    form: constraints.Form = "sigmoid",
) -> jax.Array:
    """A = (C - sum_c w_c) A_task + sum_c w_c A_c for bounded weights w = w(mu), A_task + sum_c w_c A_c for "linear".

    One constraint: (1 - w) A_task + w A_con; w = 0 is the task alone. mu-PPO and xi-PPO put every reward model under a
    constraint, and the KL term alone in the place of the task. all-PPO holds rewards below their thresholds: give it
    the sum of all as the task, with -A_c, -R_c and -theta_c.

    Args:
      advantages: [...] of the task's reward, such as [B, T]. constraint_advantages: [C, ...] of each component's.
      multipliers: [C] mu, unbounded; no gradient flows through any argument.
      form: w, "sigmoid", "tanh" or "linear" (`losses.policy_constrained.lagrange`).
    Returns: [...], for `ppo_clip`. Raises: ValueError if shapes differ or `form` is unknown.
    Reference: Moskovitz et al., "Confronting Reward Model Overoptimization with Constrained RLHF", 2023,
      arXiv:2310.04373. Confirmed: tedmoskovitz/ConstrainedRL4LMs
      rl4lms/algorithms/constrained_ppo/constrained_ppo.py.
    """
    count = jnp.shape(multipliers)
    if jnp.shape(constraint_advantages) != (*count, *jnp.shape(advantages)) or len(count) != 1:
        raise ValueError(
            f"constraint_advantages has shape {list(jnp.shape(constraint_advantages))}; expected [C, ...] of "
            f"multipliers {list(count)} and advantages {list(jnp.shape(advantages))}"
        )
    weights = constraints.multiplier_weights(multipliers, form)
    task = 1.0 if form == "linear" else count[0] - jnp.sum(weights)
    mixed = task * numerics.as_float(advantages) + jnp.tensordot(weights, numerics.as_float(constraint_advantages), 1)
    return jax.lax.stop_gradient(mixed)

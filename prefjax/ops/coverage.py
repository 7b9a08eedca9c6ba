"""The chance that at least one of N independent samples hits, from the log-probability of one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.ops import numerics


def log_coverage(logps: ArrayLike, samples: ArrayLike) -> jax.Array:
    """log(1 - (1 - p)^N), p = exp(logps), to rounding for p from 0 (in logarithms: logps of -1e4) to 1.

    Small p: with u = -N log(1 - p) it is log N + log p + log(-log(1 - p) / p) + log((1 - exp(-u)) / u), whose last two
    terms vanish with p and come from their series. Large p: twice `log1mexp`.

    Args:
      logps: any shape, nats <= 0. samples: N >= 1, a scalar or of that shape.
    """
    logps, samples = numerics.as_float(logps), jnp.asarray(samples)
    large = logps > -1.0
    # Each branch sees a harmless argument where the other is taken.
    inner = samples * numerics.log1mexp(jnp.where(large, logps, -1.0))
    near = numerics.log1mexp(inner)
    log_p = jnp.where(large, -2.0, logps)
    p = jnp.exp(log_p)
    safe = jnp.where(p < 1e-3, 0.5, p)
    log_hazard = jnp.where(p < 1e-3, p / 2 + 5 * p**2 / 24 + p**3 / 8, jnp.log(-jnp.log1p(-safe) / safe))
    u = samples * -jnp.log1p(-p)
    some = u > 1e-2
    ratio = -jnp.expm1(-jnp.where(some, u, 1.0)) / jnp.where(some, u, 1.0)
    shrinkage = jnp.where(some, jnp.log(ratio), -u / 2 + u**2 / 24 - u**4 / 2880)
    return jnp.where(large, near, jnp.log(samples) + log_p + log_hazard + shrinkage)


def gradient_factor(logps: ArrayLike, samples: ArrayLike) -> jax.Array:
    """N p (1 - p)^(N - 1) / (1 - (1 - p)^N), the slope of `log_coverage` in logps, in [0, 1]; no gradient flows."""
    logps, samples = numerics.as_float(logps), jnp.asarray(samples)
    missing = (samples - 1) * numerics.log1mexp(logps)
    log_factor = jnp.log(samples) + logps + missing - log_coverage(logps, samples)
    return jax.lax.stop_gradient(jnp.exp(jnp.minimum(log_factor, 0)))

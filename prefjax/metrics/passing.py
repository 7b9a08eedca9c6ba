"""pass@N: the chance that one of N answers is right, from its probability or from samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.ops import numerics


def coverage(probabilities: ArrayLike, *, samples: ArrayLike) -> jax.Array:
    """1 - (1 - p)^N, elementwise.

    Args:
      probabilities: [...] in [0, 1], chance that one sample is right. samples: >= 1, N.
    Returns: [...] in [0, 1].
    Reference: Chen et al., "Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence Improves
      Mathematical Reasoning", 2025, arXiv:2502.07154.
    """
    p = numerics.as_float(probabilities)
    inside = p < 1
    hazard = jnp.log1p(-jnp.where(inside, p, 0)) * jnp.asarray(samples)
    return jnp.where(inside, -jnp.expm1(hazard), 1)


def pass_at_k(right: ArrayLike, drawn: ArrayLike, *, k: int) -> jax.Array:
    """The unbiased estimate of pass@k from n samples of which c are right: 1 - C(n - c, k) / C(n, k).

    Args:
      right: [...] int, c. drawn: [...] int, n >= k. k: >= 1.
    Returns: [...] in [0, 1]. `1 - (1 - c / n)^k` in its place is biased downwards.
    Raises: ValueError if k < 1.
    Reference: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, arXiv:2107.03374, eq. 1.
    """
    if k < 1:
        raise ValueError(f"pass_at_k: k={k} must be at least 1")
    wrong, drawn = numerics.as_float(drawn) - numerics.as_float(right), numerics.as_float(drawn)
    steps = jnp.arange(k)
    # The chance that k draws without replacement are all wrong, draw by draw.
    factors = jnp.maximum(wrong[..., None] - steps, 0) / jnp.maximum(drawn[..., None] - steps, 1)
    return 1 - jnp.prod(factors, axis=-1)

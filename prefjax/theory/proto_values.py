"""Successor measures and proto-value functions of a finite Markov chain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.ops import numerics


def successor(transitions: jax.Array, *, gamma: ArrayLike) -> jax.Array:
    """[S, S] (I - gamma P)^-1: discounted expected visits to each state from each; times 1_S it is a set's measure.

    Reference: Classical (Dayan, 1993); Farebrother et al., "Proto-Value Networks: Scaling Representation Learning with
      Auxiliary Tasks", 2023, arXiv:2304.12567.
    """
    p = numerics.as_float(transitions)
    return jnp.linalg.inv(jnp.eye(p.shape[0], dtype=p.dtype) - gamma * p)


def proto_value_functions(transitions: jax.Array, *, count: int) -> jax.Array:
    """[S, count] eigenvectors of a symmetric P, the constant one left out, by falling eigenvalue: the smoothest first.

    Args:
      transitions: [S, S] symmetric, rows of sum 1, of a connected chain. count: less than S.
    Reference: Classical (Mahadevan and Maggioni, 2007); Farebrother et al., "Proto-Value Networks: Scaling
      Representation Learning with Auxiliary Tasks", 2023, arXiv:2304.12567.
    """
    vectors = jnp.linalg.eigh(numerics.as_float(transitions))[1]
    return vectors[:, ::-1][:, 1 : count + 1]


def principal_features(values: jax.Array, *, count: int) -> jax.Array:
    """[S, K] values of K tasks -> [S, count] left singular vectors, after every task's mean over states is taken off.

    Reference: Farebrother et al., "Proto-Value Networks: Scaling Representation Learning with Auxiliary Tasks", 2023,
      arXiv:2304.12567.
    """
    values = numerics.as_float(values)
    return jnp.linalg.svd(values - jnp.mean(values, axis=0), full_matrices=False)[0][:, :count]


def largest_angle(first: jax.Array, second: jax.Array) -> jax.Array:
    """Largest principal angle, radians, between the spans of two matrices [S, d] of orthonormal columns.

    Reference: Classical (Jordan, 1875).
    """
    cosines = jnp.linalg.svd(first.T @ second, compute_uv=False)
    return jnp.arccos(jnp.clip(jnp.min(cosines), -1, 1))


def path(size: int) -> jax.Array:
    """[S, S] symmetric random walk on a path that stays put at its two ends, so that no eigenvalue is double."""
    steps = jnp.eye(size, k=1) + jnp.eye(size, k=-1)
    ends = jnp.zeros(size).at[jnp.array([0, -1])].set(1)
    return (steps + jnp.diag(ends)) / 2

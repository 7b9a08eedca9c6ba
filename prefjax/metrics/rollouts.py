"""What one watches while learning from samples: scores, KL to the reference, ratios to the policy that sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.ops import divergences, masked, returns
from prefjax.ops.masked import Mean


def scores(scores: jax.Array) -> jax.Array:
    """[B] what the responses were scored."""
    return scores


def kl(token_logps: jax.Array, ref_token_logps: jax.Array, token_mask: jax.Array) -> jax.Array:
    """[B] k3 estimate of KL(policy || reference), nats a response."""
    return masked.sum(divergences.k3(token_logps, ref_token_logps), token_mask, axis=1)


def policy_shift(token_logps: jax.Array, old_token_logps: jax.Array, token_mask: jax.Array) -> Mean:
    """k3 estimate of KL(policy || the one that sampled), nats a token; 0 in the first step of a round."""
    return Mean.of(divergences.k3(token_logps, old_token_logps), token_mask)


def clip_fraction(
    token_logps: jax.Array,
    old_token_logps: jax.Array,
    token_mask: jax.Array,
    *,
    clip_low: ArrayLike = 0.2,
    clip_high: ArrayLike = 0.2,
) -> Mean:
    """Share of tokens whose ratio left [1 - clip_low, 1 + clip_high]."""
    ratios = jnp.exp(returns.token_log_ratios(token_logps, old_token_logps, where=token_mask))
    return Mean.of((ratios < 1 - jnp.asarray(clip_low)) | (ratios > 1 + jnp.asarray(clip_high)), token_mask)


def policy() -> Mapping[str, Callable[..., jax.Array | Mean]]:
    """scores, policy_shift, clip_fraction."""
    return {"scores": scores, "policy_shift": policy_shift, "clip_fraction": clip_fraction}

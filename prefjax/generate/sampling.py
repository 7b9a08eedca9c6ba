"""Transforms of next-token logits [..., V]: each a pure function that shapes or cuts the distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def with_temperature(logits: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """logits / temperature for temperature > 0; at 0 the logits are left alone (`draw` then takes the largest)."""
    temperature = jnp.asarray(temperature, logits.dtype)
    return logits / jnp.where(temperature > 0, temperature, 1)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the k largest logits, and any that tie with the k-th; the rest become -inf.

    Source: Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation", 2018, arXiv 1805.04833, section 5.4.
    """
    smallest = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits < smallest, -jnp.inf, logits)


def top_p(logits: jax.Array, p: float | jax.Array) -> jax.Array:
    """Keeps the smallest set of most likely tokens whose probability reaches p, and any that tie with its last.

    The token that crosses p is kept, so at least one always is.
    Source: Holtzman, Buys, Du, Forbes, Choi, "The Curious Case of Neural Text Degeneration", 2019, arXiv 1904.09751.
    """
    ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = (before < p).at[..., 0].set(True)
    smallest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < smallest, -jnp.inf, logits)


def min_p(logits: jax.Array, p: float | jax.Array) -> jax.Array:
    """Keeps the tokens at least p times as likely as the likeliest one.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", 2024,
    arXiv 2407.01082.
    """
    top = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.where(logits < top + jnp.log(jnp.asarray(p, logits.dtype)), -jnp.inf, logits)


def mixture(logits: jax.Array, guide_logits: jax.Array, *, share: float | jax.Array = 0.125) -> jax.Array:
    """(1 - share) log pi + share log guide: the geometric mixture of two policies, Nash-MD's opponent.

    Source: Munos et al., "Nash Learning from Human Feedback", 2023, arXiv 2312.00886, section 7.
    """
    own, other = jax.nn.log_softmax(logits), jax.nn.log_softmax(guide_logits)
    return (1 - jnp.asarray(share)) * own + share * other


def contrast(
    logits: jax.Array, guide_logits: jax.Array, *, strength: float | jax.Array = 1.0, plausible: float | jax.Array = 0.1
) -> jax.Array:
    """Contrastive decoding: log pi + strength (log pi - log amateur) among tokens at least `plausible` times the top.

    Source: Li et al., "Contrastive Decoding: Open-ended Text Generation as Optimization", 2022, arXiv 2210.15097;
    O'Brien, Lewis, "Contrastive Decoding Improves Reasoning in Large Language Models", 2023, arXiv 2309.09117.
    """
    own, amateur = jax.nn.log_softmax(logits), jax.nn.log_softmax(guide_logits)
    cut = min_p(own, plausible)
    return jnp.where(jnp.isfinite(cut), own + jnp.asarray(strength) * (own - amateur), -jnp.inf)


def no_repeat(logits: jax.Array, tokens: jax.Array, step: jax.Array, *, penalty: float | jax.Array = 1.2) -> jax.Array:
    """Divides positive and multiplies negative logits of tokens that were drawn before by `penalty`.

    Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019,
    arXiv 1909.05858, section 4.1.
    """
    before = jnp.arange(tokens.shape[1]) < step
    rows = jnp.broadcast_to(jnp.arange(tokens.shape[0])[:, None], tokens.shape)
    seen = jnp.zeros(logits.shape, bool).at[rows, tokens].max(jnp.broadcast_to(before, tokens.shape))
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def transform(
    logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    k: int | None = None,
    p: float | jax.Array | None = None,
    relative: float | jax.Array | None = None,
) -> jax.Array:
    """Temperature, then top-k, top-p and min-p (`relative`), each on what the one before left; None skips one."""
    logits = with_temperature(logits, temperature)
    logits = logits if k is None else top_k(logits, k)
    logits = logits if p is None else top_p(logits, p)
    return logits if relative is None else min_p(logits, relative)


def draw(keys: jax.Array, logits: jax.Array, temperature: float | jax.Array = 1.0) -> jax.Array:
    """[N] int32: one token a row of `logits` [N, V] with that row's key; the largest logit where temperature is 0."""
    sampled = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.where(jnp.asarray(temperature) > 0, sampled, jnp.argmax(logits, axis=-1)).astype(jnp.int32)

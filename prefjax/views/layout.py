"""Reading the token layout: from values per token [R, T] to values per response [B, K].

A batch holds `tokens, positions, segments, branches` [R, T]. A segment (ids from 1 in each row, 0 is padding) is an
example; branch 0 is its prompt, branches 1..K its responses. `response_mask` [E, S, K] says which responses exist:
E == R with several examples a row when the prompt is shared, E == R / K with one response a row when it is repeated.
Examples are flattened to B = E * S.

A response may begin with context of its own, such as a draft that it revises or another prompt: `context_lengths`
[E, S, K], where a batch has it, counts such tokens. They are seen but not scored.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]

TOKEN_FIELDS = ("tokens", "positions", "segments", "branches")
CONTEXT = "context_lengths"


def slots(batch: Batch) -> tuple[int, int, int, int]:
    """(E, rows an example, S, K), all static."""
    e, s, k = batch["response_mask"].shape
    return e, batch["tokens"].shape[0] // e, s, k


def response_ids(batch: Batch) -> jax.Array:
    """[R, T] index (segment - 1) * K + (branch - 1) of the response a token belongs to; S * K for all other tokens."""
    _, _, s, k = slots(batch)
    segments, branches = batch["segments"], batch["branches"]
    return jnp.where(inside(batch), (segments - 1) * k + branches - 1, s * k)


def inside(batch: Batch) -> jax.Array:
    """[R, T] bool: tokens of responses, the context that a response may begin with among them."""
    return (batch["segments"] > 0) & (batch["branches"] > 0)


def scored(batch: Batch) -> jax.Array:
    """[R, T] bool: tokens of responses, after the context that a response may begin with."""
    e, rows, s, k = slots(batch)
    ids = response_ids(batch)
    if CONTEXT not in batch:
        return inside(batch)
    sizes = jnp.reshape(batch[CONTEXT], (e, s * k))
    sizes = jnp.repeat(jnp.pad(sizes, ((0, 0), (0, 1))), rows, axis=0)
    prompts = (batch["branches"] == 0) & (batch["segments"] > 0)
    prompt_sizes = jax.vmap(lambda x, i: jax.ops.segment_sum(x, i, num_segments=s + 1))(
        prompts.astype(jnp.int32), batch["segments"]
    )
    offsets = batch["positions"] - jnp.take_along_axis(prompt_sizes, batch["segments"], axis=1)
    return inside(batch) & (offsets >= jnp.take_along_axis(sizes, ids, axis=1))


def prompt_sums(values: jax.Array, batch: Batch) -> jax.Array:
    """[R, T] -> [B, K]: the sum over what stands before each response: its prompt, but for the first token (which
    nothing predicts), and its own context."""
    e, rows, s, k = slots(batch)
    segments, branches = batch["segments"], batch["branches"]
    shared = jnp.where((branches == 0) & (segments > 0) & (batch["positions"] > 0), values, 0)
    sums = jax.vmap(lambda x, i: jax.ops.segment_sum(x, i, num_segments=s + 1))(shared, segments)[:, 1:]
    # Where the prompt is repeated, each row holds it once for its one response
    exists = response_sums(jnp.ones_like(values), batch) > 0
    per_row = sums.reshape(e, rows, s).swapaxes(1, 2).reshape(e * s, rows)
    prompts = jnp.broadcast_to(per_row, (e * s, k))
    own = response_sums(jnp.where(scored(batch), 0, values), batch)
    return jnp.where(exists, prompts + own, 0)


def prompt_ends(batch: Batch) -> jax.Array:
    """[R, S + 1] row index of the last token of each segment's prompt, by segment; below 0 where there is none."""
    segments, (_, _, s, _) = batch["segments"], slots(batch)
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    prompt = jnp.where((batch["branches"] == 0) & (segments > 0), index, -1)
    return jax.vmap(lambda x, i: jax.ops.segment_max(x, i, num_segments=s + 1))(prompt, segments)


def predictors(batch: Batch) -> jax.Array:
    """[R, T] row index of the state that predicts each token: the one before, at a branch's start the prompt's last."""
    segments, branches = batch["segments"], batch["branches"]
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    prompt_end = jnp.take_along_axis(prompt_ends(batch), segments, axis=1)
    before = jnp.maximum(index - 1, 0)
    same = jnp.take_along_axis(branches, before, axis=1) == branches
    same &= (jnp.take_along_axis(segments, before, axis=1) == segments) & (index > 0)
    start = jnp.where(branches > 0, prompt_end, index)  # a prompt's first token has no predictor and is never scored
    return jnp.clip(jnp.where(same, before, start), 0, segments.shape[1] - 1)


def predicting(batch: Batch, where: jax.Array) -> jax.Array:
    """[R, T] bool: tokens whose state predicts one of those `where` [R, T] holds."""
    rows = jnp.arange(where.shape[0])[:, None]
    return jnp.zeros(where.shape, bool).at[rows, predictors(batch)].max(where)


def _per_example(values: jax.Array, batch: Batch) -> jax.Array:
    """[R, S * K, ...] -> [B, K, ...]: adds up the rows of an example (each response stands in one of them)."""
    e, rows, s, k = slots(batch)
    values = values.reshape(e, rows, s, k, *values.shape[2:])
    return values.sum(axis=1, dtype=values.dtype).reshape(e * s, k, *values.shape[4:])


def response_sums(values: jax.Array, batch: Batch) -> jax.Array:
    """[R, T] -> [B, K]: the sum over the tokens of each response."""
    _, _, s, k = slots(batch)
    sums = jax.vmap(lambda x, i: jax.ops.segment_sum(x, i, num_segments=s * k + 1))(values, response_ids(batch))
    return _per_example(sums[:, : s * k], batch)


def lengths(batch: Batch) -> jax.Array:
    """[B, K] int32: scored tokens of each response."""
    return response_sums(scored(batch).astype(jnp.int32), batch)


def _starts(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """[R, S * K] first row index and number of tokens of each response in that row."""
    _, _, s, k = slots(batch)
    ids = response_ids(batch)
    index = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    first = jax.vmap(lambda x, i: jax.ops.segment_min(x, i, num_segments=s * k + 1))(index, ids)[:, : s * k]
    count = jax.vmap(lambda i: jax.ops.segment_sum(jnp.ones_like(i), i, num_segments=s * k + 1))(ids)[:, : s * k]
    return jnp.where(count > 0, first, 0), count


def response_tokens(values: jax.Array, batch: Batch, size: int | None = None) -> tuple[jax.Array, jax.Array]:
    """[R, T] -> ([B, K, L], mask [B, K, L]): the values of each response's tokens from its first on; 0 where masked.

    Args:
      values: one value a token.
      batch: the batch.
      size: L; the row length by default. Longer responses would be cut, so it must cover the longest.
    """
    size = values.shape[1] if size is None else size
    first, count = _starts(batch)
    offsets = jnp.arange(size)
    index = jnp.minimum(first[..., None] + offsets, values.shape[1] - 1)
    mask = offsets < count[..., None]
    taken = jnp.take_along_axis(values[:, None, :], index, axis=2)
    return _per_example(jnp.where(mask, taken, 0), batch), _per_example(mask.astype(jnp.int32), batch) > 0


def last_tokens(batch: Batch) -> jax.Array:
    """[R, T] bool: the last token of each response."""
    first, count = _starts(batch)
    columns = jnp.arange(batch["tokens"].shape[1])
    return jnp.any((columns == (first + count - 1)[..., None]) & (count > 0)[..., None], axis=1)


def last_states(hidden: jax.Array, batch: Batch) -> jax.Array:
    """[R, T, D] -> [B, K, D]: the state at the last token of each response, found from lengths alone."""
    first, count = _starts(batch)
    index = jnp.maximum(first + count - 1, 0)
    taken = jnp.take_along_axis(hidden, index[..., None], axis=1)
    return _per_example(jnp.where((count > 0)[..., None], taken, 0), batch)


def prompt_states(hidden: jax.Array, batch: Batch) -> jax.Array:
    """[R, T, D] -> [B, K, D]: the state at the prompt's last token, which predicts each response's first one."""
    first, count = _starts(batch)
    index = jnp.take_along_axis(predictors(batch), first, axis=1)
    taken = jnp.take_along_axis(hidden, index[..., None], axis=1)
    return _per_example(jnp.where((count > 0)[..., None], taken, 0), batch)


def fields(batch: Batch) -> dict[str, jax.Array]:
    """The per-example arrays of a batch, flattened: [E, S, ...] -> [B, ...]."""
    e, _, s, _ = slots(batch)
    return {name: x.reshape(e * s, *x.shape[2:]) for name, x in batch.items() if name not in TOKEN_FIELDS}

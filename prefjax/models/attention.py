"""Masks from the one token layout, and scaled dot-product attention with grouped heads; the backend is picked here."""

from __future__ import annotations

import functools
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jax import lax

from prefjax.models import blockwise, placement, splash
from prefjax.ops import plain
from prefjax.ops.native import attention as native_attention
from prefjax.ops.native import library as native

BACKENDS = ("auto", "plain", "blockwise", "splash", "native", "xla", "cudnn")
BLOCKWISE = 256  # columns from which blocks pay: less work above the diagonal, and no [T, T] array kept
BLOCKWISE_GPU = 2048  # on a GPU, where small products in a loop cost more; set for memory, not measured
_MASKED = -1e30  # finite, so that a row with nothing to see has no NaN; beside any real logit exp gives exactly 0


def layout_mask(segments: jax.Array | None, branches: jax.Array | None, length: int) -> jax.Array:
    """Who attends to whom: same segment, earlier or same column, and a key of the prompt or of one's own branch.

    Args:
      segments: [R, T] int, 0 for padding (which sees itself only); None for one segment.
      branches: [R, T] int, 0 for the prompt; None for branch 0 everywhere.
      length: T.

    Returns:
      bool [R, T, T] (query, key), or [1, T, T] where neither array is given.
    """
    column = jnp.arange(length)
    mask = (column[:, None] >= column[None, :])[None]
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, :, None]
        mask = mask & (same | jnp.eye(length, dtype=bool))
    if branches is not None:
        mask = mask & ((branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :]))
    return mask


def cache_mask(valid: jax.Array, start: jax.Array, length: int) -> jax.Array:
    """Queries in slots start .. start + length - 1 see the valid slots up to their own (and their own, valid or not).

    Args:
      valid: [B, S] bool, slots that hold a real token.
      start: scalar int, slot of the first query.
      length: t, number of queries.

    Returns:
      bool [B, t, S].
    """
    slot = jnp.arange(valid.shape[1])
    query = (start + jnp.arange(length))[:, None]
    return ((slot <= query) & valid[:, None, :]) | (slot == query)


def near(query_positions: jax.Array, key_positions: jax.Array, window: int) -> jax.Array:
    """bool [B, T, S]: the key is less than `window` positions behind the query."""
    return query_positions[:, :, None] - key_positions[:, None, :] < window


def pick(
    backend: str, dtype: jnp.dtype, head_dim: int, softcap: float | None, queries: int, keys: int, causal: bool = False
) -> str:
    """The backend that runs.

    "auto" is for causal rows of BLOCKWISE columns and more, on a CPU, "native" (float32, one device, no soft-cap;
    `prefjax.ops.native`), on a TPU "splash" (float32 or bfloat16, up to `splash.LONGEST` columns, one device or a mesh
    that `placement.on` knows), on both else "blockwise". On a GPU it is cuDNN for rows of any length where that can do
    the work (16 bits, no soft-cap), else "blockwise" for causal rows from BLOCKWISE_GPU columns. It is "plain"
    elsewhere, and always inside `plain.forms`. "blockwise" and "splash" are "plain" where the mask is not causal
    (cached decoding).
    """
    if plain.asked():
        return "plain"
    if backend in ("blockwise", "splash"):
        return backend if causal else "plain"
    if backend != "auto":
        return backend
    device = jax.default_backend()
    if device == "gpu":
        fits = dtype.itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128 and queries % 2 == 0 and keys % 2 == 0
        if softcap is None and fits:
            return "cudnn"
        return "blockwise" if causal and queries >= BLOCKWISE_GPU else "plain"
    if device not in ("cpu", "tpu") or not causal or queries < BLOCKWISE:
        return "plain"
    if device == "tpu":
        return "splash" if splash.usable(dtype, queries, keys) else "blockwise"
    return "native" if softcap is None and dtype == jnp.float32 and native.usable("attention") else "blockwise"


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    backend: str = "auto",
    causal: bool = False,
) -> jax.Array:
    """softmax(softcap(scale q k^T) + mask) v, heads of q in groups that share a head of k and v; softmax in float32.

    Args:
      q: [B, H, T, head_dim]; k, v: [B, KV, S, head_dim] with H a multiple of KV.
      mask: bool [B or 1, T, S], True where the query may attend to the key.
      scale: factor on the logits.
      softcap: c in c tanh(logits / c), before the mask.
      backend: one of BACKENDS; "xla" and "cudnn" (jax.nn.dot_product_attention's) and "native" know no soft-cap;
        "splash" is for TPUs, and interpreted, slowly, elsewhere.
      causal: whether T == S and the mask is False above the diagonal, which "blockwise" and "splash" need.

    Returns:
      [B, H, T, head_dim].

    Raises:
      ValueError: "native" where it cannot run, "splash" for another dtype than float32 and bfloat16.
    """
    chosen = pick(backend, q.dtype, q.shape[-1], softcap, q.shape[2], k.shape[2], causal)
    if chosen == "blockwise":
        return blockwise.attend(q, k, v, mask, scale=scale, softcap=softcap)
    if chosen == "splash":
        return splash.attend(q, k, v, mask, scale=scale, softcap=softcap)
    if chosen == "native":
        if q.dtype != jnp.float32 or softcap is not None or not native.load("attention"):
            raise ValueError(f"native attention needs a C++ compiler, float32 ({q.dtype} given) and no soft-cap")
        return native_attention.attend(q, k, v, mask, scale=scale)
    whole = functools.partial(_attend, scale=scale, softcap=softcap, chosen=chosen)
    # Rows and heads alone the partitioner places well by itself
    if q.shape[2] == k.shape[2] and placement.sequence_cut(q.shape[2]):
        return placement.attention(lambda *args: (whole(*args),), (q,), (k, v), mask, ("queries",))[0]
    return whole(q, k, v, mask)


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, *, scale: float, softcap: float | None, chosen: str
) -> jax.Array:
    batch, heads, length, head_dim = q.shape
    groups, keys = k.shape[1:3]
    if chosen != "plain":
        by_token = [x.swapaxes(1, 2) for x in (q, k, v)]
        kind = cast(Literal["xla", "cudnn"], chosen)
        out = jax.nn.dot_product_attention(
            by_token[0], by_token[1], by_token[2], mask=mask[:, None], scale=scale, implementation=kind
        )
        return out.swapaxes(1, 2)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    # Queries of one group stand in one matrix, so that two batched products do all the work without repeating k or v
    q = q.reshape(batch, groups, heads // groups * length, head_dim)
    logits = lax.dot_general(q, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=wide) * scale
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    logits = logits.reshape(batch, groups, heads // groups, length, keys)
    logits = logits + jnp.where(mask, jnp.zeros((), wide), _MASKED)[:, None, None]
    weights = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1).reshape(batch, groups, -1, 1)
    weights = weights.reshape(batch, groups, -1, keys).astype(v.dtype)
    out = lax.dot_general(weights, v, (((3,), (2,)), ((0, 1), (0, 1))))
    return (out / total).astype(v.dtype).reshape(batch, heads, length, head_dim)

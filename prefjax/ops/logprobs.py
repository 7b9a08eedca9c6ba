"""Log-probabilities of tokens from hidden states, without ever holding logits of [tokens, vocabulary] when chunked.

A small head is plain jax, which in float32 and float64 knows forward mode too. Else tokens go through the head in
chunks (`ops.head_chunks`), a head that devices share or that is large in slices of the vocabulary as well
(`ops.head_slices`), in reverse mode only. Kernels take the place of chunks where there are some: in C++ on one CPU
device in float32 (`ops.native`), in Pallas on TPUs (`ops.head_tpu`) and, forwards, on GPUs (`ops.head_gpu`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.ops import head_chunks, head_gpu, head_slices, head_tpu
from prefjax.ops.head_chunks import Head
from prefjax.ops.native import head as native_head
from prefjax.ops.native import library as native
from prefjax.ops.parted import Parted

NATIVE_WIDTH = 1024  # the widest hidden state for which the kernel in C++ was faster, on a processor without tiles
STATS = ("entropy", "logsumexp", "sum_sq", "mean_logp", "top1")


def token_logps(
    hidden: jax.Array,
    kernel: jax.Array | Parted,
    targets: jax.Array,
    *,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """log softmax(softcap(hidden kernel + bias))[target] of each token, in nats.

    Args:
      hidden: [N, D]; its dtype is that of the products, sums are float32 at least.
      kernel: [D, V], or a device's part of it.
      targets: [N] int; entries outside 0 .. V-1 are clipped, so a masked token may hold anything.
      bias: [V].
      softcap: c in c tanh(logits / c) (Gemma 2).
      chunk: tokens whose logits are alive together; None for `head_chunks.default_chunk(N, V)`.
      where: [N] bool; elsewhere the log-prob is 0 and no gradient flows, whatever `hidden` holds.

    Returns:
      [N] float32 (float64 for float64 `hidden`).

    Raises:
      ValueError: shapes that do not fit, or a chunk below 1.
    """
    return token_stats(hidden, kernel, targets, bias=bias, softcap=softcap, chunk=chunk, where=where, stats=())["logps"]


def token_stats(
    hidden: jax.Array,
    kernel: jax.Array | Parted,
    targets: jax.Array,
    *,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
    parts: int = 1,
    where: jax.Array | None = None,
    stats: tuple[str, ...] = (),
) -> dict[str, jax.Array]:
    """`token_logps` and, at the same pass over the vocabulary, what else `stats` names of p = softmax(logits).

    "entropy" -sum p log p; "logsumexp" of the logits; "sum_sq" sum p^2; "mean_logp" mean over the vocabulary of log p;
    "top1" the likeliest token (int32). All but "top1" are differentiable; what is not named costs nothing.

    Args:
      parts: devices that have as many tokens as this one, inside `jax.shard_map`.
      stats: names out of STATS; the rest as in `token_logps`.

    Returns:
      {"logps": [N], name: [N], ...}, 0 where `where` is False.

    Raises:
      ValueError: shapes that do not fit, a chunk below 1, or an unknown name.
    """
    for name in stats:
        if name not in STATS:
            raise ValueError(f"stats has {name!r}; expected one of: {', '.join(STATS)}")
    _check(hidden, kernel, targets, bias, where)
    n, vocab = hidden.shape[0], kernel.shape[1]
    fused = None if chunk is not None else _fused(hidden, kernel, bias, softcap, stats, parts)
    # A kernel reads a head in the dtype of the products, of which slices need one slice at a time
    if not isinstance(kernel, Parted) and chunk is None and not (fused and kernel.dtype == hidden.dtype):
        kernel = head_slices.in_slices(kernel, hidden)
    chunk = head_slices.chunk_of(n, kernel, parts) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    targets = jnp.clip(targets, 0, vocab - 1).astype(jnp.int32)
    head = Head(kernel, bias, softcap)
    names = tuple(sorted(set(stats)))
    wanted = jnp.ones(n, bool) if where is None else where
    if fused is not None and not isinstance(kernel, Parted):
        values = fused(hidden, kernel, targets, wanted)
        return {name: values[name == "logsumexp"] for name in ("logps", *names)}
    if where is not None:
        hidden = jnp.where(where[:, None], hidden, 0)
    out: Any
    if isinstance(kernel, Parted):
        way = _way(hidden, kernel, softcap, chunk) if fused else head_slices.Chunks(chunk)
        out = head_slices.statistics(kernel, hidden, targets, wanted if fused else where, head, names, way)
    elif chunk >= n:
        out = head_chunks.of_all(hidden, targets, head, names)
    else:
        out = head_chunks.chunked(names, chunk, hidden, targets, where, head)
    return out if where is None else {name: jnp.where(where, value, 0) for name, value in out.items()}


def row_logps(
    hidden: jax.Array,
    kernel: jax.Array | Parted,
    targets: jax.Array,
    where: jax.Array,
    *,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
    parts: int = 1,
) -> jax.Array:
    """`token_logps` of rows, [R, T] float32, 0 where `where` is False; see `row_stats`."""
    return row_stats(hidden, kernel, targets, where, bias=bias, softcap=softcap, chunk=chunk, parts=parts)["logps"]


def row_stats(
    hidden: jax.Array,
    kernel: jax.Array | Parted,
    targets: jax.Array,
    where: jax.Array,
    *,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
    parts: int = 1,
    stats: tuple[str, ...] = (),
) -> dict[str, jax.Array]:
    """`token_stats` of rows [R, T], each row's tokens in an order that leaves the most chunks without one asked for.

    No token leaves its row, so that rows may be sharded.

    Args:
      hidden: [R, T, D]; targets: [R, T] int; where: [R, T] bool; the rest as in `token_stats`.

    Returns:
      {"logps": [R, T], name: [R, T], ...}, 0 where `where` is False.
    """
    rows, length = where.shape
    n = where.size
    by_kernel = chunk is None and _fused(hidden, kernel, bias, softcap, stats, parts) is not None
    kernel = kernel if by_kernel or chunk is not None else head_slices.in_slices(kernel, hidden)
    of_tokens = functools.partial(token_stats, bias=bias, softcap=softcap, chunk=chunk, parts=parts, stats=stats)
    chunk = head_slices.chunk_of(n, kernel, parts) if chunk is None else chunk

    def of_rows(hidden: jax.Array, targets: jax.Array, where: jax.Array) -> dict[str, jax.Array]:
        found = of_tokens(hidden.reshape(n, -1), kernel, targets.ravel(), where=where.ravel())
        return {name: value.reshape(rows, length) for name, value in found.items()}

    if by_kernel or chunk >= n:
        return of_rows(hidden, targets, where)
    # The columns of each row that lie in chunk 0, then those in chunk 1, ... take the row's tokens, wanted ones first
    columns = np.argsort(np.arange(n).reshape(rows, length) % head_chunks.count_of(n, chunk), axis=1, kind="stable")
    wanted_first = jnp.argsort(~where, axis=1, stable=True)
    order = jnp.take_along_axis(wanted_first, jnp.asarray(np.argsort(columns, axis=1)), axis=1)
    hidden = jnp.take_along_axis(hidden, order[..., None], axis=1)
    targets, where = (jnp.take_along_axis(x, order, axis=1) for x in (targets, where))
    back = jnp.argsort(order, axis=1)
    return {name: jnp.take_along_axis(x, back, axis=1) for name, x in of_rows(hidden, targets, where).items()}


def seq_logps(token_logps: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Log-prob of a sequence, the sum of its tokens' over the last axis, where `where` holds.

    Args:
      token_logps: [..., T] nats; where: [..., T] bool.

    Returns:
      [...], 0 for a sequence without tokens.
    """
    wide = token_logps.astype(jnp.promote_types(token_logps.dtype, jnp.float32))
    return jnp.sum(wide if where is None else jnp.where(where, wide, 0), axis=-1)


def _fused(
    hidden: jax.Array, kernel: jax.Array | Parted, bias: Any, softcap: Any, stats: Collection[str], parts: int = 1
) -> Callable[..., tuple[jax.Array, jax.Array]] | None:
    """The kernel that takes the place of chunks, if there is one for this device that knows what is asked."""
    width, n = hidden.shape[-1], hidden.size // hidden.shape[-1]
    if bias is not None or not set(stats) <= {"logsumexp"} or n <= head_slices.chunk_of(n, kernel, parts):
        return None
    if softcap is None or isinstance(softcap, float):
        if head_tpu.usable(hidden, kernel):
            return functools.partial(head_tpu.logps, softcap=softcap)
        if head_gpu.usable(hidden, kernel):
            chunk = head_slices.chunk_of(n, head_slices.in_slices(kernel, hidden), parts)
            return functools.partial(head_gpu.logps, softcap=softcap, chunk=chunk)
    if isinstance(kernel, Parted) or softcap is not None or not native.usable("head"):
        return None
    known = hidden.dtype == kernel.dtype == jnp.dtype(jnp.float32) and (width <= NATIVE_WIDTH or native.tiles())
    return native_head.logps if known else None


def _way(hidden: jax.Array, kernel: Parted, softcap: float | None, chunk: int) -> head_slices.Way:
    """How the kernel that is `_fused` goes over one slice."""
    columns = kernel.shape[1] // kernel.cut.count
    by_tpu = head_tpu.usable(hidden, kernel)
    return head_tpu.facts(hidden, columns, softcap) if by_tpu else head_gpu.facts(columns, softcap, chunk)


def _check(hidden, kernel, targets, bias, where) -> None:
    if hidden.ndim != 2 or len(kernel.shape) != 2 or hidden.shape[1] != kernel.shape[0]:
        raise ValueError(f"hidden {list(hidden.shape)} and kernel {list(kernel.shape)} must be [N, D] and [D, V]")
    expected = {
        "targets": (targets, hidden.shape[:1]),
        "where": (where, hidden.shape[:1]),
        "bias": (bias, kernel.shape[1:]),
    }
    for name, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} has shape {list(array.shape)}; expected {list(shape)}")

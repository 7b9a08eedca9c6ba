"""Log-probabilities of tokens from hidden states, without ever holding logits of [tokens, vocabulary] when chunked.

One chunk of tokens at a time goes through the output head; the backward pass makes the chunk's logits again, and adds
up the head's gradient in float32. A chunk without a token asked for (`where`) is skipped. Chunks are strided (chunk j
holds tokens j, j + n, j + 2n, ...), so that a token axis sharded over devices stays sharded inside every chunk.
Devices that have tokens of their own and a part of the head each (`ops.parted`) go over the vocabulary in slices, and
put together what the softmax says of a token from what those of the slices say.
Reverse mode only when chunked (a `custom_vjp`); the unchunked form in float32 or float64 is plain jax and knows
forward mode too. On one CPU device a kernel in C++ (`ops.native`) takes the place of chunks in float32, on TPUs one in
Pallas (`ops.head_tpu`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from prefjax.ops import head_tpu, plain
from prefjax.ops.native import head as native_head
from prefjax.ops.native import library as native
from prefjax.ops.parted import Cut, Parted

LOGITS = 2**24  # of a chunk
NATIVE_WIDTH = 1024  # the widest hidden state for which the kernel in C++ was faster, on a processor without tiles
STATS = ("entropy", "logsumexp", "sum_sq", "mean_logp", "top1")


def default_chunk(n: int, vocab: int, parts: int = 1) -> int:
    """Tokens to a chunk: all n where the logits are few (chunks make them twice), else an eighth, to LOGITS logits.

    An eighth, because whole chunks are skipped where nothing is asked; not less, for each adds up the head's gradient.
    Where `parts` devices have n tokens together, each goes through its own in as many chunks as one would through all.
    """
    return n if n * vocab <= LOGITS or plain.asked() else max(128, min(-(-n // 8), LOGITS // vocab) // parts)


def chunk_of(n: int, kernel: jax.Array | Parted, parts: int = 1) -> int:
    """`default_chunk` of n tokens of each of `parts` devices, for the columns that one goes over at a time."""
    columns = kernel.shape[1] // (kernel.cut.count if isinstance(kernel, Parted) else 1)
    return default_chunk(n * parts, columns, parts)


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
      chunk: tokens whose logits are alive together; None for `default_chunk(N, V)`.
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
    chunk = chunk_of(n, kernel, parts) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    targets = jnp.clip(targets, 0, vocab - 1).astype(jnp.int32)
    head = _Head(kernel, bias, softcap)
    names = tuple(sorted(set(stats)))
    wanted = jnp.ones(n, bool) if where is None else where
    if fused is not None and not isinstance(kernel, Parted):
        values = fused(hidden, kernel, targets, wanted)
        return {name: values[name == "logsumexp"] for name in ("logps", *names)}
    if where is not None:
        hidden = jnp.where(where[:, None], hidden, 0)
    out: Any
    if isinstance(kernel, Parted):
        how = head_tpu.facts(hidden, vocab // kernel.cut.count, softcap) if fused else chunk
        out = _of_slices(kernel, hidden, targets, wanted if fused else where, head, names, how)
    elif chunk >= n:
        out = _of_logits(_logits(hidden, head), targets, names)
    else:
        out = _chunked(names, chunk, hidden, targets, where, head)
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
    of_tokens = functools.partial(token_stats, bias=bias, softcap=softcap, chunk=chunk, parts=parts, stats=stats)
    chunk = chunk_of(n, kernel, parts) if chunk is None else chunk

    def of_rows(hidden: jax.Array, targets: jax.Array, where: jax.Array) -> dict[str, jax.Array]:
        found = of_tokens(hidden.reshape(n, -1), kernel, targets.ravel(), where=where.ravel())
        return {name: value.reshape(rows, length) for name, value in found.items()}

    if by_kernel or chunk >= n:
        return of_rows(hidden, targets, where)
    # The columns of each row that lie in chunk 0, then those in chunk 1, ... take the row's tokens, wanted ones first
    columns = np.argsort(np.arange(n).reshape(rows, length) % _count(n, chunk), axis=1, kind="stable")
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
    if bias is not None or not set(stats) <= {"logsumexp"} or n <= chunk_of(n, kernel, parts):
        return None
    if (softcap is None or isinstance(softcap, float)) and head_tpu.usable(hidden, kernel):
        return functools.partial(head_tpu.logps, softcap=softcap)
    if isinstance(kernel, Parted) or softcap is not None or not native.usable("head"):
        return None
    known = hidden.dtype == kernel.dtype == jnp.dtype(jnp.float32) and (width <= NATIVE_WIDTH or native.tiles())
    return native_head.logps if known else None


class _Head(NamedTuple):
    kernel: Any
    bias: jax.Array | None
    softcap: Any


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


@jax.custom_vjp
def _product_low(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    return _product(hidden, kernel)


def _product(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    """hidden kernel in hidden's dtype, summed and returned in float32 at least."""
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    return lax.dot_general(hidden, kernel.astype(hidden.dtype), (((1,), (0,)), ((), ())), preferred_element_type=wide)


def _product_grads(hidden: jax.Array, kernel: jax.Array, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients in hidden (its dtype) and kernel (float32 at least) from that of the product."""
    wide, grad = grad.dtype, grad.astype(hidden.dtype)
    in_hidden = lax.dot_general(
        grad, kernel.astype(hidden.dtype), (((1,), (1,)), ((), ())), preferred_element_type=wide
    )
    in_kernel = lax.dot_general(hidden, grad, (((0,), (0,)), ((), ())), preferred_element_type=wide)
    return in_hidden.astype(hidden.dtype), in_kernel


def _product_low_bwd(saved, grad):
    hidden, kernel = saved
    in_hidden, in_kernel = _product_grads(hidden, kernel, grad)
    return in_hidden, in_kernel.astype(kernel.dtype)


_product_low.defvjp(lambda hidden, kernel: (_product(hidden, kernel), (hidden, kernel)), _product_low_bwd)


def _cap(product: jax.Array, bias: jax.Array | None, softcap: Any) -> jax.Array:
    logits = product if bias is None else product + bias.astype(product.dtype)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _logits(hidden: jax.Array, head: _Head) -> jax.Array:
    # Low precision goes through the custom rule, for the kernel's gradient in float32
    product = _product_low if hidden.dtype.itemsize < 4 else _product
    return _cap(product(hidden, head.kernel), head.bias, head.softcap)


def _of_logits(
    logits: jax.Array, targets: jax.Array, stats: Collection[str], gather: bool = False
) -> dict[str, jax.Array]:
    """All statistics of [N, V] logits, each [N]; the one definition, chunked or not.

    The target's logit is a masked sum: its gradient is no scatter, and a sharded vocabulary stays sharded. Where
    neither is at stake, `gather` saves a pass over the logits.
    """
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = logits - top
    total = jnp.sum(jnp.exp(shifted), axis=-1)
    log_total = jnp.log(total)
    if gather:
        own = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - top[:, 0]
    else:
        chosen = lax.broadcasted_iota(targets.dtype, logits.shape, 1) == targets[:, None]
        own = jnp.sum(jnp.where(chosen, shifted, 0), axis=-1)
    out = {"logps": own - log_total}
    if "entropy" in stats:
        out["entropy"] = log_total - jnp.sum(jnp.exp(shifted) * shifted, axis=-1) / total
    if "logsumexp" in stats:
        out["logsumexp"] = log_total + top[:, 0]
    if "sum_sq" in stats:
        out["sum_sq"] = jnp.sum(jnp.square(jnp.exp(shifted)), axis=-1) / jnp.square(total)
    if "mean_logp" in stats:
        out["mean_logp"] = jnp.mean(shifted, axis=-1) - log_total
    if "top1" in stats:
        out["top1"] = lax.argmax(lax.stop_gradient(logits), 1, jnp.int32)
    if "top" in stats:
        out["top"] = top[:, 0]
    return out


def _count(n: int, chunk: int) -> int:
    """Number of chunks: the least that keeps them within `chunk`, or up to twice that to divide n without padding."""
    least = -(-n // chunk)
    return next((count for count in range(least, 2 * least + 1) if n % count == 0), least)


def _split(x: jax.Array, count: int) -> jax.Array:
    """[N, ...] -> [count, ceil(N / count), ...], strided, padded with zeros."""
    size = -(-x.shape[0] // count)
    x = jnp.pad(x, ((0, size * count - x.shape[0]), *((0, 0) for _ in x.shape[1:])))
    return x.reshape(size, count, *x.shape[1:]).swapaxes(0, 1)


def _join(x: jax.Array, n: int) -> jax.Array:
    """The inverse of `_split`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:n]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(stats, chunk, hidden, targets, where, head):
    return _chunked_fwd(stats, chunk, hidden, targets, where, head)[0]


def _skip(where: jax.Array | None, compute: Any, otherwise: Any, *args: Any) -> Any:
    """compute(*args), or otherwise(*args) where no token of the chunk is asked for."""
    return compute(*args) if where is None else lax.cond(jnp.any(where), compute, otherwise, *args)


def _chunked_fwd(stats, chunk, hidden, targets, where, head):
    n = hidden.shape[0]
    count = _count(n, chunk)
    kept = {*stats, "logsumexp"}

    def of_chunk(hidden, targets):
        return _of_logits(_logits(hidden, head), targets, kept, gather=jax.default_backend() == "cpu")

    def step(_, part):
        hidden, targets, where = part
        shapes = jax.eval_shape(of_chunk, hidden, targets)
        zeros = lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # noqa: E731
        return None, _skip(where, of_chunk, zeros, hidden, targets)

    parts = jax.tree.map(lambda x: _split(x, count), (hidden, targets, where))
    out = {name: _join(value, n) for name, value in lax.scan(step, None, parts)[1].items()}
    return {name: out[name] for name in ("logps", *stats)}, (hidden, targets, where, head, out)


def _in_logits(logits: jax.Array, targets: jax.Array, out: dict, grads: dict) -> jax.Array:
    """Gradient in [N, V] logits from those of the statistics, whose values are `out`: one pass, nothing summed."""
    out, grads = ({name: value[:, None] for name, value in tree.items()} for tree in (out, grads))
    logp = logits - out["logsumexp"]
    p = jnp.exp(logp)
    factor = -grads["logps"]
    chosen = lax.broadcasted_iota(targets.dtype, logits.shape, 1) == targets[:, None]
    rest = jnp.where(chosen, grads["logps"], 0)
    if "logsumexp" in grads:
        factor = factor + grads["logsumexp"]
    if "mean_logp" in grads:
        factor = factor - grads["mean_logp"]
        rest = rest + grads["mean_logp"] / logits.shape[1]
    if "entropy" in grads:
        # p log p goes to 0 where exp underflows, and log p stays finite there
        factor = factor - grads["entropy"] * (logp + out["entropy"])
    if "sum_sq" in grads:
        factor = factor + 2 * grads["sum_sq"] * (p - out["sum_sq"])
    return p * factor + rest


def _chunked_bwd(stats, chunk, saved, grads):
    head = saved[3]
    in_hidden, total = _chunked_grads(chunk, saved, _differentiable(grads))
    in_head = jax.tree.map(lambda grad, leaf: grad.astype(jnp.result_type(leaf)), total, head)
    return in_hidden, None, None, in_head


def _differentiable(grads: dict) -> dict:
    return {name: grad for name, grad in grads.items() if name not in ("top", "top1")}


def _chunked_grads(chunk, saved, grads):
    """Gradients in `hidden` and, in float32 at least, in the head."""
    hidden, targets, where, head, out = saved
    n = hidden.shape[0]
    count = _count(n, chunk)
    wide = jnp.promote_types(hidden.dtype, jnp.float32)

    def step(total, part):
        def compute(total, hidden, targets, out, grads):
            logits, pull = jax.vjp(_cap, _product(hidden, head.kernel), head.bias, head.softcap)
            in_product, in_bias, in_softcap = pull(_in_logits(logits, targets, out, grads))
            in_hidden, in_kernel = _product_grads(hidden, head.kernel, in_product)
            new = _Head(in_kernel, in_bias, in_softcap)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, new), in_hidden

        hidden, targets, where, out, grads = part
        nothing = lambda total, hidden, *_: (total, jnp.zeros_like(hidden))  # noqa: E731
        return _skip(where, compute, nothing, total, hidden, targets, out, grads)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), wide), head)
    parts = jax.tree.map(lambda x: _split(x, count), (hidden, targets, where, out, grads))
    total, in_hidden = lax.scan(step, zeros, parts)
    return _join(in_hidden, n), total


_chunked.defvjp(_chunked_fwd, _chunked_bwd)


def _of_slices(
    kernel: Parted,
    hidden: jax.Array,
    targets: jax.Array,
    where: jax.Array | None,
    head: _Head,
    stats: Collection[str],
    how: int | head_tpu.Facts,
) -> dict[str, jax.Array]:
    """`_of_logits` of a vocabulary in slices, with the share of each in all probability.

    Args:
      how: a slice is gone over: in chunks of so many tokens, or by the kernel.
    """
    cut, vocab = kernel.cut, kernel.shape[1]
    index, places = jnp.divmod(targets, vocab // cut.count)
    kept = tuple(sorted({*stats, "logsumexp", *(("top",) if "top1" in stats else ())}))
    head = head._replace(kernel=kernel.rows, bias=None if head.bias is None else cut.own(head.bias))
    back = None
    if isinstance(how, head_tpu.Facts) and where is not None:
        hidden, places, where, back = head_tpu.arranged(how, hidden, places, where)
    each: Any = _sliced(kept, how, cut, hidden, places, where, head)
    each = {name: cut.collect(x if back is None else x[:, back]) for name, x in each.items()}
    logsumexp = jax.nn.logsumexp(each["logsumexp"], axis=0)
    ahead = each["logsumexp"] - logsumexp
    slices = jnp.arange(cut.count)[:, None]
    share, here = jnp.exp(ahead), index == slices
    out = {"logps": jnp.sum(jnp.where(here, each["logps"] + ahead, 0), axis=0), "logsumexp": logsumexp}
    if "entropy" in stats:
        out["entropy"] = jnp.sum(share * (each["entropy"] - ahead), axis=0)
    if "sum_sq" in stats:
        out["sum_sq"] = jnp.sum(share**2 * each["sum_sq"], axis=0)
    if "mean_logp" in stats:
        out["mean_logp"] = jnp.mean(each["mean_logp"] + ahead, axis=0)
    if "top1" in stats:
        columns = slices * (vocab // cut.count) + each["top1"]
        out["top1"] = jnp.min(jnp.where(each["top"] == jnp.max(each["top"], axis=0), columns, vocab), axis=0)
    return {name: out[name] for name in ("logps", *stats)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sliced(stats, how, cut, hidden, places, where, head):
    """{name: [slices, N]} under the softmax of each slice by itself, as if its column of each token were `places`."""
    return _sliced_fwd(stats, how, cut, hidden, places, where, head)[0]


def _slice(cut: Cut, hidden: jax.Array, head: _Head, index: jax.Array) -> _Head:
    """The head of one slice; its kernel travels in the dtype of the products."""
    kernel = cut.gather(cut.slice(head.kernel, index).astype(hidden.dtype))
    return _Head(kernel, None if head.bias is None else cut.slice(head.bias, index), head.softcap)


def _sliced_fwd(stats, how, cut, hidden, places, where, head):
    def step(_, index):
        of_slice = _slice(cut, hidden, head, index)
        if isinstance(how, int):
            return None, _chunked_fwd(stats, how, hidden, places, where, of_slice)[0]
        own, lse = head_tpu.forward(how, hidden, of_slice.kernel, places, where)
        return None, {"logps": own, "logsumexp": lse}

    out = lax.scan(step, None, jnp.arange(cut.slices))[1]
    return out, (hidden, places, where, head, out)


def _sliced_bwd(stats, how, cut, saved, grads):
    hidden, places, where, head, out = saved
    wide = jnp.promote_types(hidden.dtype, jnp.float32)

    def step(totals, part):
        in_hidden, total = totals
        index, out, grads = part
        of_slice = _slice(cut, hidden, head, index)
        if isinstance(how, int):
            more, found = _chunked_grads(how, (hidden, places, where, of_slice, out), grads)
        else:
            saved = hidden, of_slice.kernel, places, where, out["logsumexp"]
            more, in_kernel = head_tpu.backward(how, saved, (grads["logps"], grads["logsumexp"]))
            found = _Head(in_kernel, None, 0.0)
        total = _Head(
            cut.put(total.kernel, cut.scatter(found.kernel), index),
            None if head.bias is None else cut.put(total.bias, found.bias, index),
            None if head.softcap is None else total.softcap + found.softcap,
        )
        return (in_hidden + more, total), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), wide), (hidden, head))
    parts = (jnp.arange(cut.slices), out, _differentiable(grads))
    (in_hidden, total), _ = lax.scan(step, zeros, parts)
    in_head = jax.tree.map(lambda grad, leaf: grad.astype(jnp.result_type(leaf)), total, head)
    return in_hidden.astype(hidden.dtype), None, None, in_head


_sliced.defvjp(_sliced_fwd, _sliced_bwd)

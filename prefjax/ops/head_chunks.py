"""The output head over chunks of tokens, in plain jax: what the softmax of each token says, and its gradients.

One chunk at a time goes through the head; the backward pass makes the chunk's logits again, and adds up the head's
gradient in float32. A chunk without a token asked for (`where`) is skipped. Chunks are strided (chunk j holds tokens
j, j + n, j + 2n, ...), so that a token axis sharded over devices stays sharded inside every chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from prefjax.ops import plain

LOGITS = 2**24  # of a chunk


def default_chunk(n: int, vocab: int, parts: int = 1) -> int:
    """Tokens to a chunk: all n where the logits are few (chunks make them twice), else an eighth, to LOGITS logits.

    An eighth, because whole chunks are skipped where nothing is asked; not less, for each adds up the head's gradient.
    Where `parts` devices have n tokens together, each goes through its own in as many chunks as one would through all.
    """
    return n if n * vocab <= LOGITS or plain.asked() else max(128, min(-(-n // 8), LOGITS // vocab) // parts)


class Head(NamedTuple):
    """softcap(hidden kernel + bias), or gradients in its parts."""

    kernel: Any  # [D, V]
    bias: jax.Array | None  # [V]
    softcap: Any


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


def _logits(hidden: jax.Array, head: Head) -> jax.Array:
    # Low precision goes through the custom rule, for the kernel's gradient in float32
    product = _product_low if hidden.dtype.itemsize < 4 else _product
    return _cap(product(hidden, head.kernel), head.bias, head.softcap)


def of_all(hidden: jax.Array, targets: jax.Array, head: Head, stats: Collection[str]) -> dict[str, jax.Array]:
    """`statistics` of all tokens at once."""
    return statistics(_logits(hidden, head), targets, stats)


def statistics(
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


def count_of(n: int, chunk: int) -> int:
    """Number of chunks: the least that keeps them within `chunk`, or up to twice that to divide n without padding."""
    least = -(-n // chunk)
    return next((count for count in range(least, 2 * least + 1) if n % count == 0), least)


def in_order(where: jax.Array, chunk: int) -> jax.Array:
    """Which token goes where, so that those `where` [N] holds fill as few chunks as they can."""
    n = where.size
    places = np.argsort(np.arange(n) % count_of(n, chunk), kind="stable")  # of chunk 0, then of chunk 1, ...
    return jnp.argsort(~where, stable=True)[np.argsort(places)]


def split(x: jax.Array, count: int) -> jax.Array:
    """[N, ...] -> [count, ceil(N / count), ...], strided, padded with zeros."""
    size = -(-x.shape[0] // count)
    x = jnp.pad(x, ((0, size * count - x.shape[0]), *((0, 0) for _ in x.shape[1:])))
    return x.reshape(size, count, *x.shape[1:]).swapaxes(0, 1)


def join(x: jax.Array, n: int) -> jax.Array:
    """The inverse of `split`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:n]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def chunked(stats, chunk, hidden, targets, where, head):
    """{"logps" and each of `stats`: [N]}, in chunks of at most so many tokens; 0 in those that nobody asks for."""
    return forward(stats, chunk, hidden, targets, where, head)[0]


def _skip(where: jax.Array | None, compute: Any, otherwise: Any, *args: Any) -> Any:
    """compute(*args), or otherwise(*args) where no token of the chunk is asked for."""
    return compute(*args) if where is None else lax.cond(jnp.any(where), compute, otherwise, *args)


def forward(stats, chunk, hidden, targets, where, head):
    """(`chunked`, what `gradients` wants to know)."""
    n = hidden.shape[0]
    count = count_of(n, chunk)
    kept = {*stats, "logsumexp"}

    def of_chunk(hidden, targets):
        return statistics(_logits(hidden, head), targets, kept, gather=jax.default_backend() == "cpu")

    def step(_, part):
        hidden, targets, where = part
        shapes = jax.eval_shape(of_chunk, hidden, targets)
        zeros = lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # noqa: E731
        return None, _skip(where, of_chunk, zeros, hidden, targets)

    parts = jax.tree.map(lambda x: split(x, count), (hidden, targets, where))
    out = {name: join(value, n) for name, value in lax.scan(step, None, parts)[1].items()}
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
    in_hidden, total = gradients(chunk, saved, differentiable(grads))
    in_head = jax.tree.map(lambda grad, leaf: grad.astype(jnp.result_type(leaf)), total, head)
    return in_hidden, None, None, in_head


def differentiable(grads: dict) -> dict:
    """Those of statistics that have a gradient."""
    return {name: grad for name, grad in grads.items() if name not in ("top", "top1")}


def gradients(chunk, saved, grads):
    """Gradients in `hidden` and, in float32 at least, in the head."""
    hidden, targets, where, head, out = saved
    n = hidden.shape[0]
    count = count_of(n, chunk)
    wide = jnp.promote_types(hidden.dtype, jnp.float32)

    def step(total, part):
        def compute(total, hidden, targets, out, grads):
            logits, pull = jax.vjp(_cap, _product(hidden, head.kernel), head.bias, head.softcap)
            in_product, in_bias, in_softcap = pull(_in_logits(logits, targets, out, grads))
            in_hidden, in_kernel = _product_grads(hidden, head.kernel, in_product)
            new = Head(in_kernel, in_bias, in_softcap)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, new), in_hidden

        hidden, targets, where, out, grads = part
        nothing = lambda total, hidden, *_: (total, jnp.zeros_like(hidden))  # noqa: E731
        return _skip(where, compute, nothing, total, hidden, targets, out, grads)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), wide), head)
    parts = jax.tree.map(lambda x: split(x, count), (hidden, targets, where, out, grads))
    total, in_hidden = lax.scan(step, zeros, parts)
    return join(in_hidden, n), total


chunked.defvjp(forward, _chunked_bwd)

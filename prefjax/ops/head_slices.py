"""The output head over slices of its vocabulary: where devices share it, and where its gradient is large.

What the softmax of each slice says of a token by itself is put together with the share that the slice has in all
probability. One slice at a time is gathered from the devices that hold its rows (`ops.parted`), and its gradient goes
back to them before the next one comes.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from prefjax.ops import head_chunks, parted, plain
from prefjax.ops.head_chunks import Head
from prefjax.ops.parted import Cut, Parted

WHOLE = 2**26  # numbers of a head that one device goes over at once: the gradient of larger ones is made in slices


class Way(Protocol):
    """How one slice is gone over: in chunks of tokens, or by a kernel; hashable, as it is static."""

    def arranged(self, hidden: jax.Array, targets: jax.Array, where: Any) -> tuple[Any, Any, Any, jax.Array | None]:
        """(hidden, targets, where) as the others want them, and where each token stands then; None where it stood."""
        ...

    def forward(
        self, stats: Collection[str], hidden: jax.Array, targets: jax.Array, where: Any, head: Head
    ) -> dict[str, jax.Array]:
        """{"logps" and each of `stats`: [N]} under the softmax of the slice."""
        ...

    def gradients(self, saved: tuple[Any, ...], grads: dict[str, jax.Array]) -> tuple[jax.Array, Head]:
        """In hidden and, in float32 at least, in the head; saved: what `forward` had and what it gave."""
        ...


class Chunks(NamedTuple):
    """The way of `ops.head_chunks`.

    Attributes:
      size: tokens whose logits are alive together.
    """

    size: int

    def arranged(self, hidden: jax.Array, targets: jax.Array, where: Any) -> tuple[Any, Any, Any, jax.Array | None]:
        return hidden, targets, where, None

    def forward(self, stats, hidden, targets, where, head) -> dict[str, jax.Array]:
        return head_chunks.forward(stats, self.size, hidden, targets, where, head)[0]

    def gradients(self, saved, grads) -> tuple[jax.Array, Head]:
        return head_chunks.gradients(self.size, saved, grads)


def in_slices(kernel: jax.Array | Parted, hidden: jax.Array) -> jax.Array | Parted:
    """A large head of one GPU, for `hidden`, as slices of its vocabulary, if some number of them divides it.

    Else its compiler keeps the head's gradient twice, the sum over chunks and what a chunk adds; a TPU's does not.
    """
    if (
        isinstance(kernel, Parted)
        or kernel.size <= WHOLE
        or jax.default_backend() != "gpu"
        or not parted.alone(kernel, hidden)
        or plain.asked()
    ):
        return kernel
    count = parted.slices(kernel.shape[1])
    return Parted(kernel, Cut((), (), count)) if count else kernel


def chunk_of(n: int, kernel: jax.Array | Parted, parts: int = 1) -> int:
    """`head_chunks.default_chunk` of n tokens of each of `parts` devices, for columns that one goes over at a time."""
    columns = kernel.shape[1] // (kernel.cut.count if isinstance(kernel, Parted) else 1)
    return head_chunks.default_chunk(n * parts, columns, parts)


def statistics(
    kernel: Parted,
    hidden: jax.Array,
    targets: jax.Array,
    where: jax.Array | None,
    head: Head,
    stats: Collection[str],
    way: Way,
) -> dict[str, jax.Array]:
    """{"logps" and each of `stats`: [N]}, put together with the share that each slice has in all probability."""
    cut, vocab = kernel.cut, kernel.shape[1]
    index, places = jnp.divmod(targets, vocab // cut.count)
    kept = tuple(sorted({*stats, "logsumexp", *(("top",) if "top1" in stats else ())}))
    head = head._replace(kernel=kernel.rows, bias=None if head.bias is None else cut.own(head.bias))
    hidden, places, where, back = way.arranged(hidden, places, where)
    each: Any = _sliced(kept, way, cut, hidden, places, where, head)
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
def _sliced(stats, way, cut, hidden, places, where, head):
    """{name: [slices, N]} under the softmax of each slice by itself, as if its column of each token were `places`."""
    return _sliced_fwd(stats, way, cut, hidden, places, where, head)[0]


def _slice(cut: Cut, hidden: jax.Array, head: Head, index: jax.Array) -> Head:
    """The head of one slice; its kernel travels in the dtype of the products."""
    kernel = cut.gather(cut.slice(head.kernel, index).astype(hidden.dtype))
    return Head(kernel, None if head.bias is None else cut.slice(head.bias, index), head.softcap)


def _sliced_fwd(stats, way, cut, hidden, places, where, head):
    def step(_, index):
        return None, way.forward(stats, hidden, places, where, _slice(cut, hidden, head, index))

    out = lax.scan(step, None, jnp.arange(cut.slices))[1]
    return out, (hidden, places, where, head, out)


def _sliced_bwd(stats, way, cut, saved, grads):
    hidden, places, where, head, out = saved
    wide = jnp.promote_types(hidden.dtype, jnp.float32)

    def step(totals, part):
        in_hidden, total = totals
        index, out, grads = part
        more, found = way.gradients((hidden, places, where, _slice(cut, hidden, head, index), out), grads)
        total = Head(
            cut.put(total.kernel, cut.scatter(found.kernel).astype(head.kernel.dtype), index),
            None if head.bias is None else cut.put(total.bias, found.bias, index),
            None if head.softcap is None else total.softcap + found.softcap,
        )
        return (in_hidden + more, total), None

    zeros: Any = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), wide), (hidden, head))
    zeros = zeros[0], zeros[1]._replace(kernel=jnp.zeros_like(head.kernel))  # of which each slice is written once
    parts = (jnp.arange(cut.slices), out, head_chunks.differentiable(grads))
    (in_hidden, total), _ = lax.scan(step, zeros, parts)
    in_head = jax.tree.map(lambda grad, leaf: grad.astype(jnp.result_type(leaf)), total, head)
    return in_hidden.astype(hidden.dtype), None, None, in_head


_sliced.defvjp(_sliced_fwd, _sliced_bwd)


def gradients(
    chunk: int,
    hidden: jax.Array,
    targets: jax.Array,
    where: jax.Array,
    head: Head,
    logsumexp: jax.Array,
    grad: jax.Array,
    grad_logsumexp: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """In hidden and the kernel from those in log-probs and log-sum-exp, in slices of a large head and in chunks."""
    kernel: Any = in_slices(head.kernel, hidden)
    cut = kernel.cut if isinstance(kernel, Parted) else Cut((), (), 1)
    index, places = jnp.divmod(targets, head.kernel.shape[1] // cut.slices)
    here = index == jnp.arange(cut.slices)[:, None]
    # As if each slice had the log-sum-exp of all, and the target of a token that it lacks no gradient
    out = {"logsumexp": jnp.broadcast_to(logsumexp, here.shape)}
    own = jnp.where(here, grad, 0)
    grads = {"logps": own, "logsumexp": grad_logsumexp - grad + own}
    in_hidden, _, _, in_head = _sliced_bwd((), Chunks(chunk), cut, (hidden, places, where, head, out), grads)
    return in_hidden, in_head.kernel

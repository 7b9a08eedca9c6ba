"""Log-probabilities of target tokens by a Pallas (Triton) kernel for a GPU: what `ops.logprobs` gives, in tiles.

Forwards, logits live in the registers of one block of threads: a tile of tokens by columns of the vocabulary, under an
online softmax over a part of the vocabulary; what the parts say is put together outside. Tokens are read in an order
that has those asked for first, and blocks of which none is asked for are skipped.
Backwards there is no kernel but slices and chunks (`head_slices`): gradients in a block's states are as wide as the
states and fit no registers, and sums of them by atomic additions would not repeat bit for bit.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from prefjax.ops import head_chunks, head_slices, parted

plgpu: Any
try:
    from jax.experimental.pallas import triton as plgpu
except ImportError:  # jax 0.12 says that a later one will have none: then chunks do it all
    plgpu = None

TOKENS, COLUMNS, STEP = 128, 128, 64  # of a tile, and of the width that is in shared memory at a time: 96 KB in stages
WIDE = 256  # columns of a tile on Hopper, whose 144 KB and registers without spills are not to be had elsewhere
WARPS, STAGES = 8, 3
SPLITS, LEAST = 64, 4  # the most parts of the vocabulary, and the fewest tiles that one goes over
_ALIGNED = 8  # numbers of two bytes that are read at once: rows in memory are to begin at a multiple
_DTYPES = ("bfloat16", "float16")


def here() -> bool:
    """Whether what is traced will run on NVIDIA GPUs that Triton knows well, from Ampere on, by a jax that has it."""
    return plgpu is not None and jax.default_backend() == "gpu" and capability() >= (8, 0)


def usable(hidden: jax.Array, kernel: Any) -> bool:
    """Whether the kernel is to run: for a dtype and width it is made for, by each GPU for itself, as XLA cannot cut it.

    Not in float32, for which Triton has TF32, of less than `jax.default_matmul_precision` may ask for, or multiply-adds
    without matrix units, where chunks have cuBLAS. Not at widths whose rows are out of line in memory.

    Args:
      kernel: [D, V], or a `parted.Parted`.
    """
    rows = getattr(kernel, "rows", kernel)
    known = (
        hidden.dtype.name in _DTYPES and rows.dtype.name in ("float32", *_DTYPES) and hidden.shape[-1] % _ALIGNED == 0
    )
    return known and parted.alone(hidden, rows) and here()


def capability() -> tuple[int, int]:
    """CUDA compute capability, (major, minor), of the first device; (0, 0) of one that has none."""
    found = re.match(r"(\d+)\.(\d+)", str(getattr(jax.devices()[0], "compute_capability", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Facts(NamedTuple):
    """What a kernel is made for: a vocabulary, or one slice of it (a `head_slices.Way`)."""

    vocab: int
    softcap: float | None
    chunk: int  # backwards, tokens whose logits of a slice are alive together
    tokens: int  # of a tile
    columns: int
    splits: int
    each: int  # tiles of a split
    interpret: bool

    def arranged(self, hidden, targets, where) -> tuple[Any, Any, Any, jax.Array | None]:
        order = head_chunks.in_order(where, self.chunk)
        return hidden[order], targets[order], where[order], jnp.argsort(order)

    def forward(self, stats, hidden, targets, where, head) -> dict[str, jax.Array]:
        del stats  # these alone are asked for where the kernel is used
        return dict(zip(("logps", "logsumexp"), forward(self, hidden, head.kernel, targets, where), strict=True))

    def gradients(self, saved, grads) -> tuple[jax.Array, head_chunks.Head]:
        return head_chunks.gradients(self.chunk, saved, grads)


def facts(vocab: int, softcap: float | None, chunk: int, interpret: bool = False) -> Facts:
    """For a head of `vocab` columns on this GPU."""
    columns = WIDE if capability()[0] == 9 else COLUMNS
    tiles = pl.cdiv(vocab, columns)
    each = pl.cdiv(tiles, max(1, min(SPLITS, tiles // LEAST)))
    return Facts(vocab, softcap, chunk, TOKENS, columns, pl.cdiv(tiles, each), each, interpret)


def logps(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    where: jax.Array,
    *,
    softcap: float | None = None,
    chunk: int,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """log softmax(softcap(hidden kernel))[target] of each token, and the log-sum-exp of its logits; reverse mode only.

    Products are made in the dtype of `hidden`; sums, and the gradient in the kernel until its end, are float32.

    Args:
      hidden: [N, D] bfloat16 or float16; kernel: [D, V]; targets: [N] int32 in 0 .. V-1.
      where: [N] bool, tokens asked for; others cost nothing where a whole block can be left out (they come last).
      softcap: c in c tanh(logits / c).
      chunk: tokens whose logits of a slice of the vocabulary are alive together backwards.
      interpret: whether jax interprets the kernel, slowly, on any device; then float32 too.

    Returns:
      ([N], [N]) float32 in nats, 0 where `where` is False.
    """
    found: Any = _logps(facts(kernel.shape[1], softcap, chunk, interpret), hidden, kernel, targets, where)
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logps(facts: Facts, hidden, kernel, targets, where):
    return forward(facts, hidden, kernel, targets, where)


def _count(start: Any, size: int) -> jax.Array:
    return start + lax.broadcasted_iota(jnp.int32, (size,), 0)


def _load(ref: Any, rows: jax.Array, columns: jax.Array, of_rows: Any = None, of_columns: Any = None) -> jax.Array:
    """ref[rows, columns], 0 outside the masks of rows and of columns."""
    at, shape = ref.at[rows[:, None], columns[None, :]], (rows.size, columns.size)
    masks = (None if of_rows is None else of_rows[:, None], None if of_columns is None else of_columns[None, :])
    masks = [jnp.broadcast_to(mask, shape) for mask in masks if mask is not None]
    return plgpu.load(at, mask=functools.reduce(jnp.logical_and, masks), other=0) if masks else plgpu.load(at)


def _logits(facts: Facts, hidden: Any, kernel: Any, rows: jax.Array, asked: jax.Array, place: jax.Array) -> jax.Array:
    """Logits of rows at the columns of a tile; -inf behind the last."""
    width, length = kernel.shape
    # Behind the vocabulary the kernel has columns of zeros: a mask that ends in line does not break up what is read
    inside = place < length if length % facts.columns else None

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        across = _count(step * STEP, STEP)
        within = across < width if width % STEP else None
        states = _load(hidden, rows, across, asked, within)
        return total + jnp.dot(states, _load(kernel, across, place, within, inside), preferred_element_type=jnp.float32)

    out = lax.fori_loop(0, pl.cdiv(width, STEP), add, jnp.zeros((facts.tokens, facts.columns), jnp.float32))
    out = out if facts.softcap is None else facts.softcap * jnp.tanh(out / facts.softcap)
    return jnp.where(place[None, :] < facts.vocab, out, -jnp.inf) if facts.vocab % facts.columns else out


def _kernel(facts: Facts, count, order, targets, hidden, kernel, lse, own):
    """Log-sum-exp of one split's logits and, if it is among them, the target's logit; -inf and 0 of a skipped block."""
    first, split = pl.program_id(0) * facts.tokens, pl.program_id(1)
    here = pl.ds(first, facts.tokens)
    rows, target, asked = order[here], targets[here], _count(first, facts.tokens) < count[0]
    start = split * facts.each
    stop = jnp.minimum(start + facts.each, pl.cdiv(facts.vocab, facts.columns))

    def add(tile: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top, total, mine = state
        place = _count(tile * facts.columns, facts.columns)
        logits = _logits(facts, hidden, kernel, rows, asked, place)
        above = jnp.maximum(top, jnp.max(logits, axis=1))
        total = total * jnp.exp(top - above) + jnp.sum(jnp.exp(logits - above[:, None]), axis=1)
        chosen = place[None, :] == target[:, None]
        return above, total, mine + jnp.sum(jnp.where(chosen, logits, 0), axis=1)

    zeros = jnp.zeros(facts.tokens, jnp.float32)
    stop = jnp.where(first < count[0], stop, start)
    top, total, mine = lax.fori_loop(start, stop, add, (jnp.full_like(zeros, -jnp.inf), zeros, zeros))
    lse[split, here] = top + jnp.log(total)
    own[split, here] = mine


def _of_splits(facts: Facts, hidden, kernel, targets, where, order) -> tuple[jax.Array, jax.Array]:
    """What `_kernel` says, [splits, N to whole blocks] each, of tokens in `order`."""
    n, blocks = where.size, pl.cdiv(where.size, facts.tokens)
    order, targets = (jnp.pad(x, (0, blocks * facts.tokens - n)) for x in (order, targets[order]))
    kernel = jnp.pad(kernel.astype(hidden.dtype), ((0, 0), (0, -facts.vocab % _ALIGNED)))
    shape = jax.ShapeDtypeStruct((facts.splits, blocks * facts.tokens), jnp.float32)
    return pl.pallas_call(
        functools.partial(_kernel, facts),
        out_shape=(shape, shape),
        grid=(blocks, facts.splits),  # blocks side by side, which read the same part of the kernel
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=facts.interpret,
        name="head_logps",
    )(jnp.sum(where, dtype=jnp.int32)[None], order, targets, hidden, kernel)


def forward(facts: Facts, hidden, kernel, targets, where) -> tuple[jax.Array, jax.Array]:
    """`logps`, not to be differentiated."""
    order = jnp.argsort(~where, stable=True).astype(jnp.int32)
    lse, own = _of_splits(facts, hidden, kernel, targets, where, order)
    back = jnp.argsort(order)
    lse = jnp.where(where, jax.nn.logsumexp(lse, axis=0)[back], 0)
    return jnp.where(where, jnp.sum(own, axis=0)[back] - lse, 0), lse


def _forward(facts: Facts, hidden, kernel, targets, where):
    own, lse = forward(facts, hidden, kernel, targets, where)
    return (own, lse), (hidden, kernel, targets, where, lse)


def _backward(facts: Facts, saved, grads):
    hidden, kernel, targets, where, lse = saved
    grad, grad_lse = grads
    some = where & ((grad != 0) | (grad_lse != 0))
    order = head_chunks.in_order(some, facts.chunk)
    states = jnp.where(some[:, None], hidden, 0)[order]
    grad, grad_lse = (jnp.where(some, g, 0)[order] for g in grads)
    head = head_chunks.Head(kernel, None, facts.softcap)
    of_tokens = states, targets[order], some[order], head, lse[order]
    in_states, in_kernel = head_slices.gradients(facts.chunk, *of_tokens, grad, grad_lse)
    return in_states[jnp.argsort(order)], in_kernel, None, None


_logps.defvjp(_forward, _backward)

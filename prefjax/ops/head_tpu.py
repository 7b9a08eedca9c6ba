"""Log-probabilities of target tokens by a Pallas kernel for a TPU: what `prefjax.ops.logprobs` gives, in blocks.

Logits live in a core's own memory, a block of tokens by a block of the vocabulary: forwards under an online softmax,
backwards made again, once for the gradient in the states and once for that in the head. Blocks of tokens of which none
is asked for, or none has a gradient, are skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from prefjax.ops import parted
from prefjax.ops.head_chunks import Head

TOKENS, COLUMNS = 256, 512  # the most of a block
WIDEST = 4096  # of hidden states: beyond, a core's memory has no room for blocks, and chunks cost little more
_LANES = 128
_STATES, _HEAD = 2**21, 2**19  # bytes of the states in a block, numbers of the head: with copies they fit 16 MB
_DTYPES = ("float32", "bfloat16")


def here() -> bool:
    """Whether what is traced will run on TPUs."""
    return jax.default_backend() == "tpu"


def usable(hidden: jax.Array, kernel: Any) -> bool:
    """Whether the kernel is to run: for a dtype and width it knows, by each TPU for itself, as XLA cannot cut it.

    Args:
      kernel: [D, V], or a `parted.Parted`.
    """
    rows = getattr(kernel, "rows", kernel)
    width, dtypes = hidden.shape[-1], {hidden.dtype.name, rows.dtype.name}
    return dtypes <= set(_DTYPES) and width % _LANES == 0 and width <= WIDEST and parted.alone(hidden, rows) and here()


class Facts(NamedTuple):
    """What a kernel is made for: a vocabulary, or one slice of it (a `head_slices.Way`)."""

    vocab: int
    softcap: float | None
    tokens: int  # of a block
    columns: int
    interpret: bool

    def arranged(self, hidden, targets, where) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        return arranged(self, hidden, targets, where)

    def forward(self, stats, hidden, targets, where, head) -> dict[str, jax.Array]:
        del stats  # these alone are asked for where the kernel is used
        return dict(zip(("logps", "logsumexp"), forward(self, hidden, head.kernel, targets, where), strict=True))

    def gradients(self, saved, grads) -> tuple[jax.Array, Head]:
        hidden, targets, where, head, out = saved
        saved = hidden, head.kernel, targets, where, out["logsumexp"]
        in_hidden, in_kernel = backward(self, saved, (grads["logps"], grads["logsumexp"]))
        return in_hidden, Head(in_kernel, None, None if head.softcap is None else jnp.zeros(()))


def logps(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    where: jax.Array,
    *,
    softcap: float | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """log softmax(softcap(hidden kernel))[target] of each token, and the log-sum-exp of its logits; reverse mode only.

    Products are made in the dtype of `hidden`, float32's as precisely as `jax.default_matmul_precision` says; sums, and
    the gradient in the kernel until its end, are float32.

    Args:
      hidden: [N, D] float32 or bfloat16, D a multiple of 128; kernel: [D, V]; targets: [N] int32 in 0 .. V-1.
      where: [N] bool, tokens asked for; others cost nothing where a whole block can be left out (they come last).
      softcap: c in c tanh(logits / c).
      interpret: whether jax interprets the kernel, slowly, on any device.

    Returns:
      ([N], [N]) float32 in nats, 0 where `where` is False.
    """
    of = facts(hidden, kernel.shape[1], softcap, interpret)
    hidden, targets, wanted, back = arranged(of, hidden, targets, where)
    found: Any = _sorted(of, hidden, kernel, targets, wanted)
    own, lse = (jnp.where(where, x[back], 0) for x in found)
    return own, lse


def facts(hidden: jax.Array, vocab: int, softcap: float | None, interpret: bool = False) -> Facts:
    """For tokens' `hidden` [N, D], a head of `vocab` columns, and the memory that a core has."""
    n, width = hidden.shape
    tokens = min(TOKENS, _STATES // (width * hidden.dtype.itemsize) // 16 * 16, -(-n // 16) * 16)
    columns = min(COLUMNS, max(_LANES, _HEAD // width // _LANES * _LANES), -(-vocab // _LANES) * _LANES)
    return Facts(vocab, softcap, tokens, columns, interpret)


def arranged(
    facts: Facts, hidden: jax.Array, targets: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(hidden, targets, where) in whole blocks, what is asked for first, and where each token stands now, [N]."""
    order = jnp.argsort(~where, stable=True)
    after = (0, -where.size % facts.tokens)
    hidden = jnp.pad(jnp.where(where[:, None], hidden, 0)[order], (after, (0, 0)))
    targets, wanted = (jnp.pad(x[order], after) for x in (targets, where))
    return hidden, targets, wanted, jnp.argsort(order)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sorted(facts: Facts, hidden, kernel, targets, wanted):
    return forward(facts, hidden, kernel, targets, wanted)


def _logits(facts: Facts, hidden: Any, kernel: Any, block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits of a block of columns, and the columns' places; -inf behind the last."""
    out = jnp.dot(hidden[...], kernel[...], preferred_element_type=jnp.float32)
    out = out if facts.softcap is None else facts.softcap * jnp.tanh(out / facts.softcap)
    place = block * facts.columns + lax.broadcasted_iota(jnp.int32, out.shape, 1)
    return jnp.where(place < facts.vocab, out, -jnp.inf), place


def _forward_kernel(facts: Facts, some, hidden, kernel, targets, own, lse, top, total, mine):
    block, last = pl.program_id(1), pl.num_programs(1) - 1
    here = some[pl.program_id(0)] > 0

    @pl.when(here)
    def _():
        @pl.when(block == 0)
        def _():
            top[...] = jnp.full(top.shape, -jnp.inf)
            total[...] = jnp.zeros(total.shape)
            mine[...] = jnp.zeros(mine.shape)

        logits, place = _logits(facts, hidden, kernel, block)
        above = jnp.maximum(top[...], jnp.max(logits, axis=1, keepdims=True))
        total[...] = total[...] * jnp.exp(top[...] - above) + jnp.sum(jnp.exp(logits - above), axis=1, keepdims=True)
        top[...] = above
        mine[...] += jnp.sum(jnp.where(place == targets[...], logits, 0), axis=1, keepdims=True)

    @pl.when(block == last)
    def _():
        all_ = jnp.where(here, top[...] + jnp.log(total[...]), 0)
        lse[...] = all_
        own[...] = jnp.where(here, mine[...] - all_, 0)


def _in_logits(facts: Facts, hidden, kernel, targets, lse, grad, grad_lse, block):
    """Gradient in the product of a block, in its dtype."""
    logits, place = _logits(facts, hidden, kernel, block)
    p = jnp.exp(logits - lse[...])
    out = p * (grad_lse[...] - grad[...]) + jnp.where(place == targets[...], grad[...], 0)
    if facts.softcap is not None:
        out = out * (1 - jnp.square(jnp.where(place < facts.vocab, logits, 0) / facts.softcap))
    return out.astype(hidden.dtype), place


def _sum_up(out: Any, total: Any, here: jax.Array, term: Callable[[], jax.Array]) -> None:
    """out = the sum of `term()` over the inner loop, where it is `here`."""
    step, last = pl.program_id(1), pl.num_programs(1) - 1

    @pl.when(step == 0)
    def _():
        total[...] = jnp.zeros(total.shape)

    @pl.when(here)
    def _():
        total[...] += term()

    @pl.when(step == last)
    def _():
        out[...] = total[...].astype(out.dtype)


def _states_kernel(facts: Facts, some, hidden, kernel, targets, lse, grad, grad_lse, out, total):
    tokens, block = pl.program_id(0), pl.program_id(1)

    def term() -> jax.Array:
        of_logits, place = _in_logits(facts, hidden, kernel, targets, lse, grad, grad_lse, block)
        # What lies behind the last column is nobody's, and need not be a number
        columns = jnp.where(place[:1] < facts.vocab, kernel[...], 0)
        return lax.dot_general(of_logits, columns, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)

    _sum_up(out, total, some[tokens] > 0, term)


def _kernel_kernel(facts: Facts, some, hidden, kernel, targets, lse, grad, grad_lse, out, total):
    block, tokens = pl.program_id(0), pl.program_id(1)

    def term() -> jax.Array:
        of_logits = _in_logits(facts, hidden, kernel, targets, lse, grad, grad_lse, block)[0]
        return lax.dot_general(hidden[...], of_logits, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)

    _sum_up(out, total, some[tokens] > 0, term)


def _call(facts: Facts, body: Any, arrays: tuple[jax.Array, ...], wanted: jax.Array, out: Any, scratch: Any, by: str):
    """One kernel over blocks of tokens and of the vocabulary; `by` says which are in the outer loop."""
    hidden, kernel, *columns = arrays
    kernel = kernel.astype(hidden.dtype)
    (n, width), some = hidden.shape, jnp.max(wanted.reshape(-1, facts.tokens), axis=1).astype(jnp.int32)
    blocks = n // facts.tokens, pl.cdiv(facts.vocab, facts.columns)
    grid = blocks if by == "tokens" else blocks[::-1]

    def of(shape: tuple[int, int], axis: str) -> pl.BlockSpec:
        def index(*at: Any) -> tuple[Any, Any]:
            tokens, vocab = at[:2] if by == "tokens" else at[1::-1]
            return (tokens if axis == "tokens" else 0, vocab if axis == "vocab" else 0)

        return pl.BlockSpec(shape, index)

    a_token = of((facts.tokens, 1), "tokens")
    specs = {
        "hidden": of((facts.tokens, width), "tokens"), "kernel": of((width, facts.columns), "vocab"), "token": a_token,
    }  # fmt: skip
    return pl.pallas_call(
        functools.partial(body, facts),
        out_shape=[shape for _, shape in out],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[specs["hidden"], specs["kernel"], *(a_token for _ in columns)],
            out_specs=[specs[kind] for kind, _ in out],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=facts.interpret,
    )(some, hidden, kernel, *(x[:, None] for x in columns))


def forward(facts: Facts, hidden, kernel, targets, wanted) -> tuple[jax.Array, jax.Array]:
    """`logps` of what is `arranged`: ([N], [N]), numbers without meaning where `wanted` is False."""
    of_token = jax.ShapeDtypeStruct((hidden.shape[0], 1), jnp.float32)
    out, scratch = [("token", of_token)] * 2, [(facts.tokens, 1)] * 3
    own, lse = _call(facts, _forward_kernel, (hidden, kernel, targets), wanted, out, scratch, "tokens")
    return own[:, 0], lse[:, 0]


def backward(
    facts: Facts, saved: tuple[jax.Array, ...], grads: tuple[jax.Array, ...], dtype: Any = jnp.float32
) -> tuple[jax.Array, jax.Array]:
    """Gradients in hidden, in its dtype, and in the kernel, in `dtype`, both summed in float32.

    Args:
      saved: hidden, kernel, targets and `wanted` as given to `forward`, and the log-sum-exp that it gave.
      grads: those in what it gave.
    """
    hidden, kernel, targets, wanted, lse = saved
    grad, grad_lse = (jnp.where(wanted, g, 0) for g in grads)
    some = (grad != 0) | (grad_lse != 0)
    arrays = (hidden, kernel, targets, lse, grad, grad_lse)
    width = hidden.shape[1]

    def pulled(body: Any, kind: str, shape: tuple[int, ...], dtype: Any, block: tuple[int, int], by: str) -> jax.Array:
        return _call(facts, body, arrays, some, [(kind, jax.ShapeDtypeStruct(shape, dtype))], [block], by)[0]

    in_hidden = pulled(_states_kernel, "hidden", hidden.shape, hidden.dtype, (facts.tokens, width), "tokens")
    in_kernel = pulled(_kernel_kernel, "kernel", kernel.shape, dtype, (width, facts.columns), "vocab")
    return in_hidden, in_kernel


def _sorted_fwd(facts: Facts, hidden, kernel, targets, wanted):
    own, lse = forward(facts, hidden, kernel, targets, wanted)
    return (own, lse), (hidden, kernel, targets, wanted, lse)


def _sorted_bwd(facts: Facts, saved, grads):
    return *backward(facts, saved, grads, saved[1].dtype), None, None


_sorted.defvjp(_sorted_fwd, _sorted_bwd)

"""KL between the next-token distributions of two models, token by token, without ever holding [tokens, vocabulary].

One chunk of tokens at a time goes through both output heads; the backward pass makes the chunk's logits again. Heads
that no device holds whole (`ops.parted`) are gone over in slices, each with the KL of what it says by itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prefjax.ops import head_slices, parted
from prefjax.ops.sequences import token_kls as exact


class _Side(NamedTuple):
    """A model's output head: its kernel [D, V] and shift [V] or None."""

    kernel: Any
    bias: jax.Array | None


def token_kls(
    hidden: jax.Array,
    ref_hidden: jax.Array,
    kernel: jax.Array | parted.Parted,
    ref_kernel: jax.Array | parted.Parted,
    *,
    bias: jax.Array | None = None,
    ref_bias: jax.Array | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
    parts: int = 1,
    where: jax.Array | None = None,
) -> jax.Array:
    """KL(ref || policy) of the next token at each position: sum_v p_ref (log p_ref - log p).

    Args:
      hidden, ref_hidden: [N, D], [N, D'] states that predict the token, of policy and reference.
      kernel, ref_kernel: [D, V], [D', V] output heads, or a device's part of each; bias, ref_bias: [V].
      softcap: c in c tanh(logits / c), of both models.
      chunk: tokens whose logits are alive together; None is `head_chunks.default_chunk`.
      parts: devices that have as many tokens as this one, inside `jax.shard_map`.
      where: [N] bool; elsewhere the KL is 0 and no gradient flows.
    Returns: [N] nats, >= 0, float32 at least. Raises: ValueError for shapes that do not fit, or a chunk below 1.
    `ops.sequences.token_kls` is the same on whole logits.
    """
    if not (isinstance(kernel, parted.Parted) and isinstance(ref_kernel, parted.Parted)):
        kernel, ref_kernel = parted.whole(kernel), parted.whole(ref_kernel)
    for name, states, head in (("hidden", hidden, kernel), ("ref_hidden", ref_hidden, ref_kernel)):
        if states.ndim != 2 or len(head.shape) != 2 or states.shape[1] != head.shape[0]:
            raise ValueError(f"{name} {list(states.shape)} and its kernel {list(head.shape)} must be [N, D] and [D, V]")
    if hidden.shape[0] != ref_hidden.shape[0] or kernel.shape[1] != ref_kernel.shape[1]:
        raise ValueError(
            f"policy [{hidden.shape[0]}, {kernel.shape[1]}] and reference [{ref_hidden.shape[0]}, "
            f"{ref_kernel.shape[1]}] differ in tokens or vocabulary"
        )
    chunk = head_slices.chunk_of(hidden.shape[0], kernel, parts) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    if where is not None:
        hidden, ref_hidden = (jnp.where(where[:, None], x, 0) for x in (hidden, ref_hidden))
    if isinstance(kernel, parted.Parted) and isinstance(ref_kernel, parted.Parted):
        kls = _of_slices(hidden, ref_hidden, (kernel, ref_kernel), (bias, ref_bias), softcap, chunk)
    else:
        kls = _in_chunks(hidden, ref_hidden, _Side(kernel, bias), _Side(ref_kernel, ref_bias), softcap, chunk)[0]
    return kls if where is None else jnp.where(where, kls, 0)


def _logits(states: jax.Array, head: _Side, softcap: float | None) -> jax.Array:
    wide = jnp.promote_types(states.dtype, jnp.float32)
    out = jnp.matmul(states, head.kernel.astype(states.dtype), preferred_element_type=wide)
    out = out if head.bias is None else out + head.bias.astype(wide)
    return out if softcap is None else softcap * jnp.tanh(out / softcap)


def _in_chunks(
    hidden: jax.Array, ref_hidden: jax.Array, own: _Side, ref: _Side, softcap: float | None, chunk: int
) -> jax.Array:
    """[3, N]: the KL, and the log-sum-exp of the logits of policy and reference."""

    @jax.checkpoint
    def part(pieces: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = _logits(pieces[0], own, softcap), _logits(pieces[1], ref, softcap)
        return jnp.stack([exact(*logits), *(jax.nn.logsumexp(x, axis=-1) for x in logits)])

    n = hidden.shape[0]
    if chunk >= n:
        return part((hidden, ref_hidden))
    # Strided, as in `head_chunks`, so that a token axis sharded over devices stays sharded inside every chunk
    count = -(-n // chunk)
    size = -(-n // count)

    def split(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, size * count - n), (0, 0)))
        return padded.reshape(size, count, x.shape[1]).swapaxes(0, 1)

    found = jax.lax.map(part, (split(hidden), split(ref_hidden)))
    return found.transpose(1, 2, 0).reshape(3, -1)[:, :n]


def _of_slices(
    hidden: jax.Array,
    ref_hidden: jax.Array,
    kernels: tuple[parted.Parted, parted.Parted],
    biases: tuple[jax.Array | None, jax.Array | None],
    softcap: float | None,
    chunk: int,
) -> jax.Array:
    """sum_s p_ref(s) (KL_s + log p_ref(s) - log p(s)) over slices s of the vocabulary, KL_s within one."""
    cut = kernels[0].cut

    # What is gathered is let go, and gathered again for the backward pass
    @jax.checkpoint
    def of_slice(sides: tuple[_Side, _Side]) -> jax.Array:
        own, ref = (side._replace(kernel=cut.gather(side.kernel)) for side in sides)
        return _in_chunks(hidden, ref_hidden, own, ref, softcap, chunk)

    sides = tuple(
        _Side(cut.split(kernel.rows.astype(x.dtype)), None if bias is None else cut.split(cut.own(bias)))
        for kernel, bias, x in zip(kernels, biases, (hidden, ref_hidden), strict=True)
    )
    kls, own, ref = jnp.moveaxis(cut.collect(jax.lax.map(of_slice, sides)), 1, 0)
    share, ref_share = (x - jax.nn.logsumexp(x, axis=0) for x in (own, ref))
    return jnp.sum(jnp.exp(ref_share) * (kls + ref_share - share), axis=0)

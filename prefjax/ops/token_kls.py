"""KL between the next-token distributions of two models, token by token, without ever holding [tokens, vocabulary].

One chunk of tokens at a time goes through both output heads; the backward pass makes the chunk's logits again.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prefjax.ops import logprobs, parted
from prefjax.ops.sequences import token_kls as exact


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
    where: jax.Array | None = None,
) -> jax.Array:
    """KL(ref || policy) of the next token at each position: sum_v p_ref (log p_ref - log p).

    Args:
      hidden, ref_hidden: [N, D], [N, D'] states that predict the token, of policy and reference.
      kernel, ref_kernel: [D, V], [D', V] output heads, gathered where a device has a part; bias, ref_bias: [V].
      softcap: c in c tanh(logits / c), of both models.
      chunk: tokens whose logits are alive together; None is `logprobs.default_chunk`.
      where: [N] bool; elsewhere the KL is 0 and no gradient flows.
    Returns: [N] nats, >= 0, float32 at least. Raises: ValueError for shapes that do not fit, or a chunk below 1.
    `ops.sequences.token_kls` is the same on whole logits.
    """
    kernel, ref_kernel = parted.whole(kernel), parted.whole(ref_kernel)
    for name, states, head in (("hidden", hidden, kernel), ("ref_hidden", ref_hidden, ref_kernel)):
        if states.ndim != 2 or head.ndim != 2 or states.shape[1] != head.shape[0]:
            raise ValueError(f"{name} {list(states.shape)} and its kernel {list(head.shape)} must be [N, D] and [D, V]")
    if hidden.shape[0] != ref_hidden.shape[0] or kernel.shape[1] != ref_kernel.shape[1]:
        raise ValueError(
            f"policy [{hidden.shape[0]}, {kernel.shape[1]}] and reference [{ref_hidden.shape[0]}, "
            f"{ref_kernel.shape[1]}] differ in tokens or vocabulary"
        )
    n, vocab = hidden.shape[0], kernel.shape[1]
    chunk = logprobs.default_chunk(n, vocab) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    if where is not None:
        hidden, ref_hidden = (jnp.where(where[:, None], x, 0) for x in (hidden, ref_hidden))

    def logits(states: jax.Array, head: jax.Array, shift: jax.Array | None) -> jax.Array:
        wide = jnp.promote_types(states.dtype, jnp.float32)
        out = jnp.matmul(states, head.astype(states.dtype), preferred_element_type=wide)
        out = out if shift is None else out + shift.astype(wide)
        return out if softcap is None else softcap * jnp.tanh(out / softcap)

    @jax.checkpoint
    def part(pieces: tuple[jax.Array, jax.Array]) -> jax.Array:
        return exact(logits(pieces[0], kernel, bias), logits(pieces[1], ref_kernel, ref_bias))

    if chunk >= n:
        kls = part((hidden, ref_hidden))
    else:
        # Strided, as in `logprobs`, so that a token axis sharded over devices stays sharded inside every chunk
        count = -(-n // chunk)
        size = -(-n // count)

        def split(x: jax.Array) -> jax.Array:
            padded = jnp.pad(x, ((0, size * count - n), (0, 0)))
            return padded.reshape(size, count, x.shape[1]).swapaxes(0, 1)

        kls = jax.lax.map(part, (split(hidden), split(ref_hidden))).swapaxes(0, 1).reshape(-1)[:n]
    return kls if where is None else jnp.where(where, kls, 0)

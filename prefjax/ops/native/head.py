"""Log-probabilities of target tokens by the kernel `head.cc`: what `prefjax.ops.logprobs` gives, in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

KEPT = 16  # logits that the backward pass need not make again, as a multiple of the head's weights: D tokens' each
MOST = 2**28  # and at most so many (of 4 bytes)


@jax.custom_vjp
def logps(hidden: jax.Array, kernel: jax.Array, targets: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log softmax(hidden kernel)[target] of each token, and the log-sum-exp of its logits; reverse mode only.

    The vocabulary is cut in blocks that fit the cache. For the backward pass the logits of the first tokens are kept,
    of `KEPT` times D tokens at most; the others never go to memory and are made again. Tokens not asked for, and in the
    backward pass those without a gradient, cost nothing.

    Args:
      hidden: [N, D] float32; kernel: [D, V] float32; targets: [N] int32 in 0 .. V-1; where: [N] bool.

    Returns:
      ([N], [N]) float32 in nats, 0 where `where` is False.
    """
    return _call(hidden, kernel, targets, where, kept=0)[:2]


def _call(hidden, kernel, targets, where, *, kept: int) -> Any:
    like = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (targets.shape, targets.shape, (kept,)))
    return jax.ffi.ffi_call("prefjax_head", like, vmap_method="sequential")(hidden, kernel, targets, where)


def _forward(hidden, kernel, targets, where) -> tuple[Any, Any]:
    wanted = targets.size * (kernel.shape[1] + 256)  # the last block of columns, at most 256, is padded
    found, lse, logits = _call(hidden, kernel, targets, where, kept=min(wanted, MOST, KEPT * kernel.size))
    return (found, lse), (hidden, kernel, targets, where, lse, logits)


def _backward(saved: Any, grads: Any) -> tuple[Any, ...]:
    hidden, kernel = saved[:2]
    like = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (hidden, kernel))
    in_hidden, in_kernel = jax.ffi.ffi_call("prefjax_head_grads", like, vmap_method="sequential")(*saved, *grads)
    return in_hidden, in_kernel, None, None


logps.defvjp(_forward, _backward)

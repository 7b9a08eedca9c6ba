"""Log-probabilities of target tokens by the kernel `head.cc`: what `prefjax.ops.logprobs` gives, in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def logps(hidden: jax.Array, kernel: jax.Array, targets: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log softmax(hidden kernel)[target] of each token, and the log-sum-exp of its logits; reverse mode only.

    The vocabulary is cut in blocks that fit the cache; logits never go to memory, and the backward pass makes them
    again. Tokens not asked for, and in the backward pass those without a gradient, cost nothing.

    Args:
      hidden: [N, D] float32; kernel: [D, V] float32; targets: [N] int32 in 0 .. V-1; where: [N] bool.

    Returns:
      ([N], [N]) float32 in nats, 0 where `where` is False.
    """
    like = jax.ShapeDtypeStruct(targets.shape, jnp.float32)
    call = jax.ffi.ffi_call("prefjax_head", (like, like), vmap_method="sequential")
    found, lse = call(hidden, kernel, targets, where)
    return found, lse


def _forward(hidden, kernel, targets, where) -> tuple[Any, Any]:
    found, lse = logps(hidden, kernel, targets, where)
    return (found, lse), (hidden, kernel, targets, where, lse)


def _backward(saved: Any, grads: Any) -> tuple[Any, ...]:
    hidden, kernel = saved[:2]
    like = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (hidden, kernel))
    in_hidden, in_kernel = jax.ffi.ffi_call("prefjax_head_grads", like, vmap_method="sequential")(*saved, *grads)
    return in_hidden, in_kernel, None, None


logps.defvjp(_forward, _backward)

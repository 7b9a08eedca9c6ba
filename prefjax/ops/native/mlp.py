"""The gated MLP of Llama and its kin by the kernel `mlp.cc`, in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gated(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """(silu(x gate) * (x up)) down; reverse mode only. For the backward pass the two products x gate, x up are kept.

    Args:
      x: [N, D] float32; gate, up: [D, F] float32; down: [F, D] float32.

    Returns:
      [N, D] float32.
    """
    return _call(x, gate, up, down, 0)[0]


def kept_size(tokens: int, inner: int) -> int:
    """Floats that hold the two products of the wide layer."""
    return 2 * tokens * -(-inner // 128) * 128


def _call(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array, kept: int) -> Any:
    like = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x.shape, (kept,)))
    return jax.ffi.ffi_call("prefjax_mlp", like, vmap_method="sequential")(x, gate, up, down)


def _forward(x, gate, up, down) -> tuple[jax.Array, Any]:
    out, kept = _call(x, gate, up, down, kept_size(x.shape[0], gate.shape[1]))
    return out, (x, gate, up, down, kept)


def _backward(saved: Any, grad: jax.Array) -> Any:
    like = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in saved[:4])
    return jax.ffi.ffi_call("prefjax_mlp_grads", like, vmap_method="sequential")(*saved, grad)


gated.defvjp(_forward, _backward)

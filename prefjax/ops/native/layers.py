"""All layers of a Llama by the kernel `layers.cc`: what the modules of `prefjax.models.layers` give, in float32."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.ops.native import mlp


class Weights(NamedTuple):
    """Parameters of the layers, [L, ...] float32; D wide, H heads and KV of keys, each of head_dim, F in the MLP."""

    norm: jax.Array  # [L, D]
    q: jax.Array  # [L, D, H head_dim]
    k: jax.Array  # [L, D, KV head_dim]
    v: jax.Array  # [L, D, KV head_dim]
    o: jax.Array  # [L, H head_dim, D]
    mlp_norm: jax.Array  # [L, D]
    gate: jax.Array  # [L, D, F]
    up: jax.Array  # [L, D, F]
    down: jax.Array  # [L, F, D]


class Facts(NamedTuple):
    """Sizes that no array says, and constants."""

    heads: int
    groups: int  # heads of keys
    eps: float  # of the norms
    scale: float  # on the logits of attention
    offset: float  # added to the norms' factors

    def attributes(self) -> dict[str, Any]:
        """As the kernel takes them."""
        whole = {name: np.int64(getattr(self, name)) for name in ("heads", "groups")}
        return whole | {name: np.float32(getattr(self, name)) for name in ("eps", "scale", "offset")}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(facts: Facts, x: jax.Array, weights: Weights, cos, sin, mask, real, where) -> jax.Array:
    """The residual stream after all layers; reverse mode only, in x and the weights.

    Args:
      x: [R, T, D] float32.
      cos, sin: [R or 1, T, pairs] float32 (`rope.tables`).
      mask: bool [R or 1, T, T], query by key, of real tokens alone.
      real: bool [R, T]; tokens without it are left out: they give 0 and have no gradient.
      where: bool [R, T], tokens asked for; the others give 0, and the last layer spares itself what they need.

    Returns:
      [R, T, D].
    """
    return _call(facts, keep=False, args=(x, *weights, cos, sin, mask, real, where))[0]


def _call(facts: Facts, *, keep: bool, args: tuple[jax.Array, ...]) -> Any:
    x, weights = args[0], Weights(*args[1:10])
    tokens, layers = x.shape[0] * x.shape[1], weights.q.shape[0]
    of_keys = tokens * weights.k.shape[2], tokens * weights.v.shape[2]
    of_queries = tokens * weights.q.shape[2]
    sizes = (tokens * x.shape[2], of_queries, *of_keys, of_queries, tokens * facts.heads)
    kept = [((layers - 1) * sizes[0],), *((layers, size) for size in sizes)]
    kept.append((layers, mlp.kept_size(tokens, weights.gate.shape[2])))
    like = [jax.ShapeDtypeStruct(shape if keep else (0,), jnp.float32) for shape in kept]
    out = (jax.ShapeDtypeStruct(x.shape, jnp.float32), *like)
    return jax.ffi.ffi_call("prefjax_layers", out, vmap_method="sequential")(*args, **facts.attributes())


def _forward(facts: Facts, x, weights: Weights, cos, sin, mask, real, where) -> tuple[jax.Array, Any]:
    args = (x, *weights, cos, sin, mask, real, where)
    out, *kept = _call(facts, keep=True, args=args)
    return out, (args, kept)


def _backward(facts: Facts, saved: Any, grad: jax.Array) -> tuple[Any, ...]:
    args, kept = saved
    like = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in args[:10])
    call = jax.ffi.ffi_call("prefjax_layers_grads", like, vmap_method="sequential")
    in_x, *in_weights = call(*args, *kept, grad, **facts.attributes())
    return in_x, Weights(*in_weights), None, None, None, None, None


run.defvjp(_forward, _backward)

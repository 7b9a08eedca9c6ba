"""Where activations lie: rows of a batch stay cut over the devices that hold them, whatever parameters are cut over.

Without it the partitioner may follow parameters that are cut over the same axis ("fsdp") and sum whole activations over
all devices in each layer; with it parameters are gathered where they are used, which moves far less.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)
AXES = ("data", "fsdp")


def on(mesh: Mesh, fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, traced with its rows on `mesh`; to be jitted by the caller. On one device it is `fn` itself."""
    if mesh.size == 1:
        return fn

    @functools.wraps(fn)
    def placed(*args: Any, **kwargs: Any) -> Any:
        token = _MESH.set(mesh)
        try:
            return fn(*args, **kwargs)
        finally:
            _MESH.reset(token)

    return placed


def rows(x: jax.Array) -> jax.Array:
    """`x` [R, ...] with its rows over "data" and "fsdp" inside `on`; x where R does not divide, and elsewhere."""
    mesh = _MESH.get()
    if mesh is None:
        return x
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if parts == 1 or x.shape[0] % parts:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(AXES)))

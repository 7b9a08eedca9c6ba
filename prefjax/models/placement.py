"""Where activations lie: rows of a batch stay cut over the devices that hold them, whatever parameters are cut over.

Without it the partitioner may follow parameters that are cut over the same axis ("fsdp") and sum whole activations over
all devices in each layer; with it parameters are gathered where they are used, which moves far less.

A mesh with an axis "sequence" cuts the tokens of each row as well, for rows that are too long for one device: all but
attention works on one token at a time, and in attention each device has its own queries and gathers all keys and
values of their rows (grouped heads make these small). What a device holds of activations and of the weights of
attention falls with the axis; the keys and values of one layer, gathered, do not.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prefjax.ops import head_gpu, head_tpu, parted

_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)
_ELSEWHERE: contextvars.ContextVar[bool] = contextvars.ContextVar("elsewhere", default=False)
AXES = ("data", "fsdp")
SEQUENCE = "sequence"


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


def _cut(size: int, *axes: str) -> tuple[str, ...] | None:
    """`axes` where they are on the mesh and divide `size`, else None: not cut."""
    mesh, parts = _MESH.get(), 1
    for axis in axes:
        parts *= 1 if mesh is None else mesh.shape.get(axis, 1)
    return axes if parts > 1 and size % parts == 0 else None


def rows(x: jax.Array) -> jax.Array:
    """`x` [R, ...] with its rows over "data" and "fsdp" inside `on`; x where R does not divide, and elsewhere."""
    return _constrained(x, _cut(x.shape[0], *AXES))


def cache(x: jax.Array) -> jax.Array:
    """Keys or values [L, B, KV, S, head_dim] of a cache: rows as of `rows`, heads over "tensor"."""
    return _constrained(x, None, _cut(x.shape[1], *AXES), _cut(x.shape[2], "tensor"))


def tokens(x: jax.Array) -> jax.Array:
    """`x` [R, T, ...] with its rows as of `rows` and the tokens of each row over "sequence", each where it divides."""
    return _constrained(x, _cut(x.shape[0], *AXES), _cut(x.shape[1], SEQUENCE))


def embedded(x: jax.Array) -> jax.Array:
    """`tokens` of looked-up rows of a table that is cut over "fsdp" and "sequence": in two steps, each an exchange."""
    if _cut(x.shape[0], *AXES) and _cut(x.shape[1], SEQUENCE) and _cut(x.shape[2], SEQUENCE):
        x = _constrained(x, _cut(x.shape[0], *AXES), None, _cut(x.shape[2], SEQUENCE))
    return tokens(x)


def _constrained(x: jax.Array, *spec: tuple[str, ...] | None) -> jax.Array:
    mesh = _MESH.get()
    if mesh is None or not any(spec):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


def sequence_cut(length: int) -> bool:
    """Whether rows of so many tokens are cut over "sequence"."""
    return _cut(length, SEQUENCE) is not None


def placed() -> bool:
    """Whether what is traced runs `on` a mesh of several devices."""
    return _MESH.get() is not None


def attention(
    fn: Callable[..., Any],
    queries: tuple[jax.Array, ...],
    keys: tuple[jax.Array, ...],
    mask: jax.Array,
    outs: tuple[str, ...],
    *,
    kernel: bool = False,
) -> tuple[jax.Array, ...]:
    """`fn(*queries, *keys, mask)`, by each device for its own rows, heads and queries, with all keys of its rows.

    So a loop over rows or blocks stays on a device, where the partitioner would gather what it runs over. What `fn`
    returns for keys, such as their gradients, is summed over the devices that had them.

    Args:
      fn: gives a tuple. queries: [B, H, ..., T, n] each; keys: [B, KV, S, n] each; mask: [B or 1, T, S].
      outs: for each array that `fn` gives, whether it is one of the "queries" or of the "keys".
      kernel: whether `fn` calls a kernel, which the partitioner cannot cut: each device calls it, also where nothing or
        heads alone are cut.
    """
    mesh = _MESH.get()
    batch, cut = _cut(mask.shape[0] if mask.shape[0] > 1 else keys[0].shape[0], *AXES), _cut(mask.shape[1], SEQUENCE)
    if mesh is None or not (batch or cut or kernel):
        return fn(*queries, *keys, mask)
    heads = _cut(queries[0].shape[1], "tensor") and _cut(keys[0].shape[1], "tensor")

    def spec(x: jax.Array) -> PartitionSpec:
        return PartitionSpec(batch, heads, *(None,) * (x.ndim - 4), cut)

    def here(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        *own, mask = arrays
        own, whole = own[: len(queries)], own[len(queries) :]
        if cut:
            whole = [jax.lax.all_gather(x, SEQUENCE, axis=2, tiled=True) for x in whole]
        found = fn(*own, *whole, mask)
        if not cut:
            return found
        kinds = zip(found, outs, strict=True)
        return tuple(x if kind == "queries" else _scattered(x) for x, kind in kinds)

    of = {"queries": spec(queries[0]), "keys": spec(keys[0])}
    of_mask = PartitionSpec(batch if mask.shape[0] > 1 else None, cut)
    # Not checked: loops inside begin from zeros, which are no device's own
    spread = jax.shard_map(
        here,
        mesh=mesh,
        in_specs=(*map(spec, queries), *map(spec, keys), of_mask),
        out_specs=tuple(of[kind] for kind in outs),
        check_vma=False,
    )
    return spread(*queries, *keys, mask)


def kernels() -> bool:
    """Whether the output head has a kernel on the devices there are, which the partitioner cannot cut."""
    return _ELSEWHERE.get() or head_tpu.here() or head_gpu.here()


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Inside, activations are placed as on devices with `kernels`, whatever the devices are: for plans."""
    token = _ELSEWHERE.set(True)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def _own_tokens(rows: int, length: int) -> tuple[tuple[str, ...], ...] | None:
    """Axes over which [rows, length] are cut, where `by_token` gives each device tokens of its own; else None.

    That is where rows are cut along their tokens, and where there are `kernels`.
    """
    mesh, batch, cut = _MESH.get(), _cut(rows, *AXES), _cut(length, SEQUENCE)
    if mesh is None or not (cut or (kernels() and rows % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0)):
        return None
    return batch or (), cut or ()


def token_parts(rows: int, length: int) -> int:
    """Among how many devices `by_token` shares the tokens of [rows, length]; 1 where it leaves them whole."""
    mesh, cut = _MESH.get(), _own_tokens(rows, length)
    return 1 if mesh is None or cut is None else math.prod(mesh.shape[axis] for axes in cut for axis in axes)


def head_cut(rows: int, length: int, shape: tuple[int, ...]) -> parted.Cut | None:
    """How `by_token` of [rows, length] parts a matrix [D, V] that all tokens need; None where it is given whole."""
    mesh, cut = _MESH.get(), _own_tokens(rows, length)
    if mesh is None or cut is None or len(shape) != 2:
        return None
    batch, sequence = cut
    axes = tuple(axis for axis in ((*batch, *sequence)) if axis != "data" and mesh.shape[axis] > 1)
    over = _cut(shape[1], "tensor") or ()
    devices, columns = (math.prod(mesh.shape[axis] for axis in names) for names in (axes, over))
    slices = parted.slices(shape[1] // columns, devices) if devices > 1 else 1
    return parted.Cut(axes, over, slices) if devices * columns > 1 and slices and shape[0] % devices == 0 else None


def by_token(fn: Callable[..., Any], shared: Any, *arrays: jax.Array) -> Any:
    """`fn(shared, *arrays)` by each device for tokens of its own, or for all at once where nothing calls for that.

    Rows that are cut along their tokens do, and kernels that the partitioner cannot cut: so what sorts tokens or loops
    over them, such as the output head, does so on a device with its own. A matrix of `shared` stays cut over the
    devices, where these divide it (`head_cut`): `fn` gets a `parted.Parted`. The gradient in what else is shared is
    summed over devices once, at the end.

    Args:
      fn: gives a tree of [R, T, ...] and looks at each token by itself.
      shared: a tree of arrays that all tokens need.
      arrays: [R, T, ...] each.
    """
    mesh = _MESH.get()
    size, length = arrays[0].shape[:2]
    cut = _own_tokens(size, length)
    if mesh is None or cut is None:
        return fn(shared, *arrays)
    leaves, tree = jax.tree.flatten(shared)
    known = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, int | float)}  # stay numbers
    leaves = [leaf for leaf in leaves if not isinstance(leaf, int | float)]
    cuts = [head_cut(size, length, jnp.shape(leaf)) for leaf in leaves]

    def here(leaves: list[Any], *own: jax.Array) -> Any:
        given = iter([parted.Parted(x, how) if how else x for x, how in zip(leaves, cuts, strict=True)])
        every = [known[place] if place in known else next(given) for place in range(tree.num_leaves)]
        return fn(tree.unflatten(every), *own)

    spec = PartitionSpec(*(axes or None for axes in cut))
    # Not checked, as in `attention`
    spread = jax.shard_map(
        here,
        mesh=mesh,
        in_specs=(
            [PartitionSpec(how.axes or None, how.over or None) if how else PartitionSpec() for how in cuts],
            *(spec,) * len(arrays),
        ),
        out_specs=spec,
        check_vma=False,
    )
    return spread(leaves, *arrays)


def taken(x: jax.Array, index: jax.Array, places: jax.Array, column: jax.Array) -> jax.Array:
    """`jnp.take_along_axis(x, index[..., None], axis=1)`, by each device for its own tokens, without gathering rows.

    Args:
      x: [R, T, D].
      index: [R, T], of each token itself, the one before it, or places[row, column].
      places: [R, S] tokens of each row that any of its tokens may ask for; outside of the row: nobody does.
      column: [R, T] in 0 .. S - 1.
    """
    mesh = _MESH.get()
    batch, cut = _cut(x.shape[0], *AXES), _cut(x.shape[1], SEQUENCE)
    if mesh is None or cut is None:
        return jnp.take_along_axis(x, index[..., None], axis=1)
    count = mesh.shape[SEQUENCE]

    def here(x: jax.Array, index: jax.Array, column: jax.Array, places: jax.Array) -> jax.Array:
        length = x.shape[1]
        start = jax.lax.axis_index(SEQUENCE) * length
        before = jax.lax.ppermute(x[:, -1:], SEQUENCE, [(i, i + 1) for i in range(count - 1)])
        places = places - start
        mine = (places >= 0) & (places < length)
        asked = jnp.take_along_axis(x, jnp.where(mine, places, 0)[..., None], axis=1)
        asked = jax.lax.psum(jnp.where(mine[..., None], asked, 0), SEQUENCE)
        near = (index >= start - 1) & (index < start + length)
        own = jnp.where(near, index - start + 1, 1 + length + column)
        return jnp.take_along_axis(jnp.concatenate([before, x, asked], axis=1), own[..., None], axis=1)

    spec, axes = PartitionSpec(batch, cut), {*(batch or ()), *cut}
    spread = jax.shard_map(
        here,
        mesh=mesh,
        in_specs=(spec, spec, spec, PartitionSpec(batch)),
        out_specs=spec,
        axis_names=axes,
        check_vma=False,
    )
    return spread(x, index, column, places)


def _scattered(x: jax.Array) -> jax.Array:
    return jax.lax.psum_scatter(x, SEQUENCE, scatter_dimension=2, tiled=True)

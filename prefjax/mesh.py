"""Named meshes and sharding rules: a readable table of (regex, axes), first match wins; losses never see any of it."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
SEQUENCE = "sequence"
Rules = Sequence[tuple[str, Sequence[str | None]]]


def make_mesh(shape: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over the axes `data`, `fsdp`, `tensor`; also `sequence`, before `tensor`, where its size is not 1.

    `sequence` cuts rows of tokens into pieces, for rows too long for one device; see `prefjax.models.placement`.

    Args:
      shape: {axis: size}; one size may be -1 and takes the devices that are left. None puts all devices on `data`.
      devices: which jax devices, in which order; all of them by default.

    Raises:
      ValueError: an unknown axis, or sizes that ask for more devices than exist or do not divide them.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": -1, "fsdp": 1, SEQUENCE: 1, "tensor": 1, **(shape or {})}
    if unknown := set(sizes) - {*AXES, SEQUENCE}:
        raise ValueError(f"mesh axis {sorted(unknown)} is unknown; expected some of {', '.join((*AXES, SEQUENCE))}")
    if bad := [f"{k}={v}" for k, v in sizes.items() if v != -1 and v < 1]:
        raise ValueError(f"mesh sizes must be positive or -1, got {', '.join(bad)}")
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise ValueError(f"mesh sizes of {' and '.join(free)} are both -1; only one can take what is left")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        if fixed > len(devices) or len(devices) % fixed:
            raise ValueError(f"mesh {dict(sizes)} needs a multiple of {fixed} devices; {len(devices)} exist")
        sizes[free[0]] = len(devices) // fixed
    count = math.prod(sizes.values())
    if count > len(devices):
        raise ValueError(f"mesh {dict(sizes)} asks for {count} devices; {len(devices)} exist")
    axes = tuple(axis for axis in sizes if axis != SEQUENCE or sizes[axis] > 1)
    grid = np.array(devices[:count], dtype=object).reshape([sizes[axis] for axis in axes])
    return Mesh(grid, axes, axis_types=(AxisType.Auto,) * len(axes))


def path_name(path: Any) -> str:
    """A tree path as text, 'layers/attn/q/kernel'."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def spec_for(name: str, shape: Sequence[int], rules: Rules, mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec of one array: the first rule whose regex is found in its path.

    An axis that does not divide its dimension stays unsharded; what no rule matches is replicated. Where the mesh has
    a `sequence` axis, what is cut over `fsdp` is cut over both, for else each piece of a row would hold it all.
    """
    for pattern, axes in rules:
        if re.search(pattern, name):
            if len(axes) != len(shape):
                continue
            return PartitionSpec(*(_dividing(axis, size, mesh) for axis, size in zip(axes, shape, strict=True)))
    return PartitionSpec()


def _dividing(axis: str | Sequence[str] | None, size: int, mesh: Mesh) -> str | Sequence[str] | None:
    """`axis`, with `sequence` beside `fsdp` where they divide `size`; None where it does not."""
    names = tuple(_names(axis))
    wide = (*names, SEQUENCE) if "fsdp" in names and SEQUENCE in mesh.shape else names
    for choice in (wide, names):
        if choice and size % math.prod(mesh.shape[a] for a in choice) == 0:
            return choice[0] if len(choice) == 1 else choice
    return None


def _names(axis: str | Sequence[str] | None) -> Sequence[str]:
    return () if axis is None else (axis,) if isinstance(axis, str) else axis


def shardings(tree: Any, rules: Rules, mesh: Mesh) -> Any:
    """NamedShardings for a tree of arrays (or shapes); optimizer moments match by the path of their parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec_for(path_name(path), x.shape, rules, mesh)), tree
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are cut along their leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


@functools.cache
def share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): of `count` equal parts of a batch's rows this process's devices hold the one at `index`.

    Processes whose devices share rows, as where "tensor" or "sequence" goes across processes, have the same index.

    Raises:
      ValueError: this process has no device on the mesh, or its devices hold no such part.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    places = batch_sharding(mesh).devices_indices_map((parts,))
    own = sorted({where[0].start or 0 for d, where in places.items() if d.process_index == jax.process_index()})
    if not own or parts % len(own) or own != list(range(own[0], own[0] + len(own))) or own[0] % len(own):
        raise ValueError(f"mesh {dict(mesh.shape)}: process {jax.process_index()} holds rows {own} of {parts}")
    return own[0] // len(own), parts // len(own)


def rows_sharding(rows: int, mesh: Mesh) -> NamedSharding:
    """`batch_sharding` where the devices divide so many rows (of all processes), else replicated."""
    divides = rows % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
    return batch_sharding(mesh) if divides else NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from this process's `share` of rows; leading axes that the devices do not divide are replicated.

    Raises:
      ValueError: several processes, and a leading axis that the devices do not divide.
    """
    _, count = share(mesh)

    def put(name: str, x: np.ndarray) -> jax.Array:
        where = rows_sharding(x.shape[0] * count, mesh)
        if where.is_fully_replicated and count > 1:
            parts = mesh.shape["data"] * mesh.shape["fsdp"]
            raise ValueError(f"batch[{name!r}] has {x.shape[0]} rows a process; {parts} devices do not divide them")
        return jax.make_array_from_process_local_data(where, x)

    return {name: put(name, np.asarray(x)) for name, x in batch.items()}


def fetch(tree: Any) -> Any:
    """A tree of arrays as numpy, on every process all of it; all processes call it together."""

    def whole(x: Any) -> Any:
        far = isinstance(x, jax.Array) and not x.is_fully_addressable
        return multihost_utils.process_allgather(x, tiled=True) if far else x

    return jax.device_get(jax.tree.map(whole, tree) if jax.process_count() > 1 else tree)


def first_held(tree: Any) -> Any:
    """The rows of each array, as numpy, of which this process holds the first copy: over all processes each row once.

    Args:
      tree: of arrays that are cut along their leading axis alone, or not at all.
    """

    def rows(x: jax.Array) -> np.ndarray:
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        mine = [np.asarray(shard.data) for shard in shards if shard.replica_id == 0]
        return np.concatenate(mine or [np.asarray(shards[0].data)[:0]])

    return jax.tree.map(rows, tree)

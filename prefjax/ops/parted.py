"""A matrix [D, V] that no device holds whole: each has some of its rows and columns, and goes over these in slices.

For the output head where devices have tokens of their own (inside `jax.shard_map`). The rows of one slice of the
vocabulary at a time are gathered; its gradient goes back to the devices that hold them before the next one comes.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

SLICES = 8  # at least so many; where more devices share the matrix, at least as many as these


class Cut(NamedTuple):
    """How a matrix is parted, all of it by hand.

    Attributes:
      axes: of the mesh, over which its rows are cut.
      over: axes over which its columns are cut.
      slices: of the columns that a device has.
    """

    axes: tuple[str, ...]
    over: tuple[str, ...]
    slices: int

    @property
    def count(self) -> int:
        """Slices on all devices together."""
        return self.slices * lax.axis_size(self.over)

    def split(self, x: jax.Array) -> jax.Array:
        """A device's [..., V / devices] as [slices, ..., V / devices / slices]."""
        return jnp.moveaxis(x.reshape(*x.shape[:-1], self.slices, -1), -2, 0)

    def slice(self, x: jax.Array, index: ArrayLike) -> jax.Array:
        """[..., V / devices / slices]: one slice of the columns that a device has."""
        size = x.shape[-1] // self.slices
        return lax.dynamic_slice_in_dim(x, index * size, size, axis=-1)

    def put(self, x: jax.Array, value: jax.Array, index: ArrayLike) -> jax.Array:
        """`x` with `value` in the place of one slice."""
        return lax.dynamic_update_slice_in_dim(x, value, index * value.shape[-1], axis=-1)

    def own(self, x: jax.Array) -> jax.Array:
        """Of what every device has whole, [..., V], the columns that are its own."""
        size = x.shape[-1] // lax.axis_size(self.over)
        return lax.dynamic_slice_in_dim(x, lax.axis_index(self.over) * size, size, axis=-1) if self.over else x

    def gather(self, rows: jax.Array) -> jax.Array:
        """All rows, of those that each device has."""
        return lax.all_gather(rows, self.axes, axis=0, tiled=True) if self.axes else rows

    def scatter(self, whole: jax.Array) -> jax.Array:
        """The sum over devices of matrices, of which each gets its own rows."""
        return lax.psum_scatter(whole, self.axes, scatter_dimension=0, tiled=True) if self.axes else whole

    def collect(self, x: jax.Array) -> jax.Array:
        """[count, ...] of [slices, ...]: what the devices found, each in its own columns, in the order of these."""
        return lax.all_gather(x, self.over, axis=0, tiled=True) if self.over else x


@dataclasses.dataclass(frozen=True)
class Parted:
    """A device's `rows` [D / devices, V / devices] of a matrix, where a function expects the matrix."""

    rows: jax.Array
    cut: Cut

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole matrix."""
        rows, columns = self.rows.shape
        return rows * lax.axis_size(self.cut.axes), columns * lax.axis_size(self.cut.over)


def varies_over(x: jax.Array) -> frozenset[str]:
    """Axes over which `x` differs, as a `jax.shard_map` that checks knows; none elsewhere."""
    kind = jax.typeof(x)
    return kind.vma if hasattr(kind, "vma") else kind.mat.varying  # renamed in jax 0.10


def alone(*arrays: jax.Array) -> bool:
    """Whether what is traced is one device's program, which the partitioner does not cut: kernels run in such alone.

    Not inside a `jax.shard_map` that checks over which axes its arrays vary: kernels and loops here do not say.
    """
    mesh = jax.sharding.get_abstract_mesh()
    one = jax.device_count() == 1 or (not mesh.empty and mesh.are_all_axes_manual)
    return one and not any(map(varies_over, arrays))


def slices(width: int, devices: int = 1) -> int:
    """Into how many slices so many columns go where `devices` share the rows; 0 where no number fits them."""
    least = max(SLICES, devices)
    return next((count for count in range(least, 4 * least) if width % count == 0), 0)


def whole(matrix: jax.Array | Parted) -> jax.Array:
    """The matrix, gathered where it is parted."""
    if not isinstance(matrix, Parted):
        return matrix
    rows, over = matrix.cut.gather(matrix.rows), matrix.cut.over
    return lax.all_gather(rows, over, axis=1, tiled=True) if over else rows

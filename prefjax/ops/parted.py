"""A matrix [D, V] that no device holds whole: each has some of its rows, and all go over its columns slice by slice.

For the output head where devices have tokens of their own (inside `jax.shard_map`). One slice of the vocabulary at a
time is gathered; its gradient goes back to the devices that hold its rows before the next one comes.
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
    """How a matrix is parted.

    Attributes:
      axes: of the mesh, over which its rows are cut by hand.
      blocks: equal pieces that an axis left to the partitioner makes of the columns; a slice has a share of each, so
        that it is cut over that axis too.
      slices: of the columns.
    """

    axes: tuple[str, ...]
    blocks: int
    slices: int

    def split(self, x: jax.Array) -> jax.Array:
        """[..., V] as [..., blocks, slices, V / blocks / slices]."""
        return x.reshape(*x.shape[:-1], self.blocks, self.slices, x.shape[-1] // (self.blocks * self.slices))

    def slice(self, x: jax.Array, index: ArrayLike) -> jax.Array:
        """[..., V / slices]: one slice of the columns."""
        return lax.dynamic_index_in_dim(self.split(x), index, x.ndim, keepdims=False).reshape(*x.shape[:-1], -1)

    def put(self, x: jax.Array, value: jax.Array, index: ArrayLike) -> jax.Array:
        """`x` with `value` in the place of one slice."""
        split = self.split(x)
        value = value.reshape(*split.shape[:-2], split.shape[-1])
        return lax.dynamic_update_index_in_dim(split, value, index, x.ndim).reshape(x.shape)

    def find(self, columns: ArrayLike, width: int) -> tuple[jax.Array, jax.Array]:
        """(slice, place in it) of columns of a matrix that has `width`."""
        each = width // (self.blocks * self.slices)
        block, index, place = jnp.unravel_index(columns, (self.blocks, self.slices, each))
        return index, block * each + place

    def column(self, index: jax.Array, place: jax.Array, width: int) -> jax.Array:
        """The inverse of `find`."""
        each = width // (self.blocks * self.slices)
        return (place // each * self.slices + index) * each + place % each

    def gather(self, rows: jax.Array) -> jax.Array:
        """All rows, of those that each device has."""
        return lax.all_gather(rows, self.axes, axis=0, tiled=True)

    def scatter(self, whole: jax.Array) -> jax.Array:
        """The sum over devices of matrices, of which each gets its own rows."""
        return lax.psum_scatter(whole, self.axes, scatter_dimension=0, tiled=True)


@dataclasses.dataclass(frozen=True)
class Parted:
    """A device's `rows` [D / devices, V] of a matrix, where a function expects the matrix."""

    rows: jax.Array
    cut: Cut

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole matrix."""
        return self.rows.shape[0] * lax.axis_size(self.cut.axes), *self.rows.shape[1:]


def slices(width: int, devices: int, blocks: int = 1) -> int:
    """Into how many slices so many columns go; 1 where no number fits them."""
    least = max(SLICES, devices)
    return next((count for count in range(least, 4 * least) if width % (blocks * count) == 0), 1)


def whole(matrix: jax.Array | Parted) -> jax.Array:
    """The matrix, gathered where it is parted."""
    return matrix.cut.gather(matrix.rows) if isinstance(matrix, Parted) else matrix

"""The output head where no device holds it whole: one device's numbers, and no array as large as the head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prefjax import mesh as meshes
from prefjax.models import placement
from prefjax.models.decoder import Unembed
from prefjax.ops import logprobs, parted
from prefjax.ops.token_kls import token_kls
from tests import jaxprs

ROWS, LENGTH, D, V = 2, 8, 16, 192


@pytest.fixture(scope="module")
def grid():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices, real or faked")
    return meshes.make_mesh({"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2})


def inputs():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    where = rng.random((ROWS, LENGTH)) < 0.7
    return (draw(D, V), draw(V), jnp.float32(3)), draw(ROWS, LENGTH, D), rng.integers(0, V, (ROWS, LENGTH)), where


def on_tokens(head, states, targets, where, *, stats, chunk):
    """Statistics [R, T], each device its own tokens' where a mesh cuts them."""

    def of_rows(head, states, targets, where):
        found = logprobs.token_stats(
            states.reshape(-1, D),
            head.kernel,
            targets.ravel(),
            bias=head.bias,
            softcap=head.softcap,
            where=where.ravel(),
            chunk=chunk,
            stats=stats,
        )
        return {name: value.reshape(targets.shape) for name, value in found.items()}

    return placement.by_token(of_rows, Unembed(*head), states, targets, where)


def weighted(found):
    weight = jnp.cos(jnp.arange(ROWS * LENGTH, dtype=jnp.float32)).reshape(ROWS, LENGTH)
    return sum(jnp.sum(value * (weight + i)) for i, (name, value) in enumerate(sorted(found.items())) if name != "top1")


def both(fn, head, states, *rest):
    """What `fn` gives, and the gradients of a weighted sum of it in head and states."""

    def loss(head, states):
        found = fn(head, states, *rest)
        return weighted(found), found

    return jax.grad(loss, (0, 1), has_aux=True)(head, states)


def placed(grid, fn):
    """`fn` under jit with head and states where a run has them."""
    places = (("fsdp", "sequence"), "tensor"), ("tensor",), (), (placement.AXES, "sequence")
    *head, states = (NamedSharding(grid, PartitionSpec(*axes)) for axes in places)
    return jax.jit(placement.on(grid, fn), in_shardings=(tuple(head), states, None, None))


def largest_inside(grid, fn, *args):
    """Of what a device makes for itself, the most numbers of one array."""
    made = jaxprs.equations(jax.make_jaxpr(placement.on(grid, fn))(*args).jaxpr)
    spread = [e for e in made if e.primitive.name == "shard_map"]
    return max(v.aval.size for e in spread for inner in jaxprs.equations(e.params["jaxpr"]) for v in inner.outvars)


@pytest.mark.parametrize("dtype, stats, tolerance", [("float32", logprobs.STATS, 1e-5), ("bfloat16", (), 0.02)])
def test_statistics_and_gradients_equal_one_devices(grid, dtype, stats, tolerance):
    head, states, *rest = inputs()
    states = states.astype(dtype)
    fn = functools.partial(both, functools.partial(on_tokens, stats=stats, chunk=2))
    found, expected = (step(head, states, *rest) for step in (placed(grid, fn), jax.jit(fn)))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (a, b)), rtol=tolerance, atol=tolerance)
    # On a device there is its part of the head and of the head's gradient, and one slice: nothing as large as the head
    made = jaxprs.equations(jax.make_jaxpr(placement.on(grid, fn))(head, states, *rest).jaxpr)
    inside = [
        e for spread in made if spread.primitive.name == "shard_map" for e in jaxprs.equations(spread.params["jaxpr"])
    ]
    assert {"all_gather", "reduce_scatter"} <= {e.primitive.name for e in inside}
    assert largest_inside(grid, fn, head, states, *rest) == D * V // 8


@pytest.mark.parametrize("width, sliced", [(D, True), (D + 2, False)])  # devices do not divide D + 2
def test_exact_divergences_go_over_both_heads_in_slices(grid, width, sliced):
    def kls(head, states, targets, where):
        def of_rows(heads, states, where):
            own, ref = heads
            found = token_kls(
                states.reshape(-1, D),
                jnp.pad(jnp.cos(states), ((0, 0), (0, 0), (0, width - D))).reshape(-1, width),
                own.kernel,
                ref,
                bias=own.bias,
                softcap=own.softcap,
                where=where.ravel(),
                chunk=2,
            )
            return found.reshape(where.shape)

        ref = jnp.pad(jnp.sin(head[0]), ((0, width - D), (0, 0)))
        return {"kls": placement.by_token(of_rows, (Unembed(*head[:2], 3.0), ref), states, where)}

    fn, args = functools.partial(both, kls), inputs()
    for a, b in zip(jax.tree.leaves(placed(grid, fn)(*args)), jax.tree.leaves(jax.jit(fn)(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    most = largest_inside(grid, fn, *args)
    assert most == D * V // 8 if sliced else most >= D * V


def test_slices_hold_every_column_once():
    cut = parted.Cut((), (), slices=3)
    columns = jnp.arange(12)
    pieces = np.array([cut.slice(columns[None], i)[0] for i in range(3)])
    np.testing.assert_array_equal(pieces.ravel(), columns)
    np.testing.assert_array_equal(cut.split(columns), pieces)
    np.testing.assert_array_equal(cut.split(jnp.stack([columns, -columns]))[:, 1], -pieces)
    np.testing.assert_array_equal(cut.put(columns, -pieces[1], 1), np.where(columns // 4 == 1, -columns, columns))


def test_what_is_parted(grid):
    cut = placement.on(grid, placement.head_cut)
    assert cut(ROWS, LENGTH, (D, V)) == parted.Cut(("fsdp", "sequence"), ("tensor",), 8)
    assert cut(1, LENGTH, (D, V)) == parted.Cut(("sequence",), ("tensor",), 8)  # one row is not cut
    assert cut(ROWS, LENGTH, (D, 9 * 23)) == parted.Cut(("fsdp", "sequence"), (), 9)
    for rows, length, shape in ((2, 7, (D, V)), (2, 8, (6, V)), (2, 8, (D, 193)), (2, 8, (V,))):
        assert cut(rows, length, shape) is None
    assert placement.head_cut(ROWS, LENGTH, (D, V)) is None  # no mesh
    with placement.elsewhere():  # where a kernel is, rows alone are cut by hand too
        assert cut(ROWS, 7, (D, V)) == parted.Cut(("fsdp",), ("tensor",), 8)
        assert cut(1, 7, (D, V)) is None

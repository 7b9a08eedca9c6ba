"""Activations on a mesh: rows cut along their tokens, loops over rows that stay on a device, encoders."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prefjax import mesh as meshes
from prefjax import plan
from prefjax.models import attention, blockwise, placement, sharding
from prefjax.models.decoder import Unembed, decoder
from prefjax.models.encoder import encoder
from prefjax.ops import logprobs
from prefjax.views import language, layout

LENGTH = 256
FIELDS = (*layout.TOKEN_FIELDS, "response_mask")


@pytest.fixture(autouse=True, scope="module")
def eight():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices, real or faked")


def filled(model):
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


def packed(rows):
    """tokens, positions, segments, branches [rows, LENGTH] of two examples with two responses each, and padding."""
    sizes = [(1, 0, 60), (1, 1, 30), (1, 2, 41), (2, 0, 25), (2, 1, 50), (2, 2, 37)]
    segments = np.concatenate([np.full(n, s) for s, _, n in sizes])
    branches = np.concatenate([np.full(n, b) for _, b, n in sizes])
    prompt = {s: n for s, b, n in sizes if b == 0}
    positions = np.concatenate([np.arange(n) + (prompt[s] if b else 0) for s, b, n in sizes])
    tokens = np.random.default_rng(1).integers(0, 48, (rows, LENGTH))
    rest = [np.tile(np.pad(x, (0, LENGTH - len(x))), (rows, 1)) for x in (positions, segments, branches)]
    return [jnp.asarray(x, jnp.int32) for x in (tokens, *rest)]


def compiled(fn, *args, where=None):
    return jax.jit(fn, in_shardings=where).lower(*args).compile()


def test_rows_cut_along_their_tokens_give_the_same_gradients_in_less_memory():
    def step(kind):
        model = decoder(
            vocab_size=48, hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, attention=kind, remat="full"
        )

        def loss(params, batch):
            return -jnp.mean(language.row_logps(model, params, dict(zip(FIELDS, batch, strict=True))))

        return model, jax.value_and_grad(loss)

    batch = [*packed(2), jnp.ones((2, 2, 2), bool)]
    model, whole = step("plain")
    params = filled(model)
    one = compiled(whole, params, batch)
    expected = one(params, batch)
    grid = meshes.make_mesh({"data": 1, "sequence": 4, "tensor": 2})
    placed, rows = meshes.shardings(params, sharding.RULES, grid), NamedSharding(grid, PartitionSpec())
    assert placed["layers"]["mlp"]["up"]["kernel"].spec == PartitionSpec(None, ("fsdp", "sequence"), "tensor")
    for kind in ("plain", "blockwise"):
        where = (placed, [rows] * 5)
        cut = compiled(placement.on(grid, step(kind)[1]), params, batch, where=where)
        found = cut(*jax.device_put((params, batch), where))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        # Weights of attention, 4 heads of 256 by 256, are most of it: each device has one head pair and a quarter
        assert cut.memory_analysis().temp_size_in_bytes < 0.25 * one.memory_analysis().temp_size_in_bytes


def test_the_head_is_cut_with_the_tokens():
    """In chunks: the numbers of one device, and no logits of all tokens' chunks exchanged between devices."""
    rng = np.random.default_rng(2)
    batch = dict(zip(FIELDS, [*packed(16), jnp.ones((16, 2, 2), bool)], strict=True))
    params = {"kernel": rng.normal(size=(8, 5000)), "states": rng.normal(size=(16, LENGTH, 8))}
    params = {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}
    model = types.SimpleNamespace(unembed=lambda params: Unembed(params["kernel"], jnp.cos(jnp.arange(5000.0)), 5.0))

    def by_view(params):
        return language.row_logps(model, params, batch, params["states"])

    def whole(params):
        kernel, bias, softcap = model.unembed(params)
        where = layout.scored(batch)
        return logprobs.row_logps(params["states"], kernel, batch["tokens"], where, bias=bias, softcap=softcap)

    def grads(logps):
        weight = jnp.sin(jnp.arange(16.0 * LENGTH)).reshape(16, LENGTH)
        return jax.value_and_grad(lambda params: jnp.sum(weight * logps(params)))

    grid = meshes.make_mesh({"data": 1, "sequence": 4, "tensor": 2})
    spec = {"kernel": (("fsdp", "sequence"), "tensor"), "states": (placement.AXES, "sequence")}
    where = ({name: NamedSharding(grid, PartitionSpec(*axes)) for name, axes in spec.items()},)
    expected = compiled(grads(whole), params)(params)
    cut, left = (compiled(placement.on(grid, grads(fn)), params, where=where) for fn in (by_view, whole))
    found = cut(*jax.device_put((params,), where))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (cut, left)]
    assert sizes[0] < 0.4 * sizes[1]  # the partitioner by itself gives each device the logits of a chunk of all tokens


def test_a_sequence_axis_exists_where_asked_for():
    assert meshes.make_mesh({"fsdp": 2, "sequence": 1}).axis_names == ("data", "fsdp", "tensor")
    grid = meshes.make_mesh({"sequence": 4, "tensor": 2})
    assert dict(grid.shape) == {"data": 1, "fsdp": 1, "sequence": 4, "tensor": 2}
    kernel = functools.partial(meshes.spec_for, "head/kernel", rules=sharding.RULES, mesh=grid)
    assert kernel(shape=(8, 6)) == PartitionSpec(("fsdp", "sequence"), "tensor")
    assert kernel(shape=(6, 7)) == PartitionSpec("fsdp", None)  # 4 does not divide 6, and 2 not 7


def test_loops_over_rows_stay_where_the_rows_are():
    grid = meshes.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    mask = attention.layout_mask(*packed(8)[2:], LENGTH)
    q = jax.random.normal(jax.random.key(0), (8, 2, LENGTH, 4))
    weight = jnp.cos(jnp.arange(q.size)).reshape(q.shape)

    def loss(q, mask):
        out = blockwise.attend(q, q[:, :, ::-1], q, mask, scale=1.0, block=64, looped=True)
        return out, jnp.sum(out * weight)

    step = jax.grad(lambda *args: loss(*args)[1])
    where = tuple(NamedSharding(grid, PartitionSpec(placement.AXES, *rest)) for rest in (("tensor",), ()))
    placed = compiled(placement.on(grid, step), q, mask, where=where)
    left = compiled(lambda *args: step(*args), q, mask, where=where)
    assert not plan.collective_bytes(placed.as_text())
    assert plan.collective_bytes(left.as_text())["all-gather"] > q.nbytes  # what the partitioner does by itself
    args = jax.device_put((q, mask), where)
    np.testing.assert_allclose(placed(*args), left(*args), atol=1e-5)


def test_an_encoder_on_a_mesh():
    model = encoder(vocab_size=48, hidden_size=16, num_layers=2, num_heads=4, pooler=True, pooling="pooler")
    params, (tokens, positions, segments, _) = filled(model), packed(4)
    run = functools.partial(model.embed, texts=2)
    expected = jax.jit(run)(params, tokens, positions, segments)
    grid = meshes.make_mesh({"data": 2, "sequence": 2, "tensor": 2})
    where = (meshes.shardings(params, sharding.RULES, grid), *[meshes.batch_sharding(grid)] * 3)
    assert where[0]["pooler"]["kernel"].spec == PartitionSpec(("fsdp", "sequence"), "tensor")
    found = jax.jit(placement.on(grid, run), in_shardings=where)(params, tokens, positions, segments)
    np.testing.assert_allclose(found, expected, atol=1e-5)

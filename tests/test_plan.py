"""The planner counts what is known: products by hand, loops as often as they run, collectives of a known program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prefjax import loop, mesh, plan, recipe
from prefjax.config import ref
from prefjax.data.gold import dataset as gold
from prefjax.losses.language import sft
from prefjax.losses.preference import paired
from prefjax.models import placement
from prefjax.models.decoder import decoder
from prefjax.ops.native import library
from prefjax.optim import recipes
from prefjax.views import language


def flops(fn, *shapes):
    return plan.matmul_flops(jax.make_jaxpr(fn)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_products_and_loops_are_counted():
    assert flops(jnp.matmul, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    assert flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (7, 3, 4), (7, 4, 5)) == 7 * 2 * 3 * 4 * 5

    def repeated(x, w):
        return jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=6)[0]

    assert flops(jax.jit(repeated), (3, 4), (4, 4)) == 6 * 2 * 3 * 4 * 4
    both = jax.grad(lambda x, w: jnp.sum(x @ w), argnums=(0, 1))
    assert flops(both, (3, 4), (4, 5)) in (2 * 60 * 2, 3 * 60 * 2)  # the forward product may be dead
    branches = lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w)  # noqa: E731
    assert flops(branches, (3, 4), (4, 4)) == 2 * 2 * 3 * 4 * 4
    # What is cut by hand along one axis only holds a half, whatever else the mesh has
    grid, half = mesh.make_mesh({"data": 1, "sequence": 2, "tensor": 2}, jax.devices()[:4]), PartitionSpec("sequence")
    cut = {"in_specs": (half, PartitionSpec()), "out_specs": half, "axis_names": {"sequence"}, "check_vma": False}
    assert flops(jax.shard_map(jnp.matmul, mesh=grid, **cut), (6, 4), (4, 5)) == 2 * 6 * 4 * 5


def test_collectives_in_a_loop_count_as_often_as_it_runs():
    grid = mesh.make_mesh({"data": 1, "tensor": 4}, jax.devices()[:4])
    place = lambda *axes: NamedSharding(grid, PartitionSpec(*axes))  # noqa: E731

    def run(x, w):
        def body(c, _):
            return jax.lax.with_sharding_constraint(jnp.tanh(c) @ w, place()), None

        return jax.lax.scan(body, x, None, length=5)[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 16), (16, 16))]
    jitted = jax.jit(run, in_shardings=(place(), place("tensor", None)), out_shardings=place())
    found = plan.collective_bytes(jitted.lower(*shapes).compile().as_text())
    assert found["all-reduce"] == 5 * 8 * 16 * 4  # what is gathered once, before or after, is left to the compiler


def test_collectives_of_a_conditional_in_a_loop_are_those_of_its_largest_branch():
    grid = mesh.make_mesh({"data": 4}, jax.devices()[:4])

    def here(flags, x):
        once = lambda x: jax.lax.psum(x, "data")  # noqa: E731
        options = (lambda x: x, once, lambda x: once(once(x) * 2.0), once)
        return jax.lax.scan(lambda c, i: (jax.lax.switch(i, options, c) / 8, None), x, flags)[0]

    spec = PartitionSpec("data")
    cut = jax.shard_map(here, mesh=grid, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False)
    shapes = jax.ShapeDtypeStruct((5,), jnp.int32), jax.ShapeDtypeStruct((4, 16), jnp.float32)
    text = jax.jit(cut).lower(*shapes).compile().as_text()
    assert "conditional(" in text
    assert plan.collective_bytes(text) == {"all-reduce": 5 * 2 * 16 * 4}
    # As two branches are written in programs of some devices
    two = """
%yes (x: f32[4]) -> f32[4] {
  ROOT %sum = f32[4]{0} all-reduce(%x), to_apply=%add
}
%no (x: f32[4]) -> f32[4] {
  ROOT %same = f32[4]{0} copy(%x)
}
ENTRY %main (p: pred[], x: f32[4]) -> f32[4] {
  ROOT %c = f32[4]{0} conditional(%p, %x, %x), true_computation=%yes, false_computation=%no
}
"""
    assert plan.collective_bytes(two) == {"all-reduce": 16}


def test_names_of_slices():
    assert plan.parse("v5p-256") == ("v5p", 128)
    assert plan.parse("h100-8") == ("h100", 8)
    with pytest.raises(ValueError, match="did you mean 'v5p'"):
        plan.parse("v5q-8")
    with pytest.raises(ValueError, match="such as v5p-256"):
        plan.parse("h100")


def test_plan_of_a_step(tmp_path, monkeypatch):
    asked, parts, token_parts = [], [], placement.token_parts
    monkeypatch.setattr(placement, "token_parts", lambda *size: parts.append(token_parts(*size)) or parts[-1])
    monkeypatch.setattr(library, "usable", lambda name: asked.append(library._OFF.get()))
    monkeypatch.setattr("prefjax.models.layers.NATIVE_SIZE", 0)
    config = recipe.config(
        data=ref(gold.dataset, size=40, eval_size=2, rows=8, row_length=64),
        model=ref(decoder, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64),
        objective={"dpo": recipe.term(language.pairs, paired.dpo)},
        optimizer=ref(recipes.adamw, learning_rate=1e-3),
        reference=True,
        mesh={"data": 1, "fsdp": 4, "tensor": 1},
    )
    made = plan.make(loop.resolve(config), tmp_path, chip=plan.CHIPS["v5p"])
    assert asked and all(asked)  # kernels are off, whose operations nobody could count
    vocab = made.parameters // 2 - 2 * (4 * 32 * 32 + 3 * 32 * 64 + 64) - 32
    assert vocab % (2 * 32) == 0 and made.devices == 4 and made.tokens == 8 * 64
    # policy, reference and two moments; nearly all of it is cut in four
    assert made.state == pytest.approx(4 * made.parameters / 2 * 4 / 4, rel=0.1)
    assert parts and set(parts) == {4}  # the head is each device's own, as where it has a kernel
    # a policy pass is three forward passes, and the reference a fourth; attention and head come on top
    body = 2 * made.tokens * 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert 4 * body < made.flops < 14 * body
    # Parameters are gathered, and what is summed over devices is gradients, not activations (five times as much)
    assert made.collectives["all-gather"] > 0 and made.collectives["all-reduce"] < 1.2 * made.parameters / 2 * 4
    low, high = made.seconds
    assert 0 < low < high and made.compute == pytest.approx(made.flops / 4 / (459e12 / 2))
    text = plan.table(made, "v5p", plan.CHIPS["v5p"], {"fsdp": 4})
    assert "memory a device" in text and "does not fit" not in text
    small = plan.table(made, "v5p", plan.Chip(1.0, 1.0, 1.0, 1.0), {"fsdp": 4})
    assert "does not fit" in small
    with pytest.raises(ValueError, match=r"efficiency=2"):
        plan.make(config, tmp_path, chip=plan.CHIPS["v5p"], efficiency=2)
    assert np.isfinite([low, high]).all()


def test_long_rows_are_planned_as_they_run_elsewhere(tmp_path):
    """Not by the loops over blocks that a CPU would take, whose length is not known."""
    length = 2048
    config = recipe.config(
        data=ref(gold.dataset, size=40, eval_size=2, rows=1, row_length=length, kind="sft"),
        model=ref(decoder, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8),
        objective={"sft": recipe.term(language.responses, sft, count="lengths")},
        optimizer=ref(recipes.adamw, learning_rate=1e-3),
        mesh={"data": 1, "fsdp": 1, "tensor": 1},
    )
    made = plan.make(loop.resolve(config), tmp_path, chip=plan.CHIPS["v5p"])
    assert made.flops > 3 * 2 * 2 * length * length * 8  # attention alone: two products, forward and twice backward

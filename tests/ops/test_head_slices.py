"""The output head in slices of its vocabulary: on a mesh by kernels for each device's own tokens, and on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prefjax import mesh as meshes
from prefjax.models import placement
from prefjax.models.decoder import Unembed
from prefjax.ops import head_chunks, head_gpu, head_slices, head_tpu, logprobs
from tests import jaxprs

SHAPE, WIDTH, VOCAB = (8, 16), 128, 384


def drawn(dtype="float32"):
    keys = jax.random.split(jax.random.key(1), 6)
    states = jax.random.normal(keys[0], (*SHAPE, WIDTH), dtype)
    kernel, bias = jax.random.normal(keys[1], (WIDTH, VOCAB)) / 8, jax.random.normal(keys[5], (VOCAB,))
    targets, where = jax.random.randint(keys[2], SHAPE, 0, VOCAB), jax.random.bernoulli(keys[3], 0.6, SHAPE)
    return states, kernel, bias, targets, where, jax.random.normal(keys[4], (6, *SHAPE))


def close(got, expected, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol * np.abs(b).max())


def weighted(found, weight):
    return sum(jnp.sum(x * w) for (name, x), w in zip(sorted(found.items()), weight, strict=False) if name != "top1")


@pytest.mark.parametrize("module", [head_tpu, head_gpu])
@pytest.mark.parametrize("axes, softcap, dtype", [
    ({"data": 2, "fsdp": 2, "tensor": 2}, None, "float32"), ({"data": 8}, 2.0, "float32"),
    ({"data": 1, "tensor": 8}, None, "float32"), ({"fsdp": 2, "sequence": 4, "data": 1}, 2.0, "bfloat16"),
])  # fmt: skip
def test_on_a_mesh_each_device_runs_a_kernel_for_its_own_tokens(monkeypatch, module, axes, softcap, dtype):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices, real or faked")
    monkeypatch.setattr(module, "TOKENS", 32)
    monkeypatch.setattr(module, "COLUMNS", 128)
    states, kernel, _, targets, where, weight = drawn(dtype)

    def both(states, kernel):
        parts = placement.token_parts(*SHAPE)

        def of_rows(head, *rows):
            options = {"softcap": head.softcap, "parts": parts, "stats": ("logsumexp",)}
            return logprobs.row_stats(rows[0], head.kernel, *rows[1:], **options)

        def loss(states, kernel):
            found = placement.by_token(of_rows, Unembed(kernel, None, softcap), states, targets, where)
            return weighted(found, weight), found

        return jax.grad(loss, (0, 1), has_aux=True)(states, kernel)

    expected = jax.jit(both)(states, kernel)
    monkeypatch.setattr(module, "here", lambda: True)
    facts = module.facts
    monkeypatch.setattr(module, "facts", lambda *args: facts(*args[:3], interpret=True))
    monkeypatch.setattr(module, "_DTYPES", ("float32", "bfloat16"))
    monkeypatch.setattr(head_chunks, "default_chunk", lambda *_: 1)
    grid = meshes.make_mesh(axes)
    places = PartitionSpec(placement.AXES), PartitionSpec("fsdp", "tensor")
    step = jax.jit(placement.on(grid, both), in_shardings=tuple(NamedSharding(grid, place) for place in places))
    assert "pallas_call" in str(jax.make_jaxpr(placement.on(grid, both))(states, kernel))
    close(step(states, kernel), expected, 2e-6 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("chunk", [32, 1000])
def test_a_large_head_of_one_device_goes_in_slices_and_says_the_same(monkeypatch, chunk):
    states, kernel, bias, targets, where, weight = drawn()

    def both(states, kernel, bias):
        def loss(states, kernel, bias):
            options = {"bias": bias, "softcap": jnp.float32(3), "stats": logprobs.STATS}
            found = logprobs.row_stats(states, kernel, targets, where, **options)
            return weighted(found, weight), found

        return jax.grad(loss, (0, 1, 2), has_aux=True)(states, kernel, bias)

    expected = both(states, kernel, bias)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(head_chunks, "default_chunk", lambda *_: chunk)
    monkeypatch.setattr(head_slices, "WHOLE", WIDTH * VOCAB)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert head_slices.in_slices(kernel, states) is kernel
    monkeypatch.setattr(head_slices, "WHOLE", WIDTH * VOCAB - 1)
    close(both(states, kernel, bias), expected, 2e-6)
    # Nothing beside the gradient itself, and what it is copied from, is as large as the head
    made = [v.aval for e in jaxprs.equations(jax.make_jaxpr(both)(states, kernel, bias).jaxpr) for v in e.outvars]
    assert max(x.size for x in made if x.shape != kernel.shape) <= max(WIDTH * VOCAB // 8, states.size * 2)
    assert head_slices.in_slices(jnp.zeros((WIDTH, 389)), states).shape == (WIDTH, 389)  # a prime: whole


def test_where_axes_are_checked_there_is_no_kernel(monkeypatch):
    """jax.shard_map and jax.pmap with losses of one's own: kernels cannot say over which axes what they give varies."""
    grid = meshes.make_mesh({"data": jax.device_count()})
    states, kernel, _, targets, _, _ = drawn()
    rows, targets = states.reshape(-1, WIDTH), targets.ravel()
    monkeypatch.setattr(head_tpu, "here", lambda: True)
    monkeypatch.setattr(head_chunks, "default_chunk", lambda *_: 4)
    usable = []

    def of_rows(rows, targets):
        usable.append(head_tpu.usable(rows, kernel))
        return logprobs.token_logps(rows, kernel, targets) if not usable[-1] else targets * 1.0

    for checked in (True, False):
        spread = jax.shard_map(
            of_rows, mesh=grid, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"), check_vma=checked
        )
        got = jax.jit(spread)(rows, targets)
        if checked:
            np.testing.assert_allclose(got, logprobs.token_logps(rows, kernel, targets, chunk=200), rtol=1e-5)
    assert usable == [False, True]


def test_gradients_are_those_of_all_slices_together(monkeypatch):
    states, kernel, _, targets, where, weight = drawn()
    states, targets, where, (grad, grad_lse) = (
        states.reshape(-1, WIDTH), targets.ravel(), where.ravel(), weight[:2].reshape(2, -1),
    )  # fmt: skip

    def plain(states, kernel):
        options = {"where": where, "stats": ("logsumexp",), "chunk": states.shape[0]}
        found = logprobs.token_stats(states, kernel, targets, **options)
        return found["logps"], found["logsumexp"]

    (_, lse), pull = jax.vjp(plain, states, kernel)
    grad, grad_lse = jnp.where(where, grad, 0), jnp.where(where, grad_lse, 0)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(head_slices, "WHOLE", 1)
    call = functools.partial(head_slices.gradients, 32, states, targets, where, head_chunks.Head(kernel, None, None))
    close(call(lse, grad, grad_lse), pull((grad, grad_lse)), 2e-6)

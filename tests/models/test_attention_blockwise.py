"""Blockwise attention against the plain form: values and gradients, under the masks of packed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.models import attention, blockwise
from tests import jaxprs

B, H, T, D = 2, 4, 40, 8


def packed_mask(rows=B, length=T):
    """Rows of two examples with two responses each, the last columns padding."""
    segments = np.repeat([1, 2, 0], [length // 2, length // 3, length - length // 2 - length // 3])
    branches = np.arange(length) * 7 // length % 3
    branches = np.where(np.diff(segments, prepend=1) != 0, 0, branches)
    shifted = np.roll(branches, 3)
    tokens = [np.stack([x] * rows).astype(np.int32) for x in (segments, branches)]
    tokens[1][-1] = shifted
    return attention.layout_mask(*(jnp.asarray(x) for x in tokens), length)


def inputs(groups, dtype="float32"):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(B, H, T, D), (B, groups, T, D), (B, groups, T, D), (B, H, T, D)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def value_and_grads(fn, q, k, v, weight):
    def both(q, k, v):
        out, pull = jax.vjp(fn, q, k, v)
        return out, pull(weight.astype(out.dtype))

    return jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(q, k, v)


@pytest.mark.parametrize("groups, softcap, block, looped, mask", [
    (4, None, 16, False, packed_mask()), (2, 3.0, 10, False, packed_mask(1)),
    (4, None, 16, True, packed_mask(1)), (2, 3.0, 8, True, packed_mask()),
])  # fmt: skip
def test_equals_the_plain_form(groups, softcap, block, looped, mask):
    q, k, v, weight = inputs(groups)
    options = {"scale": 0.7, "softcap": softcap}

    def plain(q, k, v):
        return attention.attend(q, k, v, mask, backend="plain", **options)

    def ours(q, k, v):
        return blockwise.attend(q, k, v, mask, block=block, looped=looped, **options)

    expected, got = value_and_grads(plain, q, k, v, weight), value_and_grads(ours, q, k, v, weight)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-5, rtol=1e-5), got, expected)


@pytest.mark.parametrize("looped", [False, True])
def test_no_square_array_is_kept_or_made(looped):
    x = jnp.zeros((1, 1, 512, 4))
    mask = attention.layout_mask(None, None, 512)

    def grad(q):
        return jax.grad(lambda q: blockwise.attend(q, q, q, mask, scale=1.0, block=64, looped=looped).sum())(q)

    made = [v.aval for eqn in jaxprs.equations(jax.make_jaxpr(grad)(x).jaxpr) for v in eqn.outvars]
    assert max(a.size for a in made if jnp.issubdtype(a.dtype, jnp.floating)) <= 64 * (64 if looped else 512)


def test_pairs_of_blocks_that_see_nothing_are_skipped():
    # Two examples in a row: the second is computed without the first, whose values may hold anything
    segments = jnp.repeat(jnp.array([1, 2]), 16)[None]
    mask = attention.layout_mask(segments, None, 32)
    q = jax.random.normal(jax.random.key(0), (1, 1, 32, 4))
    v = jnp.where(jnp.arange(32)[:, None] < 16, jnp.nan, q)
    out = blockwise.attend(q, q, v, mask, scale=1.0, block=8, looped=True)
    alone = attention.attend(q[:, :, 16:], q[:, :, 16:], q[:, :, 16:], mask[:, 16:, 16:], scale=1.0, backend="plain")
    np.testing.assert_allclose(out[:, :, 16:], alone, atol=1e-6)


def test_sixteen_bits_stay_near_and_low():
    q, k, v, weight = inputs(4, "bfloat16")
    mask = packed_mask()
    expected = attention.attend(*(x.astype(jnp.float32) for x in (q, k, v)), mask, scale=0.3, backend="plain")
    out, grads = value_and_grads(lambda q, k, v: blockwise.attend(q, k, v, mask, scale=0.3, block=16), q, k, v, weight)
    assert {x.dtype for x in (out, *grads)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.03)


def test_chosen_by_length_and_mask_on_a_cpu():
    def pick(length, causal, backend="auto"):
        return attention.pick(backend, jnp.dtype("float32"), 32, None, length, length, causal)

    if jax.default_backend() == "cpu":
        assert pick(attention.BLOCKWISE, True) == "blockwise" and pick(attention.BLOCKWISE - 1, True) == "plain"
    assert pick(4096, False) == "plain" and pick(8, True, "blockwise") == "blockwise"
    assert pick(8, False, "blockwise") == "plain"  # cached decoding


def test_chosen_on_a_gpu(monkeypatch):
    """cuDNN where it can do the work; long causal rows that it cannot do hold no [T, T] array."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for dtype, head_dim, softcap, short, long in (
        ("bfloat16", 64, None, "cudnn", "cudnn"),
        ("float32", 64, None, "plain", "blockwise"),
        ("bfloat16", 64, 30.0, "plain", "blockwise"),
        ("bfloat16", 256, None, "plain", "blockwise"),
    ):
        for length, expected in ((attention.BLOCKWISE_GPU - 2, short), (attention.BLOCKWISE_GPU, long)):
            assert attention.pick("auto", jnp.dtype(dtype), head_dim, softcap, length, length, True) == expected
        whole = attention.pick("auto", jnp.dtype(dtype), head_dim, softcap, 4096, 4096, False)
        assert whole == ("cudnn" if long == "cudnn" else "plain")  # not causal
    # Made of what XLA knows on every device, with no [T, T] array of floats
    length = attention.BLOCKWISE_GPU
    q = jax.ShapeDtypeStruct((2, 2, length, 8), jnp.float32)
    mask = jax.ShapeDtypeStruct((2, length, length), bool)
    grad = jax.grad(lambda q, mask: attention.attend(q, q, q, mask, scale=1.0, causal=True).sum())
    text = jax.jit(grad).trace(q, mask).lower(lowering_platforms=("cuda",)).as_text()
    assert "custom_call" not in text and f"{length}x{length}xf32" not in text and f"x{length}x{length}xi1" in text

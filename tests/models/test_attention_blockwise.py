"""Blockwise attention against the plain form: values and gradients, under the masks of packed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.models import attention, blockwise

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
    out, pull = jax.jit(lambda *args: jax.vjp(fn, *args), static_argnums=())(q, k, v)
    return out, pull(weight.astype(out.dtype))


@pytest.mark.parametrize("groups, softcap, block, looped", [
    (4, None, 16, False), (2, 3.0, 10, False), (4, None, 16, True), (2, 3.0, 8, True), (1, None, 64, True),
])  # fmt: skip
@pytest.mark.parametrize("shared_mask", [False, True])
def test_equals_the_plain_form(groups, softcap, block, looped, shared_mask):
    q, k, v, weight = inputs(groups)
    mask = packed_mask(1) if shared_mask else packed_mask()
    options = {"scale": 0.7, "softcap": softcap}

    def plain(q, k, v):
        return attention.attend(q, k, v, mask, backend="plain", **options)

    def ours(q, k, v):
        return blockwise.attend(q, k, v, mask, block=block, looped=looped, **options)

    expected, got = value_and_grads(plain, q, k, v, weight), value_and_grads(ours, q, k, v, weight)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-5, rtol=1e-5), got, expected)

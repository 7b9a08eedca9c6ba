"""Attention by the kernel for TPUs: against the plain form, interpreted; lowered for a TPU; when it is picked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prefjax import mesh as meshes
from prefjax.models import attention, placement, splash
from prefjax.models.decoder import decoder
from tests.models.test_attention_blockwise import packed_mask, value_and_grads


def windowed(length):
    """One mask for all rows: segments of 70, at most 8 behind; one query, and those of the last block, see nothing."""
    segments, positions = (jnp.arange(length) // 70 + 1)[None], (jnp.arange(length) % 70)[None]
    mask = attention.layout_mask(segments, None, length) & attention.near(positions, positions, 8)
    return mask.at[0, 150].set(False).at[0, 256:].set(False)


def mesh(**axes):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices, real or faked")
    return meshes.make_mesh(axes)


@pytest.mark.parametrize("groups, softcap, mask, cut", [
    (1, 3.0, packed_mask(2, 256), False), (2, None, windowed(300), False), (2, None, packed_mask(2, 128), True),
])  # fmt: skip
def test_equals_the_plain_form(groups, softcap, mask, cut):
    length, keys = mask.shape[1], jax.random.split(jax.random.key(0), 4)
    q, k, v, weight = (
        jax.random.normal(x, (2, h, length, 8)) for x, h in zip(keys, (2, groups, groups, 2), strict=True)
    )
    seen = jnp.any(mask, axis=-1)[:, None, :, None]

    def plain(q, k, v):
        return jnp.where(seen, attention.attend(q, k, v, mask, scale=0.7, softcap=softcap, backend="plain"), 0)

    def ours(q, k, v):
        return splash.attend(q, k, v, mask, scale=0.7, softcap=softcap, block=128)

    if cut:
        ours = placement.on(mesh(data=2, tensor=2, sequence=2), ours)
    expected, got = value_and_grads(plain, q, k, v, weight), value_and_grads(ours, q, k, v, weight)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-5, rtol=1e-5), got, expected)


def test_the_backward_pass_keeps_no_square_array():
    x, mask = jnp.zeros((2, 2, 256, 64), "bfloat16"), jnp.ones((2, 256, 256), bool)

    def pull(q):
        return jax.vjp(lambda q: splash.attend(q, q, q, mask, scale=1.0, interpret=False), q)[1]

    kept = jax.tree.leaves(jax.eval_shape(pull, x))
    assert max(leaf.size for leaf in kept if leaf.dtype != bool) == x.size
    assert sum(leaf.size for leaf in kept if leaf.dtype == bool) <= mask.size


@pytest.mark.parametrize("kind", ["splash", "auto"])
def test_a_step_lowers_for_a_tpu(kind, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    model = decoder(vocab_size=31, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, sliding_window=9,
                    global_every=2, attention_softcap=5.0, attention=kind)  # fmt: skip
    params, row = jax.eval_shape(model.init, jax.random.key(0)), jax.ShapeDtypeStruct((2, 256), "int32")

    def step(params, *batch):
        return jax.grad(lambda params: jnp.sum(model.hidden(params, *batch)))(params)

    jitted = jax.jit(step)
    if kind == "auto":  # on a mesh, with neither rows nor heads to cut
        jitted = jax.jit(placement.on(grid := mesh(tensor=8), step), in_shardings=NamedSharding(grid, PartitionSpec()))
    text = jitted.trace(params, row, row, row, row).lower(lowering_platforms=("tpu",)).as_text()
    assert all(f"splash_mha_{name}" in text for name in ("fwd_residuals", "dq", "dkv"))
    if kind == "splash":  # one of each for the scanned layer: the backward pass does not run the forward kernel again
        assert text.count("stablehlo.custom_call @tpu_custom_call") == 3


def test_picked_for_long_causal_rows_on_a_tpu(monkeypatch):
    grid = mesh(tensor=8)

    def pick(device="tpu", dtype="bfloat16", length=256, causal=True, backend="auto", softcap: float | None = 5.0):
        monkeypatch.setattr(jax, "default_backend", lambda: device)
        return attention.pick(backend, jnp.dtype(dtype), 64, softcap, length, length, causal)

    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert pick() == pick(dtype="float32") == "splash" and pick(dtype="float16") == "blockwise"
    assert pick(length=8192) == "splash" and pick(length=8193) == "blockwise"
    assert pick(length=255) == pick(causal=False) == pick(backend="splash", causal=False) == "plain"
    assert pick("cpu", backend="splash") == "splash" and pick("cpu") == "blockwise"
    assert pick("gpu") == pick("gpu", "float32", softcap=None) == "plain" and pick("gpu", softcap=None) == "cudnn"
    monkeypatch.setattr(jax, "device_count", lambda: 4)  # the partitioner cannot cut a kernel
    assert pick() == "blockwise"
    assert placement.on(grid, pick)() == "splash"


def test_what_the_kernel_does_not_compute_is_refused():
    x = jnp.zeros((1, 1, 8, 8), "float16")
    with pytest.raises(ValueError, match="float32 and bfloat16, not float16"):
        attention.attend(x, x, x, jnp.ones((1, 8, 8), bool), scale=1.0, backend="splash", causal=True)
    with pytest.raises(ValueError, match="attention='splash' computes float32 and bfloat16, not dtype='float64'"):
        decoder(vocab_size=8, hidden_size=16, attention="splash", dtype="float64")
    decoder(vocab_size=8, hidden_size=16, attention="splash", dtype="bfloat16", attention_softcap=5.0)

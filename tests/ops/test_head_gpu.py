"""The output head's kernel for GPUs: against the plain form, interpreted; lowered for CUDA; when it is to be picked."""

import contextlib
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.ops import head_chunks, head_gpu, logprobs

# The last block of tokens, tile of columns, split of tiles and step across the width are none of them full
N, WIDTH, VOCAB, CHUNK = 90, 136, 300, 16
TOKENS = 32


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"TOKENS": TOKENS, "COLUMNS": 64, "LEAST": 2}.items():
        monkeypatch.setattr(head_gpu, name, value)


def drawn(dtype="float32", n=N, width=WIDTH, vocab=VOCAB):
    keys = jax.random.split(jax.random.key(0), 6)
    hidden, kernel = jax.random.normal(keys[0], (n, width), dtype), jax.random.normal(keys[1], (width, vocab)) / 8
    targets = jax.random.randint(keys[2], (n,), 0, vocab).at[0].set(vocab - 1)
    where = jax.random.bernoulli(keys[3], 0.4, (n,)).at[0].set(True)
    # Some without a gradient, in one or the other
    grads = jax.random.normal(keys[4], (n,)) * (jnp.arange(n) % 3 > 0), jax.random.normal(keys[5], (n,))
    return hidden.at[~where].set(jnp.nan), kernel, targets, where, grads


def plain(hidden, kernel, targets, where, softcap):
    options = {"where": where, "softcap": softcap, "stats": ("logsumexp",), "chunk": N}
    found = logprobs.token_stats(hidden, kernel, targets, **options)
    return found["logps"], found["logsumexp"]


def run(fn, hidden, kernel, grads):
    out, pull = jax.vjp(fn, hidden, kernel)
    return out, pull(grads)


@pytest.mark.parametrize("dtype, softcap, sizes, atol", [
    ("float32", None, {}, 2e-6),
    ("float32", 2.0, {}, 2e-6),
    ("float32", None, {"n": 64, "width": 128, "vocab": 320}, 2e-6),  # all full
    ("float32", None, {"n": 5, "width": 24, "vocab": 7}, 2e-6),  # nothing full
    ("bfloat16", None, {}, 4e-3),
    ("float16", 2.0, {}, 2e-3),
])  # fmt: skip
def test_equals_the_plain_form(dtype, softcap, sizes, atol):
    hidden, kernel, targets, where, grads = drawn(dtype, **sizes)
    kernel = kernel if dtype != "float16" else kernel.astype(dtype)
    call = functools.partial(head_gpu.logps, softcap=softcap, chunk=CHUNK, interpret=True)
    got = run(lambda h, k: call(h, k, targets, where), hidden, kernel, grads)
    expected = run(lambda h, k: plain(h, k, targets, where, softcap), hidden, kernel, grads)
    assert got[1][1].dtype == kernel.dtype and got[0][0].dtype == jnp.float32

    def close(a, e):
        a, e = (np.asarray(x, np.float64) for x in (a, e))
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=atol * np.abs(e).max())

    jax.tree.map(close, got, expected)


def test_on_hopper_tiles_are_wider_and_say_the_same(monkeypatch):
    hidden, kernel, targets, where, _ = drawn()
    monkeypatch.setattr(head_gpu, "WIDE", 128)
    call = functools.partial(head_gpu.logps, hidden, kernel, targets, where, chunk=CHUNK, interpret=True)
    seen, inner = [], head_gpu._of_splits
    monkeypatch.setattr(head_gpu, "_of_splits", lambda facts, *rest: seen.append(facts) or inner(facts, *rest))
    narrow = call()
    monkeypatch.setattr(head_gpu, "capability", lambda: (9, 0))
    for a, b in zip(narrow, call(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert [(f.columns, f.splits, f.each) for f in seen] == [(64, 2, 3), (128, 1, 3)]


def test_logits_far_apart_are_summed_without_overflow():
    hidden = jnp.ones((3, 16))
    kernel = jnp.zeros((16, VOCAB)).at[:, 1].set(1e3).at[:, 250].set(1e3).at[:, 70].set(-1e3)
    targets, where = jnp.array([1, 250, 70]), jnp.ones(3, bool)
    own, lse = head_gpu.logps(hidden, kernel, targets, where, chunk=CHUNK, interpret=True)
    np.testing.assert_allclose(lse, 16e3 + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(own, [-np.log(2), -np.log(2), -32e3], rtol=2e-3)


def test_nothing_asked_for():
    hidden, kernel, targets, _, grads = drawn()
    call = functools.partial(head_gpu.logps, targets=targets, where=jnp.zeros(N, bool), chunk=CHUNK, interpret=True)
    out = run(lambda h, k: call(h, k), hidden, kernel, grads)
    assert all((x == 0).all() for x in jax.tree.leaves(out))


def test_blocks_that_nobody_asks_for_are_skipped(monkeypatch):
    seen, inner = [], head_gpu._of_splits
    monkeypatch.setattr(head_gpu, "_of_splits", lambda *args: seen.append(inner(*args)) or seen[0])
    hidden, kernel, targets, where, _ = drawn()
    head_gpu.logps(hidden, kernel, targets, where, chunk=CHUNK, interpret=True)
    lse, own = (np.asarray(x).reshape(2, -1, TOKENS) for x in seen[0])
    blocks = -(-int(where.sum()) // TOKENS)
    assert 1 <= blocks < lse.shape[1] == 3
    # Rows that nobody asks for, in a block that is not skipped, are rows of zeros: their sum is that of each split
    assert np.isfinite(lse[:, :blocks]).all() and (lse[:, blocks:] == -np.inf).all() and (own[:, blocks:] == 0).all()
    np.testing.assert_allclose(lse[:, blocks - 1, -1], np.log([192, VOCAB - 192]), rtol=1e-6)


def test_reads_nothing_beyond_the_arrays_nor_what_nobody_asks_for(monkeypatch):
    """Interpreted, what lies beyond an array is its last entry; here that spoils what is read with it, as NaN does."""
    inner = head_gpu._load

    def spoilt(ref, rows, columns, *masks):
        out = inner(ref, rows, columns, *masks)
        kept = [
            jnp.where(True if mask is None else mask, at, 0) for at, mask in zip((rows, columns), masks, strict=True)
        ]
        beyond = [(at >= size).any() for at, size in zip(kept, ref.shape, strict=True)]
        return jnp.where(beyond[0] | beyond[1] | jnp.isnan(out).any(), jnp.nan, out)

    monkeypatch.setattr(head_gpu, "_load", spoilt)
    hidden, kernel, targets, where, _ = drawn()
    assert jnp.isnan(hidden).any() and VOCAB % head_gpu.COLUMNS and WIDTH % head_gpu.STEP
    found = head_gpu.logps(hidden, kernel, targets, where, chunk=CHUNK, interpret=True)
    assert all(jnp.isfinite(x).all() for x in found)


def test_chunks_without_a_gradient_are_skipped_backwards(monkeypatch):
    seen, inner = [], head_chunks.gradients
    monkeypatch.setattr(head_chunks, "gradients", lambda chunk, saved, grads: seen.append(saved[2])
                        or inner(chunk, saved, grads))  # fmt: skip
    hidden, kernel, targets, where, (grad, _) = drawn()
    call = functools.partial(head_gpu.logps, targets=targets, where=where, chunk=CHUNK, interpret=True)
    run(lambda h, k: call(h, k), hidden, kernel, (grad, jnp.zeros(N)))
    some = int((where & (grad != 0)).sum())
    count = head_chunks.count_of(N, CHUNK)
    chunks = np.asarray(head_chunks.split(seen[0], count))
    assert chunks.sum() == some < where.sum()
    assert chunks.any(1).sum() == -(-some // -(-N // count)) < count


def an_h100():
    """From 0.12 on jax asks which GPU it lowers for."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 12):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device))


@pytest.mark.parametrize("vocab", [50304, 50257])
def test_lowers_for_cuda_and_keeps_no_logits(monkeypatch, vocab):
    for name, value in {"TOKENS": 128, "COLUMNS": 128, "LEAST": 4}.items():
        monkeypatch.setattr(head_gpu, name, value)
    hidden, kernel = jax.ShapeDtypeStruct((2048, 256), "bfloat16"), jax.ShapeDtypeStruct((256, vocab), "float32")
    targets, where = jax.ShapeDtypeStruct((2048,), "int32"), jax.ShapeDtypeStruct((2048,), "bool")

    def logps(hidden, kernel, targets, where):
        return head_gpu.logps(hidden, kernel, targets, where, chunk=256)[0]

    def grads(hidden, kernel, targets, where):
        return jax.grad(lambda h, k: logps(h, k, targets, where).sum(), (0, 1))(hidden, kernel)

    for fn in (logps, grads):
        with an_h100():
            traced = jax.jit(fn).trace(hidden, kernel, targets, where)
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("xla.gpu.triton") == 1 and "head_logps" in text
        assert f"2048x{vocab}" not in text and f"256x{vocab}xf32" in text
        assert "atomic" not in text


def test_when_it_is_usable(monkeypatch):
    hidden, kernel = jnp.zeros((4, 64), "bfloat16"), jnp.zeros((64, 10))
    assert head_gpu.capability() == (0, 0) and not head_gpu.usable(hidden, kernel)  # no GPU here
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for told, known in {"7.5": False, "8.0": True, "9.0": True, "12.0": True, "gfx942": False}.items():
        device = types.SimpleNamespace(compute_capability=told)
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        assert head_gpu.usable(hidden, kernel) == known
    monkeypatch.setattr(head_gpu, "capability", lambda: (8, 0))
    assert head_gpu.usable(hidden.astype("float16"), kernel.astype("bfloat16"))
    assert not head_gpu.usable(hidden.astype("float32"), kernel)
    assert not head_gpu.usable(hidden[:, :60], kernel[:60])
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert not head_gpu.usable(hidden, kernel)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert head_gpu.usable(hidden, kernel)
    with monkeypatch.context() as later:
        later.setattr(head_gpu, "plgpu", None)  # a jax without Triton
        assert not head_gpu.usable(hidden, kernel)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not head_gpu.usable(hidden, kernel)

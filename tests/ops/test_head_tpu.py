"""The output head's kernel for TPUs: against the plain form, interpreted; lowered for a TPU; when it is picked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.ops import head_chunks, head_tpu, logprobs

N, WIDTH, VOCAB = 90, 128, 300  # the last blocks of tokens and of columns are not full


def drawn(dtype="float32"):
    keys = jax.random.split(jax.random.key(0), 6)
    hidden, kernel = jax.random.normal(keys[0], (N, WIDTH), dtype), jax.random.normal(keys[1], (WIDTH, VOCAB)) / 8
    targets = jax.random.randint(keys[2], (N,), 0, VOCAB).at[0].set(VOCAB - 1)
    where = jax.random.bernoulli(keys[3], 0.4, (N,))
    # Some without a gradient, in one or the other
    grads = jax.random.normal(keys[4], (N,)) * (jnp.arange(N) % 3 > 0), jax.random.normal(keys[5], (N,))
    return hidden.at[~where].set(jnp.nan), kernel, targets, where, grads


def plain(hidden, kernel, targets, where, softcap):
    options = {"where": where, "softcap": softcap, "stats": ("logsumexp",), "chunk": N}
    found = logprobs.token_stats(hidden, kernel, targets, **options)
    return found["logps"], found["logsumexp"]


@pytest.mark.parametrize("dtype, softcap, atol", [
    ("float32", None, 2e-6), ("float32", 2.0, 2e-6), ("bfloat16", None, 4e-3),
])  # fmt: skip
def test_equals_the_plain_form(monkeypatch, dtype, softcap, atol):
    monkeypatch.setattr(head_tpu, "TOKENS", 32)
    monkeypatch.setattr(head_tpu, "COLUMNS", 128)
    hidden, kernel, targets, where, grads = drawn(dtype)

    def run(fn):
        out, pull = jax.vjp(lambda hidden, kernel: fn(hidden, kernel), hidden, kernel)
        return out, pull(grads)

    got = run(lambda h, k: head_tpu.logps(h, k, targets, where, softcap=softcap, interpret=True))
    expected = run(lambda h, k: plain(h, k, targets, where, softcap))
    assert got[1][1].dtype == kernel.dtype  # float32, whatever the products are

    def close(a, e):
        a, e = (np.asarray(x, np.float64) for x in (a, e))
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=atol * np.abs(e).max())

    jax.tree.map(close, got, expected)


def test_nothing_asked_for():
    hidden, kernel, targets, _, grads = drawn()
    call = functools.partial(head_tpu.logps, targets=targets, where=jnp.zeros(N, bool), interpret=True)
    out, pull = jax.vjp(lambda h, k: call(h, k), hidden, kernel)
    assert all((x == 0).all() for x in jax.tree.leaves((out, pull(grads))))


def test_blocks_that_nobody_asks_for_are_skipped(monkeypatch):
    monkeypatch.setattr(head_tpu, "TOKENS", 32)
    seen = []
    monkeypatch.setattr(head_tpu, "_call", lambda facts, body, arrays, wanted, *rest: seen.append(wanted) or 1 / 0)
    hidden, kernel, targets, where, _ = drawn()
    with pytest.raises(ZeroDivisionError):
        head_tpu.logps(hidden, kernel, targets, where)
    wanted = np.asarray(seen[0]).reshape(-1, 32)
    assert where.sum() > 32 and wanted.any(1).sum() == -(-int(where.sum()) // 32) < len(wanted)


def test_lowers_for_a_tpu_and_keeps_no_logits():
    hidden, kernel = jax.ShapeDtypeStruct((2048, 256), "bfloat16"), jax.ShapeDtypeStruct((256, 50257), "float32")
    targets, where = jax.ShapeDtypeStruct((2048,), "int32"), jax.ShapeDtypeStruct((2048,), "bool")

    def grads(hidden, kernel, targets, where):
        return jax.grad(lambda h, k: head_tpu.logps(h, k, targets, where)[0].sum(), (0, 1))(hidden, kernel)

    traced = jax.jit(grads).trace(hidden, kernel, targets, where)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3 and "2048x50257" not in text


def test_when_it_is_picked(monkeypatch):
    hidden, kernel, targets, where, _ = drawn()
    assert not head_tpu.usable(hidden, kernel)  # no TPU here
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert head_tpu.usable(hidden, kernel) and head_tpu.usable(hidden.astype("bfloat16"), kernel)
    assert not head_tpu.usable(hidden.astype("float16"), kernel) and not head_tpu.usable(hidden[:, :100], kernel)
    assert not head_tpu.usable(jnp.zeros((2, 8192)), jnp.zeros((8192, 3)))
    monkeypatch.setattr(head_tpu, "logps", functools.partial(head_tpu.logps, interpret=True))
    monkeypatch.setattr(head_chunks, "default_chunk", lambda *_: 16)
    found = logprobs.token_stats(hidden, kernel, targets, where=where, stats=("logsumexp",), softcap=2.0)
    jaxpr = str(jax.make_jaxpr(lambda h: logprobs.token_logps(h, kernel, targets, where=where))(hidden))
    assert "pallas_call" in jaxpr
    for got, expected in zip(found.values(), plain(hidden, kernel, targets, where, 2.0), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    jaxpr = str(jax.make_jaxpr(lambda h: logprobs.token_stats(h, kernel, targets, stats=("entropy",)))(hidden))
    assert "pallas_call" not in jaxpr
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert not head_tpu.usable(hidden, kernel)

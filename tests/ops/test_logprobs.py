"""Fused token log-probs against the plain log-softmax of all logits: values, gradients, extremes, memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.ops import head_chunks, logprobs
from prefjax.ops.head_chunks import default_chunk
from prefjax.ops.logprobs import STATS, row_logps, seq_logps, token_logps, token_stats
from tests import jaxprs

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
N, D, V = 13, 6, 17


def inputs(dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    hidden, kernel, bias = (rng.standard_normal(shape) for shape in ((N, D), (D, V), (V,)))
    return jnp.asarray(hidden, dtype), jnp.asarray(kernel, dtype), jnp.asarray(bias, dtype), rng.integers(0, V, N)


def plain(hidden, kernel, bias, softcap, targets):
    """Everything from the full [N, V] logits, in the wide dtype."""
    logits = hidden @ kernel if bias is None else hidden @ kernel + bias
    logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
    logp = jax.nn.log_softmax(logits)
    return {
        "logps": jnp.take_along_axis(logp, targets[:, None], 1)[:, 0],
        "entropy": -jnp.sum(jnp.exp(logp) * logp, -1),
        "logsumexp": jax.nn.logsumexp(logits, -1),
        "sum_sq": jnp.sum(jnp.exp(logp) ** 2, -1),
        "mean_logp": jnp.mean(logp, -1),
        "top1": jnp.argmax(logits, -1),
    }


def weighted(out):
    """A scalar in which every entry of every differentiable statistic has a weight of its own."""
    names = sorted(set(out) - {"top1"})
    return sum(jnp.sum(out[name] * jnp.cos(i + jnp.arange(N))) for i, name in enumerate(names))


def both(fn, *args):
    """The statistics and the gradients of their weighted sum in every argument that is not None."""
    which = tuple(i for i, x in enumerate(args) if x is not None)
    return jit(lambda *a: (fn(*a), jax.grad(lambda *b: weighted(fn(*b)), which)(*a)))(*args)


def compare(dtype, tolerance, chunk, softcap, has_bias, stats):
    hidden, kernel, bias, targets = inputs(dtype)

    def ours(hidden, kernel, bias, softcap):
        return token_stats(hidden, kernel, targets, bias=bias, softcap=softcap, chunk=chunk, stats=stats)

    def oracle(hidden, kernel, bias, softcap):
        out = plain(hidden, kernel, bias, softcap, targets)
        return {name: out[name] for name in ("logps", *stats)}

    args = (hidden, kernel, bias if has_bias else None, softcap)
    a, e = both(ours, *args), both(oracle, *args)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=tolerance, rtol=tolerance), a, e)
    assert all(value.dtype == dtype for name, value in a[0].items() if name != "top1")


@pytest.mark.parametrize("softcap, has_bias", [(None, False), (1.5, True)])
@pytest.mark.parametrize("chunk", [None, 1, 5, 12])
def test_values_and_gradients_in_float64(x64, chunk, softcap, has_bias):
    compare("float64", 1e-10, chunk, softcap, has_bias, STATS)


@pytest.mark.parametrize("chunk", [None, 5])
def test_values_and_gradients_in_float32(chunk):
    compare("float32", 1e-5, chunk, 3.0, True, ())


@pytest.mark.parametrize("chunk", [None, 4])
def test_sixteen_bits_accumulate_in_float32(chunk):
    hidden, kernel, bias, targets = inputs()
    low = hidden.astype(jnp.bfloat16)
    rounded = low.astype(jnp.float32), kernel.astype(jnp.bfloat16).astype(jnp.float32)

    def ours(h, k, b):
        return weighted({"logps": token_logps(h, k, targets, bias=b, chunk=chunk)})

    def oracle(h, k, b):
        return weighted({"logps": plain(h, k, b, None, targets)["logps"]})

    logps = token_logps(low, kernel, targets, bias=bias, chunk=chunk)
    assert logps.dtype == jnp.float32
    # Products of bfloat16 numbers are exact in float32: only the order of sums differs
    np.testing.assert_allclose(logps, plain(*rounded, bias, None, targets)["logps"], atol=1e-5)
    grads = jit(jax.grad(ours, (0, 1, 2)))(low, kernel, bias)
    expected = jit(jax.grad(oracle, (0, 1, 2)))(*rounded, bias)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]
    for g, e in zip(grads, expected, strict=True):
        np.testing.assert_allclose(g.astype(jnp.float32), e, atol=0.01 * float(jnp.abs(e).max()))


@pytest.mark.parametrize("chunk", [None, 8, 1])
def test_the_kernels_gradient_is_summed_in_float32_within_and_across_chunks(chunk):
    # Every term is exact in bfloat16 (p = 1/2), but neither a chunk's sum (263 / 2) nor the whole has so few bits
    hidden = jnp.where(jnp.arange(512) < 64, 256, 1).astype(jnp.bfloat16)[:, None]
    total = 64 * 263 / 2
    fn = jit(jax.grad(lambda k: jnp.sum(token_logps(hidden, k, jnp.zeros(512, int), chunk=chunk))))
    np.testing.assert_array_equal(fn(jnp.zeros((1, 2))), [[total, -total]])
    low = fn(jnp.zeros((1, 2), jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, jnp.array([[total, -total]], jnp.bfloat16))  # rounded once, at the end


@pytest.mark.parametrize("chunk", [None, 4])
def test_masked_tokens_may_hold_anything(chunk):
    hidden, kernel, bias, targets = inputs()
    where = np.arange(N) % 3 > 0
    bad_hidden = jnp.where(where[:, None], hidden, jnp.nan)
    bad_targets = np.where(where, targets, np.where(np.arange(N) % 2, -100, 10**6))

    def ours(h, t, stats=STATS):
        def fn(h, k, b):
            return token_stats(h, k, t, bias=b, chunk=chunk, where=where, stats=stats)

        return both(fn, h, kernel, bias)

    good, bad = ours(hidden, targets), ours(bad_hidden, bad_targets)
    jax.tree.map(np.testing.assert_array_equal, good, bad)
    out, (in_hidden, *_) = bad
    assert all(not np.any(np.asarray(value)[~where]) for value in out.values())
    assert not np.any(np.asarray(in_hidden)[~where])
    # and masking is deleting
    kept = token_logps(hidden[where], kernel, targets[where], bias=bias)
    np.testing.assert_allclose(out["logps"][where], kept, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_extreme_logits_are_finite(chunk, softcap):
    hidden, kernel, bias, targets = inputs()
    kernel = 1e4 * jnp.sign(kernel)

    def fn(h, k, b):
        return token_stats(h, k, targets, bias=b, softcap=softcap, chunk=chunk, stats=STATS)

    out, grads = both(fn, hidden, kernel, bias)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((out, grads)))
    assert float(out["entropy"].min()) >= 0 and float(out["logps"].max()) <= 0


def test_under_jit_scan_and_remat():
    hidden, kernel, bias, targets = inputs()

    def loss(kernel, chunk=4):
        def body(total, scale):
            fn = jax.checkpoint(lambda k: jnp.sum(token_logps(hidden * scale, k, targets, bias=bias, chunk=chunk)))
            return total + fn(kernel), None

        return jax.lax.scan(body, 0.0, jnp.array([1.0, 0.5]))[0]

    def oracle(kernel):
        return sum(jnp.sum(plain(hidden * s, kernel, bias, None, targets)["logps"]) for s in (1.0, 0.5))

    value, grad = jit(jax.value_and_grad(loss))(kernel)
    np.testing.assert_allclose(value, oracle(kernel), rtol=1e-5)
    np.testing.assert_allclose(grad, jit(jax.grad(oracle))(kernel), atol=1e-5)


def test_reverse_over_reverse_when_chunked_and_forward_mode_when_not():
    hidden, kernel, _, targets = inputs()
    direction = jnp.cos(jnp.arange(float(kernel.size))).reshape(kernel.shape)

    def second(chunk):
        def slope(k):
            return jnp.sum(jax.grad(lambda k: jnp.sum(token_logps(hidden, k, targets, chunk=chunk)))(k) * direction)

        return jit(jax.grad(slope))(kernel)

    np.testing.assert_allclose(second(5), second(N), atol=1e-4)
    _, tangent = jax.jvp(lambda k: token_logps(hidden, k, targets), (kernel,), (direction,))
    _, expected = jax.jvp(lambda k: plain(hidden, k, None, None, targets)["logps"], (kernel,), (direction,))
    np.testing.assert_allclose(tangent, expected, atol=1e-5)


def largest(fn, *args):
    """Entries of the largest array that a jaxpr, with all jaxprs inside, makes."""
    made = jaxprs.equations(jax.make_jaxpr(fn)(*args).jaxpr)
    return max(v.aval.size for eqn in made for v in eqn.outvars if hasattr(v.aval, "size"))


def test_full_logits_are_never_alive_when_chunked():
    hidden, kernel, targets = jnp.zeros((64, 4)), jnp.zeros((4, 50)), jnp.zeros(64, int)

    def grad(chunk, stats=STATS):
        def fn(h, k):
            out = token_stats(h, k, targets, chunk=chunk, stats=stats)
            return sum(jnp.sum(out[name]) for name in out)

        return jax.grad(fn, (0, 1))

    assert largest(grad(None), hidden, kernel) == 64 * 50
    assert largest(grad(8), hidden, kernel) <= 8 * 50


def test_unasked_statistics_cost_nothing():
    hidden, kernel, _, targets = inputs()

    def equations(stats):
        return len(str(jax.make_jaxpr(lambda: token_stats(hidden, kernel, targets, stats=stats))()).splitlines())

    assert equations(()) < equations(("logsumexp",)) < equations(STATS)
    assert set(token_stats(hidden, kernel, targets)) == {"logps"}


def test_chunks_of_a_sharded_token_axis_stay_sharded():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    hidden, kernel = rng.standard_normal((64, D)).astype(np.float32), rng.standard_normal((D, V)).astype(np.float32)
    targets = rng.integers(0, V, 64)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def fn(h, k, t):
        return jnp.sum(token_logps(h, k, t, chunk=16) * jnp.cos(jnp.arange(64)))

    step = jax.jit(
        jax.value_and_grad(fn, (0, 1)), in_shardings=(rows, whole, rows), out_shardings=(whole, (rows, whole))
    )
    compiled = step.lower(hidden, kernel, targets).compile()
    for value, expected in zip(
        jax.tree.leaves(step(hidden, kernel, targets)),
        jax.tree.leaves(jax.value_and_grad(fn, (0, 1))(hidden, kernel, targets)),
        strict=True,
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    assert not re.search(r"all-gather|all-to-all|collective-permute", compiled.as_text())


@pytest.mark.parametrize("rows, length, chunk", [(3, 8, 6), (2, 7, 4), (2, 6, 100)])
def test_rows_equal_their_tokens_and_skip_chunks(rows, length, chunk):
    rng = np.random.default_rng(1)
    hidden, targets = rng.standard_normal((rows, length, D)).astype(np.float32), rng.integers(0, V, (rows, length))
    kernel, where = rng.standard_normal((D, V)).astype(np.float32), rng.random((rows, length)) < 0.4
    weight = np.cos(np.arange(rows * length)).reshape(rows, length)

    def ours(h, k):
        found = logprobs.row_stats(h, k, targets, where, chunk=chunk, stats=("entropy",))
        return jnp.sum(weight * (found["logps"] + found["entropy"] ** 2))

    def oracle(h, k):
        found = plain(h.reshape(-1, D), k, None, None, targets.ravel())
        values = (found["logps"] + found["entropy"] ** 2).reshape(rows, length)
        return jnp.sum(weight * jnp.where(where, values, 0))

    pairs = zip(
        *(jax.tree.leaves(jit(jax.value_and_grad(f, (0, 1)))(hidden, kernel)) for f in (ours, oracle)), strict=True
    )
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_only_chunks_with_a_token_asked_for_are_computed(monkeypatch):
    computed, inner = [], head_chunks.statistics

    def counted(*args, **options):
        jax.debug.callback(lambda: computed.append(1))
        return inner(*args, **options)

    monkeypatch.setattr(head_chunks, "statistics", counted)
    where = np.zeros((2, 16), bool)
    where[0, 3:7] = where[1, [0, 5, 10, 15]] = True  # 8 of 32, all of which fit into one chunk
    hidden, kernel, targets = jnp.ones((2, 16, D)), jnp.ones((D, V)), np.zeros((2, 16), int)
    jax.block_until_ready(row_logps(hidden, kernel, targets, where, chunk=8))
    jax.effects_barrier()
    assert len(computed) == 1


def test_seq_logps():
    token = jnp.arange(6.0).reshape(2, 3)
    where = jnp.array([[True, False, True], [False, False, False]])
    np.testing.assert_array_equal(seq_logps(token, where), [2.0, 0.0])
    np.testing.assert_array_equal(seq_logps(token), [3.0, 12.0])
    bad = jnp.where(where, token, jnp.nan)
    np.testing.assert_array_equal(seq_logps(bad, where), [2.0, 0.0])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(seq_logps(x, where)))(bad), where)
    assert seq_logps(jnp.ones((1, 300), jnp.bfloat16)).dtype == jnp.float32
    assert float(seq_logps(jnp.ones((1, 300), jnp.bfloat16))[0]) == 300


def test_default_chunk_bounds_memory():
    assert default_chunk(1000, 1000) == 1000
    for n, vocab in ((10**6, 32000), (10**5, 256000), (4096, 50257)):
        chunk = default_chunk(n, vocab)
        assert 1 <= chunk < n and chunk * vocab <= max(2**24, 128 * vocab)


def test_errors_name_the_argument():
    hidden, kernel, bias, targets = inputs()
    with pytest.raises(ValueError, match="kernel"):
        token_logps(hidden, kernel.T, targets)
    with pytest.raises(ValueError, match="targets has shape"):
        token_logps(hidden, kernel, targets[:, None])
    with pytest.raises(ValueError, match="bias has shape"):
        token_logps(hidden, kernel, targets, bias=bias[:-1])
    with pytest.raises(ValueError, match="where has shape"):
        token_logps(hidden, kernel, targets, where=jnp.ones(3, bool))
    with pytest.raises(ValueError, match="chunk=0"):
        token_logps(hidden, kernel, targets, chunk=0)
    with pytest.raises(ValueError, match="'entropi'.*entropy"):
        token_stats(hidden, kernel, targets, stats=("entropi",))

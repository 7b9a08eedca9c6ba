"""The kernels in C++ against the jax forms that are their oracles; skipped where no compiler is found."""

import functools
import logging
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.models import attention as plain_attention
from prefjax.models import layers, lora
from prefjax.models.decoder import decoder
from prefjax.ops import head_chunks, logprobs
from prefjax.ops.native import attention, head, library, mlp
from prefjax.views import language


@pytest.fixture(autouse=True)
def compiler():
    if not (os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++", "c++")))):
        pytest.skip("no C++ compiler here")
    for name in library.KERNELS:
        assert library.load(name), f"{name} did not compile"


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def pulled(fn, grads, *args):
    """(values, gradients) of fn at args."""

    def both(*args):
        out, pull = jax.vjp(fn, *args)
        return out, pull(grads)

    return jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(*args)


def close(got, expected, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), got, expected)


@pytest.mark.parametrize("heads, groups, tokens, size, shared", [(4, 2, 130, 24, False), (2, 2, 61, 40, True)])
def test_attention_is_the_plain_form(heads, groups, tokens, size, shared):
    # Packed rows: two examples of two branches, then padding; a query sees itself at least
    segments = jnp.asarray(
        np.repeat([[1, 2, 0]], [tokens // 2, tokens // 3, tokens - tokens // 2 - tokens // 3], axis=1)
    )
    branches = jnp.asarray(np.arange(tokens)[None] * 7 // tokens % 3)
    mask = plain_attention.layout_mask(segments, branches, tokens)
    mask = mask if shared else jnp.concatenate([mask, jnp.tri(tokens, dtype=bool)[None]])
    q, grad = (normal(seed, 2, heads, tokens, size) for seed in (0, 1))
    k, v = (normal(seed, 2, groups, tokens, size) for seed in (2, 3))
    got = pulled(lambda *args: attention.attend(*args, mask, scale=0.3), grad, q, k, v)
    close(got, pulled(lambda *args: plain_attention.attend(*args, mask, scale=0.3, backend="plain"), grad, q, k, v))


def test_attention_of_fewer_queries_than_keys_and_of_one_that_sees_nothing():
    mask = jnp.ones((1, 5, 40), bool).at[0, 3].set(False).at[0, 4, 1:].set(False)
    q, k, v, grad = normal(0, 1, 2, 5, 8), normal(1, 1, 2, 40, 8), normal(2, 1, 2, 40, 8), normal(3, 1, 2, 5, 8)
    out, grads = pulled(lambda *args: attention.attend(*args, mask, scale=1.0), grad, q, k, v)
    seen = jnp.array([0, 1, 2, 4])
    expected = plain_attention.attend(q[:, :, seen], k, v, mask[:, seen], scale=1.0, backend="plain")
    close(out[:, :, seen], expected)
    np.testing.assert_array_equal(out[:, :, 3], 0)
    np.testing.assert_array_equal(grads[0][:, :, 3], 0)
    assert all(np.isfinite(g).all() for g in grads)


def test_log_probs_are_those_of_the_plain_form():
    tokens, size, vocab = 230, 40, 515
    hidden, kernel = normal(0, tokens, size), normal(1, size, vocab)
    targets = jax.random.randint(jax.random.key(2), (tokens,), 0, vocab)
    where = jax.random.bernoulli(jax.random.key(3), 0.8, (tokens,))
    grads = jnp.where(jnp.arange(tokens) % 5 == 0, 0, normal(4, tokens)), normal(5, tokens) * (jnp.arange(tokens) % 3)

    def plain(hidden, kernel):
        found = logprobs.token_stats(hidden, kernel, targets, where=where, stats=("logsumexp",), chunk=tokens)
        return found["logps"], found["logsumexp"]

    got = pulled(lambda h, k: head.logps(h, k, targets, where), grads, hidden, kernel)
    close(got, pulled(plain, grads, hidden, kernel), atol=3e-5)


def test_log_probs_at_extremes():
    hidden = jnp.array([[1e4], [-1e4], [jnp.nan], [0.0]])
    kernel = jnp.linspace(-1, 1, 70)[None]
    targets, where = jnp.array([69, 69, 0, 3]), jnp.array([True, True, False, True])
    (logps, lse), grads = pulled(
        lambda *args: head.logps(*args, targets, where), (jnp.ones(4), jnp.zeros(4)), hidden, kernel
    )
    np.testing.assert_allclose(logps, [0, -2e4, 0, -np.log(70)], atol=1e-5)
    np.testing.assert_allclose(lse, [1e4, 1e4, 0, np.log(70)], atol=1e-5)
    assert all(np.isfinite(g).all() for g in grads) and grads[0][2] == 0


@pytest.mark.parametrize("tokens, size, inner", [(130, 40, 200), (3, 8, 30)])
def test_mlp_is_the_plain_form(tokens, size, inner):
    arrays = normal(0, tokens, size), 5 * normal(1, size, inner), normal(2, size, inner), normal(3, inner, size)
    grad = normal(4, tokens, size)

    def plain(x, gate, up, down):
        return (jax.nn.silu(x @ gate) * (x @ up)) @ down

    got, expected = pulled(mlp.gated, grad, *arrays), pulled(plain, grad, *arrays)
    scales = jax.tree.map(lambda x: jnp.abs(x).max(), expected)
    divided = [jax.tree.map(jnp.divide, tree, scales) for tree in (got, expected)]
    close(*divided)
    np.testing.assert_allclose(jax.jit(mlp.gated)(*arrays), got[0], rtol=1e-5, atol=1e-4)  # nothing kept


def test_maps_over_a_batch():
    hidden, kernel = normal(0, 3, 10, 4), normal(1, 4, 20)
    targets, where = jnp.arange(30).reshape(3, 10) % 20, jnp.ones(10, bool)
    got = jax.vmap(lambda h, t: head.logps(h, kernel, t, where)[0])(hidden, targets)
    expected = jax.vmap(lambda h, t: logprobs.token_logps(h, kernel, t))(hidden, targets)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


SMALL: dict[str, Any] = dict(
    vocab_size=70, hidden_size=40, num_layers=3, num_heads=4, num_kv_heads=2, intermediate_size=72
)


def rows_of(prompt, response, padding):
    """Two rows: a prompt with two responses and padding, and three packed examples without any."""
    length = prompt + 2 * response + padding
    branches = np.repeat([[0, 1, 2, 0]], [prompt, response, response, padding], axis=1)
    packed = np.arange(length) * 3 // length
    segments = np.stack([np.arange(length) < length - padding, packed + 1])
    starts = np.array([[np.argmax(packed == i) for i in packed]])
    own = np.concatenate([np.arange(prompt), *[np.arange(prompt, prompt + response)] * 2, np.zeros(padding)])[None]
    positions = np.concatenate([own, np.arange(length)[None] - starts])
    branches = np.concatenate([branches, np.zeros((1, length))])
    tokens = np.random.default_rng(0).integers(0, 70, (2, length))
    return [jnp.asarray(array, jnp.int32) for array in (tokens, positions, segments, branches)]


def run_layers(model, params, rows, grad, monkeypatch, kernel, **options):
    """(states, gradients in the parameters) of a model, on the kernel or not."""
    with monkeypatch.context() as patched:
        patched.setattr(library, "usable", lambda name: kernel and name == "layers")
        patched.setattr("prefjax.models.layers.NATIVE_SIZE", 1)
        patched.setattr("prefjax.models.layers.NATIVE_WIDTH", 1000)
        return pulled(lambda params: model.hidden(params, *rows, **options), grad, params)


@pytest.mark.parametrize(
    "options, sizes",
    [
        ({}, (30, 50, 7)),
        ({"norm_offset": 1.0, "rope_fraction": 0.6, "num_kv_heads": 4, "head_dim": 20}, (5, 9, 3)),
        ({"num_layers": 1, "hidden_size": 64, "intermediate_size": 300, "attention_scale": 0.7}, (1, 130, 0)),
        ({"num_layers": 2, "hidden_size": 640, "intermediate_size": 40}, (2, 9, 1)),
    ],
)
def test_layers_are_those_of_the_modules(options, sizes, monkeypatch):
    model = decoder(**(SMALL | options))
    params = model.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)  # far from their initial values, so that every term counts
    spread = 0.2 * (40 / model.config.hidden_size) ** 0.5
    params = tree.unflatten([x + spread * normal(i, *x.shape) for i, x in enumerate(leaves)])
    rows = rows_of(*sizes)
    real = (rows[2] > 0)[..., None]
    grad = normal(9, *rows[0].shape, model.config.hidden_size) * real
    got, expected = (run_layers(model, params, rows, grad, monkeypatch, kernel) for kernel in (True, False))
    np.testing.assert_allclose(got[0] * real, expected[0] * real, rtol=1e-4, atol=2e-5)
    assert (jnp.where(real, 0, got[0]) == 0).all()
    largest = jax.tree.map(lambda x: jnp.abs(x).max() + 1e-9, expected[1])
    close(*(jax.tree.map(jnp.divide, tree, largest) for tree in (got[1], expected[1])))
    # The forward pass alone keeps nothing and gives the same numbers
    with monkeypatch.context() as patched:
        patched.setattr(library, "usable", lambda name: True)
        patched.setattr("prefjax.models.layers.NATIVE_SIZE", 1)
        patched.setattr("prefjax.models.layers.NATIVE_WIDTH", 1000)
        np.testing.assert_array_equal(jax.jit(lambda params: model.hidden(params, *rows))(params), got[0])


@pytest.mark.parametrize("asked", ["last", "some", "one row", "none"])
def test_layers_for_the_tokens_asked_for(asked, monkeypatch):
    model = decoder(**SMALL)
    params = jax.tree.map(lambda x: x + 0.1 * normal(x.size, *x.shape), model.init(jax.random.key(0)))
    rows = rows_of(9, 60, 5)
    shape = rows[0].shape
    where = {
        "last": jnp.zeros(shape, bool).at[:, jnp.array([68, 128])].set(True),
        "some": jax.random.bernoulli(jax.random.key(1), 0.3, shape),
        "one row": jnp.zeros(shape, bool).at[1].set(True),
        "none": jnp.zeros(shape, bool),
    }[asked]
    real = (rows[2] > 0)[..., None]
    # A token with no gradient, and one with a gradient that is not asked for
    grad = (normal(9, *shape, 40) * real).at[:, 68].set(0)
    got, expected = (
        run_layers(model, params, rows, grad, monkeypatch, kernel, where=where) for kernel in (True, False)
    )
    np.testing.assert_allclose(got[0] * real, expected[0] * real, rtol=1e-4, atol=2e-5)
    largest = jax.tree.map(lambda x: jnp.abs(x).max() + 1e-9, expected[1])
    close(*(jax.tree.map(jnp.divide, tree, largest) for tree in (got[1], expected[1])))
    whole = run_layers(model, params, rows, grad, monkeypatch, True)[0]
    np.testing.assert_array_equal(got[0], jnp.where(where[..., None], whole, 0))


def test_layers_of_padding_alone(monkeypatch):
    model = decoder(**SMALL)
    rows = [jnp.zeros((2, 12), jnp.int32)] * 4
    out, grads = run_layers(model, model.init(jax.random.key(0)), rows, jnp.ones((2, 12, 40)), monkeypatch, True)
    assert all((x == 0).all() for x in jax.tree.leaves((out, grads[0]["layers"])))


@pytest.mark.parametrize(
    "options",
    [{"qk_norm": True}, {"qkv_bias": True}, {"remat": "full"}, {"norm": "layer"}, {"activation": "gelu"},
     {"sliding_window": 4}, {"positions": "learned"}, {"dtype": "bfloat16"}, {"parallel_residual": True},
     {"norm_placement": "both"}, {"attention_softcap": 20.0}, {"attention": "plain"}, {"gated": False}],
)  # fmt: skip
def test_layers_that_the_kernel_does_not_know_run_without_it(options, monkeypatch):
    model = decoder(**(SMALL | options))
    monkeypatch.setattr("prefjax.models.layers.NATIVE_SIZE", 1)
    used = []
    monkeypatch.setattr(library, "usable", lambda name: used.append(name) or False)
    jax.eval_shape(model.hidden, model.init(jax.random.key(0)), jnp.zeros((1, 8), jnp.int32))
    assert "layers" not in used


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_layers_with_adapters_are_merged_and_quantised_ones_run_without_the_kernel(quantize, monkeypatch):
    base = functools.partial(decoder, **(SMALL | {"num_layers": 1}))
    model = lora.adapted(vocab_size=70, base=base, rank=2, targets=("attn/q", "mlp/down"), quantize=quantize)
    trained, carry = model.split(model.init(jax.random.key(0)), jax.random.key(1))
    trained = jax.tree.map(lambda x: x + 0.1, trained)
    tokens, grad = jnp.arange(24).reshape(2, 12), normal(0, 2, 12, 40)
    used = []

    def run(kernel):
        with monkeypatch.context() as patched:
            patched.setattr("prefjax.models.layers.NATIVE_SIZE", 1)
            patched.setattr(library, "usable", lambda name: name == "layers" and (used.append(name) or kernel))
            return pulled(lambda trained: model.hidden(model.whole(trained, carry), tokens), grad, trained)

    close(run(True), run(False), atol=2e-5)
    assert len(used) == (2 if quantize is None else 0)


def test_a_model_runs_on_kernels_where_they_are_usable_and_gives_the_same(monkeypatch):
    model = decoder(vocab_size=70, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24)
    params = model.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 20), 0, 70)

    positions = jnp.where(jnp.arange(20) < 14, jnp.arange(20), jnp.arange(20) - 6)
    batch = {
        "tokens": tokens,
        "positions": jnp.broadcast_to(positions, tokens.shape),
        "segments": jnp.broadcast_to(jnp.arange(20) < 18, tokens.shape).astype(jnp.int32),
        "branches": jnp.broadcast_to((jnp.arange(20) >= 8).astype(jnp.int32) + (jnp.arange(20) >= 14), tokens.shape),
        "response_mask": jnp.ones((2, 1, 2), bool),
        "example_mask": jnp.ones((2, 1), bool),
    }

    def loss(params):
        named = language.pairs(params, {}, batch, jax.random.key(2), model=model)
        return jnp.sum(jnp.sin(named["chosen_logps"]) - named["rejected_logps"])

    used = []
    monkeypatch.setattr("prefjax.models.attention.BLOCKWISE", 1)
    monkeypatch.setattr("prefjax.models.layers.NATIVE_SIZE", 1)
    monkeypatch.setattr(head_chunks, "default_chunk", lambda n, *_: n // 2)
    with library.off():
        expected = jax.jit(jax.value_and_grad(loss))(params)
    monkeypatch.setattr(library, "usable", lambda name: used.append(name) or True)
    got = jax.jit(jax.value_and_grad(lambda params: loss(params)))(params)
    assert set(used) == {"layers", "head"}
    close(got, expected)
    monkeypatch.setattr(library, "usable", lambda name: used.append(name) or name != "layers")
    close(jax.jit(jax.value_and_grad(lambda params: loss(params) + 0))(params), expected)
    assert set(used) == set(library.KERNELS)


def test_what_is_usable(monkeypatch, caplog):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert library.usable("head") == (jax.default_backend() == "cpu")
    with library.off():
        assert not library.usable("head") and not library.tiles()
    monkeypatch.setenv("PREFJAX_NATIVE", "0")
    assert not library.usable("head")
    monkeypatch.delenv("PREFJAX_NATIVE")
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert not library.usable("head")
    with pytest.raises(ValueError, match="no kernel 'tail'"):
        library.load("tail")
    monkeypatch.setenv("CXX", shutil.which("false") or "false")
    with caplog.at_level(logging.WARNING):
        assert not library.load.__wrapped__("head")
    assert "could not be compiled" in caplog.text


def test_the_compiled_file_is_kept_and_made_again_after_a_change(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def run(command, **kwargs):
        if "-o" in command:
            made.append(command)
            open(command[-1], "w").close()
        return type("Done", (), {"stdout": b"macros"})

    monkeypatch.setattr(library.subprocess, "run", run)
    first = library._compiled("head", "c++")
    assert library._compiled("head", "c++") == first and len(made) == 1
    assert library._compiled("head", "another") != first and len(made) == 2
    assert sorted(path.suffix for path in library.cache_folder().iterdir()) == [".so", ".so"]


def test_no_token_asked_for():
    nothing = jnp.zeros(6, bool)
    grads = jnp.ones(6), jnp.ones(6)
    out = pulled(lambda h, k: head.logps(h, k, jnp.arange(6), nothing), grads, normal(0, 6, 4), normal(1, 4, 9))
    assert all((x == 0).all() for x in jax.tree.leaves(out))


COMPUTED = """
import sys

import jax
import numpy as np

from prefjax.ops.native import head, layers, library, mlp

assert all(map(library.load, library.KERNELS))
draw = np.random.default_rng(0)


def normal(*shape):
    return draw.normal(size=shape).astype("f")


hidden, kernel, where = normal(300, 200), normal(200, 700), np.arange(300) % 7 > 0
out, pull = jax.vjp(lambda *a: head.logps(*a, np.arange(300), where), hidden, kernel)
found = {"logps": out[0], "lse": out[1], "head": pull((normal(300), normal(300)))}

out, pull = jax.vjp(mlp.gated, normal(300, 72), normal(72, 200), normal(72, 200), normal(200, 72))
found |= {"mlp": out, "of_mlp": pull(normal(300, 72))}

L, D, H, KV, F, rows, length = 2, 72, 3, 1, 200, 2, 150
shapes = (D,), (D, H * 24), (D, KV * 24), (D, KV * 24), (H * 24, D), (D,), (D, F), (D, F), (F, D)
weights = layers.Weights(*(normal(L, *shape) / 8 for shape in shapes))
angles = normal(rows, length, 12)
mask = np.tril(np.ones((1, length, length), bool))
real = np.arange(rows * length).reshape(rows, length) % 11 > 0
fixed = np.cos(angles), np.sin(angles), mask & real[:, :, None], real, real & (np.arange(length) > 40)
facts = layers.Facts(H, KV, 1e-5, 0.2, 0.0)
out, pull = jax.vjp(lambda x, w: layers.run(facts, x, w, *fixed), normal(rows, length, D), weights)
found |= {"layers": out, "of_layers": pull(normal(rows, length, D))}
arrays = {f"{name}{i}": x for name, tree in found.items() for i, x in enumerate(jax.tree.leaves(tree))}
np.savez(sys.argv[1], hidden=hidden, kernel=kernel, **arrays)
"""


def test_tiles_of_bfloat16_and_vectors_of_float32_give_the_same(tmp_path):
    found = {}
    for wanted in "01":
        file = tmp_path / f"{wanted}.npz"
        environment = {**os.environ, "PREFJAX_TILES": wanted, "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", COMPUTED, file], check=True, env=environment)
        found[wanted] = np.load(file)
    hidden, kernel = (found["0"][name].astype(np.float64) for name in ("hidden", "kernel"))
    logits = hidden @ kernel
    top = logits.max(1)
    exact = top + np.log(np.exp(logits - top[:, None]).sum(1))
    asked = np.arange(300) % 7 > 0
    vectors, tiles = (np.abs(found[wanted]["lse0"] - exact)[asked].max() for wanted in "01")
    assert tiles <= vectors < 5e-5
    for name, expected in found["0"].items():
        np.testing.assert_allclose(found["1"][name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    cpu = pathlib.Path("/proc/cpuinfo")
    if cpu.is_file() and {"amx_bf16", "amx_tile", "avx512bw"} <= set(cpu.read_text().split()):
        for name in ("lse0", "head0", "mlp0", "of_mlp1", "layers0", "of_layers3"):
            assert (found["0"][name] != found["1"][name]).any()  # the tiles were at work


def test_wide_matrices_are_the_kernels_on_tiles_alone(monkeypatch):
    hidden: Any = jnp.zeros((9, 4096))
    kernel: Any = jax.ShapeDtypeStruct((4096, 32000), "float32")
    monkeypatch.setattr(library, "usable", lambda name: True)
    monkeypatch.setattr(head_chunks, "default_chunk", lambda *_: 1)
    for tiles in (False, True):
        monkeypatch.setattr(library, "tiles", lambda tiles=tiles: tiles)
        assert layers.pays(4096, 8192, 2**22) == tiles and layers.pays(256, 1024, 2**22)
        assert (logprobs._fused(hidden, kernel, None, None, ()) is head.logps) == tiles

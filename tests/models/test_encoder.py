"""Encoders: packing and padding change nothing, pooling is its definition, and folders come back as they went."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.models import encoder as encoders
from prefjax.models import hf_encoder, huggingface

SIZE = {"vocab_size": 40, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "max_positions": 16, "init_std": 0.3}


def drawn(model):
    """Parameters without compiling anything, none at a special value."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes)


@functools.cache
def made(**switches):
    model = encoders.encoder(**SIZE, **switches)
    return model, drawn(model)


def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 40, size=n).astype(np.int32) for n in (5, 3, 7)]


def padded(rows, length=8):
    tokens = np.zeros((len(rows), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    return tokens, segments


def test_padding_and_packing_change_nothing():
    models = [
        made(pooler=True, pooling=pooling, normalize=pooling == "mean")[0] for pooling in ("mean", "cls", "pooler")
    ]
    _, params = made(pooler=True)
    tokens, segments = padded(texts())
    row = np.concatenate([*texts(), [0]])[None].astype(np.int32)
    sizes = [len(ids) for ids in texts()]
    where = np.concatenate([np.full(n, i + 1) for i, n in enumerate(sizes)] + [[0]])[None].astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in (*sizes, 1)])[None].astype(np.int32)

    @jax.jit
    def run(params):
        together = [model.embed(params, tokens, None, segments)[:, 0] for model in models]
        packed = [model.embed(params, row, positions, where, texts=4)[0] for model in models]
        return together, packed, models[0].embed(params, texts()[1][None])[0, 0]

    together, packed, alone = run(params)
    np.testing.assert_allclose(together[0][1], alone, atol=2e-6)
    for one, other in zip(together, packed, strict=True):
        np.testing.assert_allclose(other[:3], one, atol=2e-6)
        np.testing.assert_array_equal(other[3], 0)  # no such segment
    assert np.abs(together[1] - together[2]).max() > 0.01


def test_attention_is_bidirectional():
    model, params = made()
    tokens = np.array([[3, 7, 9, 11]], np.int32)
    changed = np.array([[3, 7, 9, 12]], np.int32)
    hidden = jax.jit(model.hidden)
    assert np.abs(hidden(params, tokens)[0, 0] - hidden(params, changed)[0, 0]).max() > 1e-3


def test_one_layer_is_its_equations():
    model = encoders.encoder(**{**SIZE, "num_layers": 1}, pooler=True, pooling="pooler", outputs=2)
    params = drawn(model)
    ids = np.array([[4, 9, 2]], np.int32)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    one = jax.tree.map(lambda x: x[0], p["layers"])

    def norm(x, q):
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return z * q["scale"] + q["bias"]

    def linear(x, q):
        return x @ q["kernel"] + q["bias"]

    x = p["embed"]["kernel"][ids[0]] + p["positions"]["kernel"][:3] + p["types"]["kernel"][1]
    x = norm(x, p["embed_norm"])
    q, k, v = (linear(x, one["attn"][name]).reshape(3, 4, 4) for name in "qkv")
    logits = np.einsum("qhd,khd->hqk", q, k) / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", weights, v).reshape(3, 16)
    x = norm(x + linear(mixed, one["attn"]["o"]), one["attn_norm"])
    inner = linear(x, one["mlp"]["up"])
    erf = np.vectorize(__import__("math").erf)
    x = norm(x + linear(inner * (1 + erf(inner / np.sqrt(2))) / 2, one["mlp"]["down"]), one["mlp_norm"])
    types = np.ones_like(ids)
    pooled = np.tanh(linear(x[0], p["pooler"]))

    @jax.jit
    def run(params):
        embedded = model.embed(params, ids, None, None, types)
        return model.hidden(params, ids, None, None, types)[0], embedded[0, 0], model.scores(params, embedded)[0, 0]

    for ours, wanted in zip(run(params), (x, pooled, linear(pooled, p["score"])), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-5)


def test_remat_and_bfloat16():
    params = made()[1]
    tokens, segments = padded(texts())
    models = [encoders.encoder(**SIZE, remat=remat) for remat in ("none", "full")]

    def loss(params, model):
        out = model.embed(params, tokens, None, segments)
        return jnp.sum(out**3), out

    @jax.jit
    def run(params):
        half = encoders.encoder(**SIZE, dtype="bfloat16").embed(params, tokens, None, segments)
        return [jax.grad(loss, has_aux=True)(params, model) for model in models], half

    ((plain, whole), (saved, _)), half = run(params)
    for a, b in zip(*map(jax.tree.leaves, (plain, saved)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, whole, atol=0.06)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"pooling": "men"}, "did you mean 'mean'"),
        ({"num_heads": 3}, "does not divide"),
        ({"pooling": "pooler"}, "needs pooler=True"),
        ({"outputs": -1}, "must not be negative"),
        ({"types": 0}, "must be positive"),
    ],
)
def test_refused_switches(switches, message):
    with pytest.raises(ValueError, match=message):
        encoders.encoder(**{**SIZE, **switches})


@pytest.mark.parametrize("switches", [{"normalize": True}, {"pooler": True, "pooling": "cls"},
                                      {"pooler": True, "pooling": "pooler", "outputs": 3}])  # fmt: skip
def test_folder_comes_back(switches, tmp_path):
    model = encoders.encoder(**SIZE, **switches)
    params = drawn(model)
    hf_encoder.write_encoder(tmp_path / "a", model, params, max_shard_size=4000)
    again = hf_encoder.encoder_from(tmp_path / "a", **({} if switches.get("pooler") else {"pooler": False}))
    assert again.config == model.config
    read = hf_encoder.read_encoder(tmp_path / "a", again)
    assert jax.tree.structure(read) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FileExistsError):
        hf_encoder.write_encoder(tmp_path / "a", model, params)


def test_new_score_head_and_sharding(tmp_path):
    model, params = made(pooler=True)
    hf_encoder.write_encoder(tmp_path / "a", model, params)
    scored = hf_encoder.encoder_from(tmp_path / "a", outputs=2, pooling="pooler")
    assert "score" not in hf_encoder.read_encoder(tmp_path / "a", scored)
    mesh = jax.make_mesh((1,), ("data",))
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    read = hf_encoder.read_encoder(tmp_path / "a", scored, shardings=placed, key=jax.random.key(0))
    assert read["score"]["kernel"].shape == (16, 2) and read["embed"]["kernel"].sharding == placed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "berd"}, "did you mean 'bert'"),
        ({"architectures": ["BertForMaskedLMM"]}, "did you mean 'BertForMaskedLM'"),
        ({"hidden_act": "gello"}, "did you mean 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "expected 'absolute'"),
        ({"is_decoder": True}, "expected it false"),
        ({"embedding_size": 8}, "embedding_size=8 is not known of 'bert'"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"num_hidden_layers": 1}, "unexpected tensor"),
    ],
)
def test_bad_folders_are_named(change, message, tmp_path):
    model, params = made(pooler=True)
    hf_encoder.write_encoder(tmp_path / "a", model, params)
    file = tmp_path / "a" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        hf_encoder.read_encoder(tmp_path / "a", hf_encoder.encoder_from(tmp_path / "a"))


def test_decoders_and_encoders_know_each_other(tmp_path):
    model, params = made()
    hf_encoder.write_encoder(tmp_path / "a", model, params)
    with pytest.raises(ValueError, match="is an encoder"):
        huggingface.model_from(tmp_path / "a")
    with pytest.raises(ValueError, match="BertForSequenceClassification"):
        hf_encoder.write_encoder(tmp_path / "b", dataclasses.replace(model, config=dataclasses.replace(
            model.config, outputs=1)), params)  # fmt: skip
    with pytest.raises(FileNotFoundError):
        hf_encoder.encoder_from(tmp_path / "none")

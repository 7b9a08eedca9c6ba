"""Adapters: nothing changes at first, they are all that learns, merging computes the same, PEFT's files hold them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from prefjax import leaves, mesh, train
from prefjax.losses.preference import paired
from prefjax.models import decoder, lora, peft, quantized
from prefjax.objective import compose
from prefjax.views import adapted, language

BASE = functools.partial(decoder.decoder, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, init_std=0.2)
TOKENS = np.array([[1, 5, 7, 2, 9, 3, 4, 8]], np.int32)
BATCH = {
    "tokens": TOKENS,
    "positions": np.array([[0, 1, 2, 3, 4, 2, 3, 4]], np.int32),
    "segments": np.ones_like(TOKENS),
    "branches": np.array([[0, 0, 1, 1, 1, 2, 2, 2]], np.int32),
    "response_mask": np.ones((1, 1, 2), bool),
    "example_mask": np.ones((1, 1), bool),
    "example_ids": np.zeros((1, 1), np.int32),
}


def made(**options):
    return lora.adapted(vocab_size=12, base=BASE, **{"rank": 3, "alpha": 6.0, **options})


def parts(model, spread=0.0):
    """Whole, trained and carried parameters, by numpy: nothing is compiled."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype)

    whole = jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0)))
    trained, carry = jax.jit(model.split)(whole, jax.random.key(1))
    trained = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + spread * rng.standard_normal(x.shape), x.dtype), trained
    )
    return whole, trained, carry


def test_adapters_add_their_product_and_merge_to_the_same():
    model = made(targets=("attn/q", "mlp/down"))
    whole, trained, carry = parts(model)
    _, moved, _ = parts(model, spread=0.1)

    @jax.jit
    def run():
        hidden = functools.partial(model.hidden, tokens=TOKENS)
        first = hidden(model.whole(trained, carry))
        return first, hidden(whole), hidden(model.whole(moved, carry)), hidden(model.merged(moved, carry))

    first, plain, on, merged = run()
    np.testing.assert_array_equal(first, plain)  # B starts at zero
    np.testing.assert_allclose(on, merged, atol=2e-6)
    assert np.abs(on - plain).max() > 0.01
    own = leaves.named_leaves(moved)
    kernel = "layers/attn/q/kernel"
    given = leaves.named_leaves(model.merged(moved, carry))[kernel]
    product = np.einsum("lir,lro->lio", *(np.asarray(own[f"lora/{kernel}/{part}"], np.float64) for part in "ab"))
    np.testing.assert_allclose(given, np.asarray(leaves.named_leaves(whole)[kernel]) + 6 / 3 * product, atol=1e-6)


def test_only_adapters_learn_and_the_reference_is_the_base():
    model = made(heads=("norm",))
    _, trained, carry = parts(model)
    view = functools.partial(adapted.adapted, model=model, inner=language.pairs)
    objective = compose(view, paired.dpo)
    tx = optax.adam(0.05)
    step = jax.jit(train.make_step(objective, tx))
    state = train.init_state(trained, tx, carry)
    size = sum(x.size for x in jax.tree.leaves(trained))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) == 2 * size + 1
    losses = []
    for i in range(4):
        state, metrics = step(state, BATCH, jax.random.key(i))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6) and losses[-1] < 0.65  # the policy is its reference at first
    for a, b in zip(jax.tree.leaves(state.carry), jax.tree.leaves(carry), strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(state.params) == {"lora", "norm"}
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.params, trained)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(("kind", "bound"), [("int8", 1 / 254), ("nf4", 0.152)])
def test_quantised_matrices_are_near_and_small(kind, bound):
    kernel = np.random.default_rng(0).standard_normal((2, 128, 8)).astype(np.float32)
    kernel[0, :64, 0] = 0
    found = jax.jit(functools.partial(quantized.quantize, kind=kind))(kernel)
    assert found.shape == kernel.shape and found[...] is found
    largest = np.repeat(np.abs(kernel).reshape(2, 2, 64, 8).max(2), 64, axis=1)
    back = np.asarray(found.floats(jnp.float32))
    assert (np.abs(back - kernel) <= bound * largest + 1e-6).all()
    np.testing.assert_array_equal(back[0, :64, 0], 0)
    share = quantized.bytes_of(found) / kernel.nbytes
    assert share == pytest.approx({"int8": 1, "nf4": 0.5}[kind] / 4 + 1 / 64)


def test_adapters_on_a_quantised_base():
    model = made(quantize="int8", targets=("attn/v",))
    whole, trained, carry = parts(model)
    same = jax.jit(lambda: (model.hidden(whole, TOKENS), model.hidden(model.whole(trained, carry), TOKENS)))()
    np.testing.assert_allclose(*same, atol=0.05)
    assert carry["base"]["layers"]["mlp"]["up"]["kernel"].values.dtype == jnp.int8
    assert carry["base"]["embed"]["kernel"].dtype == jnp.float32
    assert quantized.bytes_of(carry["base"]["layers"]) < 0.5 * quantized.bytes_of(whole["layers"])


def test_no_floats_of_a_quantised_base_are_kept_for_the_backward_pass():
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)  # few, so that activations are smaller than matrices
    kept = {}
    for kind in (None, "nf4"):
        model = made(quantize=kind)
        trained, carry = jax.eval_shape(lambda key, model=model: model.split(model.init(key), key), jax.random.key(0))

        def residuals(trained, carry, tokens, model=model):
            return jax.vjp(lambda t: model.hidden(model.whole(t, carry), tokens).sum(), trained)[1]

        saved = jax.tree.leaves(jax.eval_shape(residuals, trained, carry, tokens))
        kept[kind] = sum(x.size for x in saved if x.ndim == 3 and x.dtype == jnp.float32 and x.shape[0] == 2)
    assert kept["nf4"] < kept[None] / 2


def test_sharding_follows_the_matrix():
    model = made(quantize="int8")
    shapes = jax.eval_shape(lambda key: model.split(model.init(key), key), jax.random.key(0))
    grid = mesh.make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4])
    named = leaves.named_leaves(mesh.shardings(shapes, lora.rules(), grid))
    assert tuple(named["0/lora/layers/attn/q/kernel/a"].spec) == (None, "fsdp", None)
    assert tuple(named["0/lora/layers/attn/q/kernel/b"].spec) == (None, None, "tensor")
    assert tuple(named["1/base/layers/mlp/down/kernel/values"].spec) == (None, "tensor", "fsdp")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("attn/qq",)}, "did you mean 'attn/q'"),
        ({"heads": ("scores",)}, "did you mean 'score'"),
        ({"quantize": "int4"}, "did you mean 'int8'"),
        ({"rank": 0}, "expected positive numbers"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_what_a_decoder_lacks_is_named():
    model = lora.adapted(vocab_size=12, base=functools.partial(BASE, gated=False), targets=("mlp/gate",))
    with pytest.raises(ValueError, match="no such matrices; it has attn/k"):
        jax.eval_shape(lambda key: model.split(model.init(key), key), jax.random.key(0))


def test_names_and_layout_of_peft(tmp_path):
    model = made(targets=("attn/q", "mlp/up"), heads=("head",))
    _, trained, _ = parts(model, spread=0.1)
    peft.write_adapter(tmp_path / "a", model, trained, base_model="some/base")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (3, 6.0, "CAUSAL_LM")
    assert config["target_modules"] == ["mlp.up_proj", "self_attn.q_proj"] and config["modules_to_save"] == ["lm_head"]
    content = load_file(tmp_path / "a" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(content[name], trained["lora"]["layers"]["attn"]["q"]["kernel"]["a"][1].T)
    assert content["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"].shape == (24, 3)
    assert content["base_model.model.lm_head.weight"].shape == (12, 16) and len(content) == 9
    again = peft.read_adapter(tmp_path / "a", model)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(trained), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="r=3; this model has 4"):
        peft.read_adapter(tmp_path / "a", made(rank=4, alpha=6.0, targets=("attn/q", "mlp/up"), heads=("head",)))
    with pytest.raises(ValueError, match="is missing"):
        peft.read_adapter(tmp_path / "a", made(targets=("attn/k", "mlp/up"), heads=("head",)))
    with pytest.raises(ValueError, match="belongs to no adapter"):
        peft.read_adapter(tmp_path / "a", made(targets=("mlp/up",), heads=("head",)))
    for field, value in (("init_lora_weights", "pissa_niter_4"), ("use_dora", True), ("rank_pattern", {"q_proj": 2})):
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config | {field: value}))
        with pytest.raises(ValueError, match=f"adapter_config.json: {field}="):
            peft.read_adapter(tmp_path / "a", model)


def test_matrices_that_share_a_tensor_are_refused(tmp_path):
    gpt2 = functools.partial(BASE, gated=False, norm="layer", positions="learned", activation="gelu_tanh",
                             qkv_bias=True, out_bias=True, mlp_bias=True, tied=True, intermediate_size=64)  # fmt: skip
    model = lora.adapted(vocab_size=12, base=gpt2, targets=("attn/q",))
    with pytest.raises(ValueError, match="in one matrix 'h.{}.attn.c_attn.weight'"):
        peft.write_adapter(tmp_path / "a", model, {})

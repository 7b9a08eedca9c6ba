"""Hugging Face folders without torch: round trips, layouts checked by hand, heads, and errors that name their cause."""

import json
import pathlib
import re
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from prefjax import config, leaves, mesh
from prefjax.data import tokenization
from prefjax.models import hf_families, hf_files, huggingface, presets, sharding
from prefjax.models.decoder import decoder

SMALL = {"vocab_size": 24, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 24}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
FAMILIES = {
    "llama2": ("llama", presets.llama2(**SMALL)),
    "llama3": ("llama", presets.llama3(**SMALL, num_kv_heads=2, rope_scaling=LLAMA3, tied=True)),
    "llama-biases": ("llama", presets.llama2(**SMALL, qkv_bias=True, out_bias=True, mlp_bias=True, head_dim=6)),
    "linear": ("llama", presets.llama2(**SMALL, rope_scaling={"type": "linear", "factor": 2.0})),
    "dynamic": ("llama", presets.llama2(**SMALL, rope_scaling={"type": "dynamic", "factor": 2.0})),
    "yarn": ("llama", presets.llama2(**SMALL, rope_scaling={"type": "yarn", "factor": 2.0, "truncate": False})),
    "mistral": ("mistral", presets.mistral(**SMALL, num_kv_heads=1)),
    "qwen2": ("qwen2", presets.qwen2(**SMALL, num_kv_heads=2)),
    "qwen2-windows": ("qwen2", presets.qwen2(**SMALL, sliding_window=4, global_layers=(0,))),
    "qwen3": ("qwen3", presets.qwen3(**SMALL, num_kv_heads=2)),
    "gemma": ("gemma", presets.gemma(**SMALL, num_kv_heads=1)),
    "gemma2": ("gemma2", presets.gemma2(**SMALL, num_kv_heads=2)),
    "gemma3": ("gemma3_text", presets.gemma3(**SMALL) | {"global_every": 2, "head_dim": 6}),
    "gpt2": ("gpt2", presets.gpt2(**SMALL) | {"max_positions": 32}),
    "gpt_neox": ("gpt_neox", presets.gpt_neox(**SMALL) | {"rope_fraction": 0.5}),
}


def filled(model, dtype="float32", seed=0):
    """Random parameters without compiling anything."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(jnp.dtype(dtype)), shapes)


def assert_same(a, b):
    a, b = leaves.named_leaves(a), leaves.named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


@pytest.fixture
def llama(tmp_path):
    """A written folder, its model and its parameters."""
    model = decoder(**presets.llama2(**SMALL, num_kv_heads=2))
    params = filled(model)
    huggingface.write_folder(tmp_path / "llama", model, params)
    return tmp_path / "llama", model, params


def edit(folder, change, file="model.safetensors"):
    """Applies `change` to the tensors of a file."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


def edit_config(folder, **fields):
    file = folder / "config.json"
    merged = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in merged.items() if value is not ...}))


@pytest.mark.parametrize("head", ["lm", "score"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_is_read(name, head, tmp_path):
    family, switches = FAMILIES[name]
    model = decoder(**switches, outputs=2 * (head == "score"))
    params = filled(model)
    huggingface.write_folder(tmp_path / "f", model, params, max_shard_size=6000)
    fields = json.loads((tmp_path / "f" / "config.json").read_text())
    assert (fields["model_type"], fields["torch_dtype"]) == (family, "float32")
    assert fields["architectures"] == [getattr(hf_families.FAMILIES[family], head)]
    back = huggingface.model_from(tmp_path / "f")
    if head == "lm":
        assert back.config == model.config
    else:
        assert (back.config.outputs, back.config.lm_head) == (2, False)
        params.pop("head", None)  # a score head's class has no place for an output head
    assert_same(huggingface.read_params(tmp_path / "f", back), params)


def test_shards_and_their_index(tmp_path):
    model = decoder(**presets.qwen2(**SMALL, num_kv_heads=2))
    params = filled(model)
    huggingface.write_folder(tmp_path / "many", model, params, max_shard_size=6000)
    huggingface.write_folder(tmp_path / "one", model, params)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    total = 0
    for file in files:
        tensors = load_file(tmp_path / "many" / file)
        assert {name for name, where in index["weight_map"].items() if where == file} == tensors.keys()
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 6000
        total += size
    assert index["metadata"]["total_size"] == total == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert not (tmp_path / "one" / "model.safetensors.index.json").exists()
    assert_same(huggingface.read_params(tmp_path / "one", model), huggingface.read_params(tmp_path / "many", model))
    with safe_open(tmp_path / "one" / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses files without it


def test_layouts_by_hand(tmp_path):
    """Which number stands where, from the definitions of the published layouts."""
    size, heads, head_dim = 16, 4, 4
    for name in ("llama2", "gpt2", "gpt_neox"):
        model = decoder(**FAMILIES[name][1])
        params = filled(model)
        huggingface.write_folder(tmp_path / name, model, params)
        tensors = load_file(tmp_path / name / "model.safetensors")
        q, k, v, up = (params["layers"][a][b]["kernel"][1] for a, b in
                       (("attn", "q"), ("attn", "k"), ("attn", "v"), ("mlp", "up")))  # fmt: skip
        if name == "llama2":
            assert tensors["model.layers.1.self_attn.k_proj.weight"][3, 5] == k[5, 3]
            assert tensors["model.layers.1.mlp.up_proj.weight"].shape == (24, 16)
            assert tensors["lm_head.weight"][7, 2] == params["head"]["kernel"][2, 7]
        if name == "gpt2":
            fused = tensors["transformer.h.1.attn.c_attn.weight"]
            assert fused.shape == (size, 3 * size)
            assert (fused[5, 3], fused[5, size + 3], fused[5, 2 * size + 3]) == (q[5, 3], k[5, 3], v[5, 3])
            assert tensors["transformer.h.1.mlp.c_fc.weight"][5, 3] == up[5, 3]
        if name == "gpt_neox":
            fused = tensors["gpt_neox.layers.1.attention.query_key_value.weight"]
            bias = tensors["gpt_neox.layers.1.attention.query_key_value.bias"]
            for head in range(heads):
                for number, part in enumerate((q, k, v)):
                    row = (head * 3 + number) * head_dim + 2
                    assert fused[row, 5] == part[5, head * head_dim + 2]
                    own = params["layers"]["attn"]["qkv"[number]]["bias"][1]
                    assert bias[row] == own[head * head_dim + 2]


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_types(stored, tmp_path):
    switches = presets.gpt_neox(**SMALL) | {"rope_fraction": 0.5}
    params = filled(decoder(**switches), stored)
    huggingface.write_folder(tmp_path / "f", decoder(**switches, param_dtype=stored), params)
    assert json.loads((tmp_path / "f" / "config.json").read_text())["torch_dtype"] == stored
    same = huggingface.model_from(tmp_path / "f", param_dtype=stored)
    assert_same(huggingface.read_params(tmp_path / "f", same), params)
    wide = huggingface.read_params(tmp_path / "f", huggingface.model_from(tmp_path / "f"))
    assert_same(wide, jax.tree.map(lambda leaf: leaf.astype(np.float32), params))
    assert_same(huggingface.read_params(tmp_path / "f", same, dtype=np.float32), wide)


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "gpt_neox"])
def test_shardings(name, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_files, "PIECE", 200)  # all but the norms in several pieces
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices, real or faked")
    model = decoder(**FAMILIES[name][1])
    huggingface.write_folder(tmp_path / "f", model, filled(model))
    whole = huggingface.read_params(tmp_path / "f", model)
    grid = mesh.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    placed = mesh.shardings(jax.eval_shape(model.init, jax.random.key(0)), sharding.RULES, grid)
    split = huggingface.read_params(tmp_path / "f", model, shardings=placed)
    assert_same(split, whole)
    assert jax.tree.map(lambda leaf: leaf.sharding, split) == placed
    assert len({str(shard.index) for shard in split["layers"]["mlp"]["up"]["kernel"].addressable_shards}) == 4
    one = huggingface.read_params(tmp_path / "f", model, shardings=jax.sharding.SingleDeviceSharding(jax.devices()[3]))
    assert {device for leaf in jax.tree.leaves(one) for device in leaf.devices()} == {jax.devices()[3]}
    with pytest.raises(ValueError, match="shardings has no norm/"):
        huggingface.read_params(tmp_path / "f", model, shardings={**placed, "norm": {}})


def test_memory_of_reading_and_writing(tmp_path, monkeypatch):
    model = decoder(**presets.llama2(vocab_size=64, hidden_size=128, num_layers=24, num_heads=4))
    params = filled(model)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    tracemalloc.start()
    huggingface.write_folder(tmp_path / "f", model, params, max_shard_size=total // 8)
    assert tracemalloc.get_traced_memory()[1] < 0.4 * total
    del params
    mapped, read_one = [], hf_files.read

    def watched(*arguments):
        mapped.append(maps.read_text().count(".safetensors") if maps.is_file() else 0)
        return read_one(*arguments)

    maps = pathlib.Path("/proc/self/maps")
    monkeypatch.setattr(hf_files, "read", watched)
    huggingface.read_params(tmp_path / "f", model)  # whatever is cached
    monkeypatch.undo()
    assert mapped and not any(mapped)  # pages once read do not pile up beside what was made of them
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    read = huggingface.read_params(tmp_path / "f", model)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert total == sum(leaf.nbytes for leaf in jax.tree.leaves(read))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(read))
    assert peak < total + 1.2 * largest, (peak / total, largest / total)


def test_tied_models_store_one_table(tmp_path):
    model = decoder(**FAMILIES["llama3"][1])
    params = filled(model)
    huggingface.write_folder(tmp_path / "f", model, params)
    assert "lm_head.weight" not in load_file(tmp_path / "f" / "model.safetensors")
    # Some exports store the tied head as well
    edit(tmp_path / "f", lambda t: t.update({"lm_head.weight": params["embed"]["kernel"]}))
    assert_same(huggingface.read_params(tmp_path / "f", model), params)
    other = params["embed"]["kernel"] + np.eye(24, 16, dtype=np.float32)[::-1]
    edit(tmp_path / "f", lambda t: t.update({"lm_head.weight": other}))
    with pytest.raises(ValueError, match="'lm_head.weight' is not 'model.embed_tokens.weight'"):
        huggingface.read_params(tmp_path / "f", model)
    untied = huggingface.model_from(tmp_path / "f", tied=False)
    assert_same(huggingface.read_params(tmp_path / "f", untied), params | {"head": {"kernel": other.T}})
    edit(tmp_path / "f", lambda t: t.pop("lm_head.weight") is None)
    head = huggingface.read_params(tmp_path / "f", untied)["head"]["kernel"]
    np.testing.assert_array_equal(head, params["embed"]["kernel"].T)


def test_names_of_other_exports(tmp_path):
    """No prefix (GPT-2 as released), stored masks and frequencies, lm_head for embed_out, text beside images."""
    gpt2 = decoder(**FAMILIES["gpt2"][1])
    params = filled(gpt2)
    huggingface.write_folder(tmp_path / "gpt2", gpt2, params)

    def bare(tensors):
        renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors |= renamed | {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8), "h.1.attn.masked_bias": np.ones(())}

    edit(tmp_path / "gpt2", bare)
    assert_same(huggingface.read_params(tmp_path / "gpt2", gpt2), params)

    neox = decoder(**FAMILIES["gpt_neox"][1])
    params = filled(neox)
    huggingface.write_folder(tmp_path / "neox", neox, params)
    edit(tmp_path / "neox", lambda t: t.update({
        "lm_head.weight": t.pop("embed_out.weight"),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(2, np.float32),
    }))  # fmt: skip
    assert_same(huggingface.read_params(tmp_path / "neox", neox), params)

    gemma = decoder(**FAMILIES["gemma3"][1])
    params = filled(gemma)
    huggingface.write_folder(tmp_path / "gemma", gemma, params)
    text = json.loads((tmp_path / "gemma" / "config.json").read_text())
    outer = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (tmp_path / "gemma" / "config.json").write_text(json.dumps(outer))

    def beside_images(tensors):
        renamed = {"language_model." + name: tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors |= renamed | {"vision_tower.patch.weight": np.ones(3, np.float32)}

    edit(tmp_path / "gemma", beside_images)
    model = huggingface.model_from(tmp_path / "gemma")
    assert model.config == gemma.config
    assert_same(huggingface.read_params(tmp_path / "gemma", model), params)


def test_a_reward_model_from_a_language_model(llama):
    folder, _, params = llama
    model = huggingface.model_from(folder, outputs=1, lm_head=False)
    read = huggingface.read_params(folder, model)
    assert set(read) == {"embed", "norm", "layers"}  # the new head is the caller's, the old one is not read
    assert_same(read, {name: params[name] for name in read})
    whole = huggingface.read_params(folder, model, key=jax.random.key(3))
    np.testing.assert_allclose(whole["score"]["kernel"], model.init(jax.random.key(3))["score"]["kernel"], rtol=1e-6)
    assert model.scores(whole, np.ones((2, 16), np.float32)).shape == (2, 1)
    body = huggingface.model_from(folder, lm_head=False)
    assert "head" not in huggingface.read_params(folder, body, key=jax.random.key(0))


def test_a_language_model_from_a_reward_model(tmp_path):
    model = decoder(**presets.qwen2(**SMALL), outputs=1, lm_head=False)
    huggingface.write_folder(tmp_path / "f", model, filled(model))
    both = huggingface.model_from(tmp_path / "f", lm_head=True)
    assert set(huggingface.read_params(tmp_path / "f", both)) == {"embed", "norm", "layers", "score"}
    policy = huggingface.model_from(tmp_path / "f", lm_head=True, outputs=0)
    assert "score" not in huggingface.read_params(tmp_path / "f", policy, key=jax.random.key(0))


def test_both_heads_and_the_class_that_is_asked_for(tmp_path):
    model = decoder(**presets.llama2(**SMALL), outputs=1)
    params = filled(model)
    for number, (asked, got) in enumerate({
        None: "LlamaForSequenceClassification",
        "llama": "LlamaForSequenceClassification",
        "LlamaForCausalLM": "LlamaForCausalLM",
        "MistralForCausalLM": "MistralForCausalLM",
    }.items()):  # fmt: skip
        huggingface.write_folder(tmp_path / str(number), model, params, architecture=asked)
        assert json.loads((tmp_path / str(number) / "config.json").read_text())["architectures"] == [got]


def test_a_config_can_name_a_folder(llama):
    folder, model, _ = llama
    node = config.ref(huggingface.pretrained, folder=str(folder), outputs=1, dtype="bfloat16")
    built = config.build(node)()
    assert (built.config.outputs, built.config.dtype, built.config.lm_head) == (1, "bfloat16", True)
    assert huggingface.pretrained(folder=str(folder)).config == model.config
    assert huggingface.pretrained(folder=str(folder), switches={"norm_eps": 0.5}).config.norm_eps == 0.5
    with pytest.raises(ValueError, match="'dtype'"):
        huggingface.pretrained(folder=str(folder), switches={"dtype": "bfloat16"})
    with pytest.raises(ValueError, match="did you mean 'norm_eps'"):
        huggingface.pretrained(folder=str(folder), switches={"norm_ep": 0.5})


def test_is_folder(llama, tmp_path):
    folder, _, _ = llama
    assert huggingface.is_folder(folder) and huggingface.is_folder(str(folder))
    assert not huggingface.is_folder(tmp_path) and not huggingface.is_folder(tmp_path / "none")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"steps": 3}')
    assert not huggingface.is_folder(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"")
    assert not huggingface.is_folder(tmp_path / "run")


def test_a_model_of_the_same_shapes_that_computes_something_else(llama):
    """Parameters fit by their shapes alone, so whoever brings a decoder of their own can ask."""
    folder, model, _ = llama
    assert huggingface.differences(folder, model) == {}
    assert huggingface.differences(folder, huggingface.model_from(folder, dtype="bfloat16", remat="full")) == {}
    other = huggingface.model_from(folder, rope_theta=5.0, sliding_window=3, outputs=1, lm_head=False)
    assert huggingface.differences(folder, other) == {"rope_theta": (10000.0, 5.0), "sliding_window": (None, 3)}


def fails(folder, model, error, *parts):
    with pytest.raises(error) as caught:
        huggingface.read_params(folder, model)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_errors_of_tensors(llama):
    folder, model, _ = llama
    file, name = str(folder / "model.safetensors"), "model.layers.1.mlp.up_proj.weight"
    whole = pathlib.Path(file).read_bytes()

    def restore():
        pathlib.Path(file).write_bytes(whole)

    edit(folder, lambda t: t.pop(name))
    fails(folder, model, ValueError, file, name, "missing", "[24, 16]")
    restore()
    edit(folder, lambda t: t.update({name: np.ones((24, 15), np.float32)}))
    fails(folder, model, ValueError, file, name, "[24, 15]", "[24, 16]")
    restore()
    edit(folder, lambda t: t.update({name: np.ones((24, 16), np.int8)}))
    fails(folder, model, ValueError, file, name, "I8", "BF16")
    restore()
    edit(folder, lambda t: t.update({"model.layers.2.mlp.up_proj.weight": np.ones((24, 16), np.float32)}))
    fails(folder, model, ValueError, file, "unexpected", "model.layers.2.mlp.up_proj.weight")
    restore()
    edit(folder, lambda t: t.pop("lm_head.weight"))
    fails(folder, model, ValueError, file, "lm_head.weight", "missing")
    restore()
    for cut in (0, 5, 200, len(whole) - 8):
        pathlib.Path(file).write_bytes(whole[:cut])
        fails(folder, model, ValueError, file, "not a whole safetensors file")
    pathlib.Path(file).rename(folder / "pytorch_model.bin")
    fails(folder, model, FileNotFoundError, str(folder), "model.safetensors", "pytorch_model.bin")


def test_errors_of_a_model_that_is_not_the_folders(llama):
    folder, _, _ = llama
    normed = huggingface.model_from(folder, qk_norm=True)
    fails(folder, normed, ValueError, "self_attn.q_norm.weight", "missing")
    fails(folder, huggingface.model_from(folder, tied=True), ValueError, "unexpected", "lm_head.weight")
    fails(folder, huggingface.model_from(folder, vocab_size=25), ValueError, "embed_tokens", "[24, 16]", "[25, 16]")
    gpt2 = decoder(**FAMILIES["gpt2"][1])
    huggingface.write_folder(folder.parent / "gpt2", gpt2, filled(gpt2))
    fails(folder.parent / "gpt2", decoder(**SMALL), ValueError, "wpe.weight", "positions/kernel", "does not have")
    fails(folder, huggingface.model_from(folder, norm_placement="post"), ValueError, "layers/attn_norm/scale")
    fails(folder, huggingface.model_from(folder, positions="learned"), ValueError, "positions/kernel", "llama")


def test_errors_of_an_index(tmp_path):
    model = decoder(**presets.llama2(**SMALL))
    huggingface.write_folder(tmp_path / "f", model, filled(model), max_shard_size=6000)
    file = tmp_path / "f" / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    first = "model-00001-of-" + sorted(index["weight_map"].values())[0][-17:]

    def write(**changes):
        file.write_text(json.dumps({"weight_map": index["weight_map"] | changes}))

    write(**{"model.norm.weight": "model-9.safetensors"})
    fails(tmp_path / "f", model, FileNotFoundError, "model-9.safetensors", str(file))
    write(**{"model.norms.weight": first})
    fails(tmp_path / "f", model, ValueError, "model.norms.weight", first)
    for name in ("../model.safetensors", "/model.safetensors", 3):
        write(**{"model.norm.weight": name})
        fails(tmp_path / "f", model, ValueError, str(file), "model.norm.weight", "file in the same folder")
    file.write_text("{}")
    fails(tmp_path / "f", model, ValueError, str(file), "weight_map")
    file.write_text("{\n,")
    fails(tmp_path / "f", model, ValueError, f"{file}:2", "not JSON")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "lama"}, "model_type='lama' is unknown; did you mean 'llama'"),
        ({"model_type": ...}, "model_type=None is unknown; expected one of: gemma"),
        ({"architectures": ["LlamaForTokenClassification"]}, "architectures[0]='LlamaForTokenClassification'"),
        ({"hidden_act": "silo"}, "hidden_act='silo' is unknown; did you mean 'silu'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type 'longrope' is unknown; expected one"),
        ({"rope_scaling": {"rope_type": "yarn", "facto": 2.0}}, "did you mean 'factor'"),
        ({"rope_scaling": 4}, "rope_scaling=4"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "gemma3_text only"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"hidden_size": ...}, "field 'hidden_size' is missing"),
        ({"num_attention_heads": 5}, "num_kv_heads=2 does not divide num_heads=5"),
        ({"hidden_size": "big"}, "hidden_size='big': expected a number"),
        ({"rms_norm_eps": None}, "rms_norm_eps=None: expected a number"),
        ({"num_experts": 8}, "num_experts=8 is not known of 'llama'"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping=30.0 is not known"),
        ({"sliding_window": 3}, "sliding_window=3 is not known"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "layer_types": ["full_attention"] * 2},
         "layer_types="),
        ({"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": 30.0},
         "attn_logit_softcapping=30.0: expected null"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "layer_types": ["chunked_attention"] * 2},
         "layer_types has 'chunked_attention'"),
        ({"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "layer_types": ["full_attention"]},
         "layer_types has 1 items for 2 layers"),
    ],
)  # fmt: skip
def test_errors_of_a_config(llama, fields, message):
    folder, _, _ = llama
    edit_config(folder, **fields)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        huggingface.model_from(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_fields_that_say_nothing_are_passed_over(llama):
    folder, model, _ = llama
    edit_config(folder, _name_or_path="x", unsloth_fixed=True, attention_dropout=0.1, temperature=0.6, use_mrope=False,
                sep_token_id=3, transformers_version="5.0", sliding_window=None, pretraining_tp=2)  # fmt: skip
    assert huggingface.model_from(folder).config == model.config


def test_gemma_layers_that_all_see_everything(tmp_path):
    """transformers asks for a window also where no layer slides."""
    for name in ("gemma2", "gemma3"):
        sizes = FAMILIES[name][1] | {"sliding_window": None, "global_every": 0, "rope_local_theta": None}
        model = decoder(**{k: v for k, v in sizes.items() if v is not None})
        architecture = FAMILIES[name][0]
        huggingface.write_folder(tmp_path / name, model, filled(model), architecture=architecture)
        fields = json.loads((tmp_path / name / "config.json").read_text())
        assert fields["sliding_window"] > 0 and set(fields["layer_types"]) == {"full_attention"}
        assert huggingface.model_from(tmp_path / name).config == model.config


def test_a_folder_like_the_one_it_came_from(tmp_path):
    """Same tensors, bit for bit, and the same config.json, however it was spelled."""
    model = decoder(**FAMILIES["qwen2-windows"][1], param_dtype="bfloat16")
    params, first = filled(model, "bfloat16"), tmp_path / "first"
    huggingface.write_folder(first, model, params)
    edit_config(first, dtype="bfloat16", torch_dtype=..., hidden_act="swish", eos_token_id=[1, 2], layer_types=...)
    (first / "generation_config.json").write_text('{"top_p": 0.8}')
    (first / "vocab.json").write_text("{}")
    huggingface.write_folder(tmp_path / "again", model, huggingface.read_params(first, model), like=first)
    for name in ("config.json", "model.safetensors", "generation_config.json", "vocab.json"):
        kind = (lambda p: json.loads(p.read_text())) if name.endswith("json") else (lambda p: p.read_bytes())
        assert kind(first / name) == kind(tmp_path / "again" / name), name

    scorer = huggingface.model_from(first, outputs=3, lm_head=False, param_dtype="bfloat16")
    huggingface.write_folder(tmp_path / "score", scorer, filled(scorer, "bfloat16"), like=first)
    fields = json.loads((tmp_path / "score" / "config.json").read_text())
    assert fields["architectures"] == ["Qwen2ForSequenceClassification"] and len(fields["id2label"]) == 3
    assert fields["eos_token_id"] == [1, 2] and not (tmp_path / "score" / "generation_config.json").exists()
    with pytest.raises(ValueError, match="is not this decoder; what it does not have: norm_eps=0.5"):
        other = decoder(**FAMILIES["qwen2-windows"][1] | {"norm_eps": 0.5})
        huggingface.write_folder(tmp_path / "other", other, params, like=first)
    with pytest.raises(ValueError, match="exclude each other"):
        huggingface.write_folder(tmp_path / "other", model, params, like=first, architecture="llama")


def test_fields_with_two_spellings(llama):
    """What older and newer versions write for the same model."""
    folder, model, _ = llama
    edit_config(folder, rope_theta=..., rope_scaling=..., rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    assert huggingface.model_from(folder).config.rope_theta == 7.0
    edit_config(folder, rope_parameters=..., rope_scaling={"type": "linear", "rope_type": "linear", "factor": 2.0})
    assert huggingface.model_from(folder).config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    edit_config(folder, rope_scaling=None, head_dim=None, num_key_value_heads=None, architectures=...)
    assert huggingface.model_from(folder).config.num_kv_heads == 4
    edit_config(folder, architectures=["LlamaForSequenceClassification"], id2label={"0": "a", "1": "b", "2": "c"})
    assert huggingface.model_from(folder).config.outputs == 3
    edit_config(folder, architectures=["LlamaModel"], id2label=...)
    assert not huggingface.model_from(folder).config.lm_head
    with pytest.raises(FileNotFoundError, match="config.json"):
        huggingface.model_from(folder.parent)


@pytest.mark.parametrize(
    ("switches", "architecture", "message"),
    [
        ({"norm_placement": "post"}, None, "no Hugging Face family is this decoder; what llama does not have: norm_pl"),
        ({"activation": "relu", "positions": "none"}, None, "positions='none'"),
        ({"qk_norm": True}, "LlamaForCausalLM", "architecture='LlamaForCausalLM' is not this decoder; .* qk_norm=True"),
        ({"head_bias": True}, None, "head_bias=True"),
        ({"outputs": 1, "score_bias": True}, None, "score_bias=True"),
        ({"lm_head": False}, None, "lm_head=False"),
        ({}, "LlamaForSequenceClassification", "outputs=0"),
        ({}, "llamas", "did you mean 'llama'"),
        (presets.gemma2(hidden_size=16) | {"attention_scale": 0.3}, "gemma2", "attention_scale=0.3"),
    ],
)
def test_decoders_that_no_family_is(switches, architecture, message, tmp_path):
    model = decoder(**{**SMALL, **switches})
    with pytest.raises(ValueError, match=message):
        huggingface.write_folder(tmp_path / "f", model, {}, architecture=architecture)
    assert not list(tmp_path.iterdir())


def test_errors_of_writing(llama, tmp_path):
    folder, model, params = llama
    with pytest.raises(FileExistsError, match="not an empty folder"):
        huggingface.write_folder(folder, model, params)
    with pytest.raises(ValueError, match="params has no norm/scale"):
        huggingface.write_folder(tmp_path / "f", model, {**params, "norm": {}})
    with pytest.raises(ValueError, match=r"embed/kernel has shape \[2, 2\]; expected \[24, 16\]"):
        huggingface.write_folder(tmp_path / "f", model, {**params, "embed": {"kernel": np.ones((2, 2))}})
    with pytest.raises(ValueError, match="needs a tokenizer"):
        huggingface.write_folder(tmp_path / "f", model, params, pad_token="<pad>")
    tokenizer = tokenization.train_bpe(["some text"], vocab_size=260)
    with pytest.raises(ValueError, match="vocab_size=24; the tokenizer needs 260"):
        huggingface.write_folder(tmp_path / "f", model, params, tokenizer=tokenizer)
    scorer = decoder(**presets.llama2(**SMALL | {"vocab_size": 260}), outputs=1)
    with pytest.raises(ValueError, match="ends texts too"):
        huggingface.write_folder(tmp_path / "f", scorer, filled(scorer), tokenizer=tokenizer,
                                 pad_token=tokenization.END_OF_TEXT)  # fmt: skip
    with pytest.raises(ValueError, match="not in the tokenizer's vocabulary"):
        huggingface.write_folder(tmp_path / "f", scorer, filled(scorer), tokenizer=tokenizer, pad_token="<pad>")
    (tmp_path / "f").mkdir()  # an empty folder is as good as none, and what an interrupted export left is no matter
    (tmp_path / "f.partial").mkdir()
    (tmp_path / "f.partial" / "model-00001-of-00009.safetensors").write_bytes(b"cut")
    huggingface.write_folder(tmp_path / "f", scorer, filled(scorer), tokenizer=tokenizer)
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]  # fmt: skip
    fields = json.loads((tmp_path / "f" / "config.json").read_text())
    assert (fields["eos_token_id"], fields["bos_token_id"], fields["pad_token_id"]) == (tokenizer.eos_id, None, None)
    assert tokenization.load(tmp_path / "f").fingerprint == tokenizer.fingerprint
    assert huggingface.is_folder(tmp_path / "f")

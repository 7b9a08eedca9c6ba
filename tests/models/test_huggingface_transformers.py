"""The same numbers as transformers, from its folders and back into it; runs where the `hf` extra is installed."""

import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.models import huggingface

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # version 4 asks the hub about every folder it loads
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
         "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
ROPE3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 16}  # fmt: skip
ROPE32 = {**ROPE3, "factor": 32.0, "original_max_position_embeddings": 8192, "rope_theta": 5e5}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GEMMA = {**GROUPED, "head_dim": 6, "query_pre_attn_scalar": 9}
MIXED = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": None}  # fmt: skip
CASES = {
    "llama2": ("Llama", GROUPED),
    "llama3": ("Llama", GROUPED | {"rope_theta": 5e5, "rope_scaling": ROPE3, "tie_word_embeddings": True}),
    "llama3.1": ("Llama", GROUPED | {"head_dim": 32, "rope_theta": 5e5, "max_position_embeddings": 131072,
                                     "rope_scaling": ROPE3 | {"original_max_position_embeddings": 8192}}),
    "llama3.2": ("Llama", SIZES | {"num_key_value_heads": 1, "head_dim": 64, "rope_parameters": ROPE32,
                                   "tie_word_embeddings": True, "rms_norm_eps": 0.1}),
    "llama-biases": ("Llama", GROUPED | {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "llama-linear": ("Llama", SIZES | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "llama-dynamic": ("Llama", SIZES | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
                                        "max_position_embeddings": 6}),
    "llama-yarn": ("Llama", SIZES | {"rope_scaling": YARN, "max_position_embeddings": 64}),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 3}),
    "mistral-full": ("Mistral", GROUPED | {"sliding_window": None}),
    "qwen2": ("Qwen2", GROUPED | {"rope_theta": 1e6}),
    "qwen2-windows": ("Qwen2", GROUPED | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1,
                                          "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", GROUPED | {"head_dim": 16}),
    "gemma": ("Gemma", GROUPED | {"head_dim": 6}),
    "gemma2": ("Gemma2", GEMMA | MIXED | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", GEMMA | MIXED | {"rope_theta": 1e6, "rope_local_base_freq": 100.0}),
    "gemma3-linear": ("Gemma3", GEMMA | MIXED | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "gemma3-pattern": ("Gemma3", GEMMA | {"num_hidden_layers": 7, "sliding_window": 3, "final_logit_softcapping": 3.0}),
    "gemma3-full": ("Gemma3", GEMMA | {"layer_types": ["full_attention"] * 2}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-unscaled": ("GPT2", GPT2 | {"scale_attn_weights": False, "n_inner": 24, "activation_function": "relu"}),
    "gpt_neox": ("GPTNeoX", SIZES | {"rotary_pct": 0.5}),
    "gpt_neox-serial": ("GPTNeoX", SIZES | {"use_parallel_residual": False, "attention_bias": False,
                                            "rotary_emb_base": 100}),
}  # fmt: skip
SCORED = ["llama2", "qwen2", "gemma2", "gemma3", "gpt2", "gpt_neox"]
# The fused attention of version 4 leaves out soft-caps and GPT-2's scale_attn_weights=False without a word
EAGER = {"attn_implementation": "eager"}
TOKENS = np.array([[3, 9, 4, 31, 8, 7, 22, 5, 6, 41], [11, 2, 45, 6, 12, 30, 0, 0, 0, 0]], np.int32)
VALID = np.array([[1] * 10, [1] * 6 + [0] * 4], np.int32)


@functools.cache
def torch_model(name, head):
    """A random model of a family; no parameter at a special value, so that each shows in the output."""
    family, options = CASES[name]
    config_class = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    extra = {"num_labels": 1} if head == "score" else {}
    config = getattr(transformers, config_class)(**options, **extra)
    auto = transformers.AutoModelForSequenceClassification if head == "score" else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, **EAGER).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def same_weights(ours, theirs):
    """To the bit; what torch computes from them may differ in its last bit with where they lie in memory."""
    expected = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), expected[name].numpy(), name)


def torch_logits(model, tokens, valid, positions=None):
    tokens, valid = (torch.tensor(x, dtype=torch.long) for x in (tokens, valid))
    at = {} if positions is None else {"position_ids": torch.tensor(positions)}
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=valid, use_cache=False, **at).logits.numpy()


def our_logits(model, params, tokens, segments, positions=None):
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params):
        at = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape) if positions is None else positions
        hidden = model.hidden(params, tokens, at, segments, jnp.zeros_like(tokens))
        return logits_of(model, params, hidden) if model.config.lm_head else model.scores(params, hidden)

    return np.asarray(run(params))


def logits_of(model, params, hidden):
    kernel, bias, softcap = model.unembed(params)
    logits = hidden @ kernel if bias is None else hidden @ kernel + bias
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def packed_logits(model, params, tokens, lengths):
    """Of the texts one after the other in a row."""
    row = np.concatenate([text[:n] for text, n in zip(tokens, lengths, strict=True)])[None]
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    return our_logits(model, params, row, np.repeat(np.arange(len(lengths)) + 1, lengths)[None], positions)[0]


def cached_logits(model, params, tokens):
    """Of one text, read in pieces with a key-value cache."""
    decode = jax.jit(model.decode, compiler_options={"xla_backend_optimization_level": 0})
    cache, out = model.init_cache(1, 10), []
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 10)):
        positions = np.arange(start, stop, dtype=np.int32)[None]
        hidden, cache = decode(params, cache, tokens[None, start:stop], positions, np.ones_like(positions, bool))
        out.append(hidden)
    return np.asarray(logits_of(model, params, jnp.concatenate(out, axis=1)))[0]


def error(name, ours, theirs):
    worst = float(np.max(np.abs(ours - theirs)))
    print(f"{name}: {worst:.2g} of {np.std(theirs):.2g}")
    return worst


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name, tmp_path):
    theirs = torch_model(name, "lm")
    theirs.save_pretrained(tmp_path / "theirs")
    model = huggingface.model_from(tmp_path / "theirs")
    params = huggingface.read_params(tmp_path / "theirs", model)
    # dynamic scaling looks at the longest text of a batch in transformers, at each text here: whole texts only
    tokens, valid = (TOKENS[:1], VALID[:1]) if name == "llama-dynamic" else (TOKENS, VALID)
    wanted = torch_logits(theirs, tokens, valid)
    assert error(name, our_logits(model, params, tokens, valid)[valid > 0], wanted[valid > 0]) < 1e-4
    assert np.std(wanted) > 0.1
    packed = packed_logits(model, params, tokens, valid.sum(1))
    assert error(f"{name} packed", packed, wanted[valid > 0]) < 1e-4
    if name != "llama-dynamic":  # what was cached before a text grew was turned by another base, there as here
        assert error(f"{name} cached", cached_logits(model, params, tokens[0]), wanted[0]) < 1e-4

    left, shown = (np.stack([rows[0], np.roll(rows[1], 4)]) for rows in (TOKENS, VALID))
    if name != "llama-dynamic":
        places = np.maximum(np.cumsum(shown, axis=1) - 1, 0)
        padded = our_logits(model, params, left, shown, places)
        assert error(f"{name} left", padded[shown > 0], torch_logits(theirs, left, shown, places)[shown > 0]) < 1e-4

    # without a window Mistral computes what Llama does, and the first family that fits is written
    architecture = "MistralForCausalLM" if name == "mistral-full" else None
    huggingface.write_folder(tmp_path / "ours", model, params, architecture=architecture, max_shard_size=20_000)
    loaded, about = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, **EAGER
    )
    assert type(loaded) is type(theirs)
    assert not about["missing_keys"] and not about["unexpected_keys"] and not about["mismatched_keys"]
    same_weights(loaded, theirs)
    np.testing.assert_allclose(torch_logits(loaded.eval(), tokens, valid), wanted, rtol=1e-5, atol=1e-6)
    assert huggingface.model_from(tmp_path / "ours").config == model.config


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_those_of_transformers(name, tmp_path):
    theirs = torch_model(name, "score")
    theirs.save_pretrained(tmp_path / "theirs")
    model = huggingface.model_from(tmp_path / "theirs")
    assert (model.config.outputs, model.config.lm_head) == (1, False)
    params = huggingface.read_params(tmp_path / "theirs", model)
    scores = our_logits(model, params, TOKENS, VALID)[..., 0]
    for row, length in enumerate(VALID.sum(1)):  # transformers scores the last token
        wanted = torch_logits(theirs, TOKENS[row : row + 1, :length], VALID[row : row + 1, :length])
        assert error(name, scores[row, length - 1], wanted[0, 0]) < 1e-4

    huggingface.write_folder(tmp_path / "ours", model, params)
    loaded, about = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True, **EAGER
    )
    assert type(loaded) is type(theirs) and loaded.config.num_labels == 1
    assert not about["missing_keys"] and not about["unexpected_keys"] and not about["mismatched_keys"]
    tokens, valid = TOKENS[:1], VALID[:1]
    same_weights(loaded, theirs)
    np.testing.assert_allclose(
        torch_logits(loaded.eval(), tokens, valid), torch_logits(theirs, tokens, valid), rtol=1e-5
    )


def test_the_text_part_of_a_model_with_images(tmp_path):
    images = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(text_config=CASES["gemma3"][1], vision_config=images, mm_tokens_per_image=4)
    torch.manual_seed(0)
    theirs = transformers.Gemma3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    model = huggingface.model_from(tmp_path)
    params = huggingface.read_params(tmp_path, model)
    ours = our_logits(model, params, TOKENS[:1], VALID[:1])
    assert error("gemma3 beside images", ours, torch_logits(theirs, TOKENS[:1], VALID[:1])) < 1e-4


def test_bfloat16_keeps_its_bits(tmp_path):
    theirs = torch_model("qwen2", "lm")
    dtype = torch.bfloat16
    type(theirs)(theirs.config).to(dtype).save_pretrained(tmp_path / "theirs")
    model = huggingface.model_from(tmp_path / "theirs", param_dtype="bfloat16")
    params = huggingface.read_params(tmp_path / "theirs", model)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    huggingface.write_folder(tmp_path / "ours", model, params)
    a, b = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / side, torch_dtype="auto")
        for side in ("theirs", "ours")
    )
    assert b.dtype == dtype
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x, y), name
    huggingface.write_folder(tmp_path / "like", model, params, like=tmp_path / "theirs")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "like" / name).read_text()) == json.loads(
            (tmp_path / "theirs" / name).read_text()
        )


def test_tokenizer_files_load_in_transformers(tmp_path):
    from prefjax.data import tokenization

    texts = ["a small text about tokens and texts", "another one"]
    tokenizer = tokenization.train_bpe(texts, vocab_size=280, special_tokens=["<|pad|>"])
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    tokenizer = dataclasses.replace(tokenizer, chat_template=template)
    options = {name: value for name, value in SIZES.items() if not name.endswith("token_id")}
    config = transformers.LlamaConfig(**{**options, "vocab_size": 300})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "theirs")
    model = huggingface.model_from(tmp_path / "theirs", outputs=1)
    params = huggingface.read_params(tmp_path / "theirs", model, key=jax.random.key(0))
    huggingface.write_folder(tmp_path / "ours", model, params, tokenizer=tokenizer, pad_token="<|pad|>")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert loaded(texts[0])["input_ids"] == tokenizer.encode(texts[0])
    assert loaded.decode(tokenizer.encode(texts[0])) == texts[0]
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_id, tokenizer.encode("<|pad|>")[0])
    chat = [{"role": "user", "content": "hello"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == "user: hello\n"

    scorer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert scorer.config.pad_token_id == loaded.pad_token_id
    encoded = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    tokens = np.full((2, max(map(len, encoded))), loaded.pad_token_id, np.int32)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)] = ids
    valid = (tokens != loaded.pad_token_id).astype(np.int32)
    ours = jax.jit(lambda p: model.scores(p, model.hidden(p, tokens, *_layout(valid))))(params)
    last = [np.asarray(ours)[row, len(ids) - 1, 0] for row, ids in enumerate(encoded)]
    np.testing.assert_allclose(torch_logits(scorer, tokens, valid)[:, 0], last, atol=1e-4)


def _layout(valid):
    return jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape), valid, jnp.zeros_like(valid)


def test_configs_of_older_versions(tmp_path):
    """Version 4 wrote rope_theta and rope_scaling beside each other, version 5 writes rope_parameters."""
    for name, old in {"llama3": {"rope_theta": 5e5, "rope_scaling": ROPE3}, "gpt_neox": {"rotary_pct": 0.5},
                      "gemma3": {"rope_theta": 1e6, "rope_local_base_freq": 100.0}}.items():  # fmt: skip
        torch_model(name, "lm").config.save_pretrained(tmp_path / name)
        file = tmp_path / name / "config.json"
        new = huggingface.model_from(tmp_path / name).config
        config = json.loads(file.read_text())
        config.pop("rope_parameters", None)
        file.write_text(json.dumps({**config, **old}))
        assert huggingface.model_from(tmp_path / name).config == new

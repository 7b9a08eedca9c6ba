"""A run becomes a Hugging Face folder, without its data: parameters, adapters merged or alone, tokenizer, template."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax import checkpoint, export, leaves, rundir, train
from prefjax.config import ref
from prefjax.data import pipeline, tokenization
from prefjax.data.gold import dataset as gold
from prefjax.models import decoder, huggingface, lora, peft

TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}
LORA = {"rank": 2, "targets": ("attn/q", "mlp/down"), "heads": ("score",), "quantize": "int8"}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.train_bpe(["a text", "another text"], vocab_size=260)


def filled(tree, seed=0):
    """Random values without compiling anything."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), tree)


def left_behind(workdir, node, model, tokenizer, data, params, carry):
    """What a run leaves: config, tokenizer, a checkpoint."""
    workdir.mkdir()
    rundir.write_json(workdir / "config.json", rundir.plain({"model": node, "data": data}))
    tokenizer.save(workdir / export.TOKENIZER)
    on_device = jax.tree.map(jnp.asarray, (params, carry))
    state = train.init_state(on_device[0], optax.sgd(0.0), on_device[1])
    with checkpoint.Checkpoints(workdir / checkpoint.FOLDER) as saved:
        saved.save(1, state, None, {})
    return workdir


def same(a, b):
    a, b = leaves.named_leaves(a), leaves.named_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


def test_a_language_model_and_its_template(tokenizer, tmp_path):
    template = "{{ messages[0]['content'] }}!"
    (tmp_path / "own.jinja").write_text(template)
    node = ref(decoder.decoder, **TINY)
    model = decoder.decoder(vocab_size=tokenizer.vocab_size, **TINY)
    params = filled(jax.eval_shape(model.init, jax.random.key(0)))
    data = ref(pipeline.dataset, path="gone.jsonl", chat_template=str(tmp_path / "own.jinja"))
    beside = {**params, "learned": {"mask": np.ones(3, np.float32)}}
    run = left_behind(tmp_path / "run", node, model, tokenizer, data, beside, {})
    export.export(run, tmp_path / "out", dtype="bfloat16")
    back = huggingface.read_params(tmp_path / "out", huggingface.model_from(tmp_path / "out", param_dtype="bfloat16"))
    same(back, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params))
    read = tokenization.load(tmp_path / "out")
    assert (read.chat_template, read.eos_id) == (template, tokenizer.eos_id)
    about = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert about["eos_token_id"] == tokenizer.eos_id and about["max_length"] == model.config.max_positions
    with pytest.raises(ValueError, match="no adapters"):
        export.export(run, tmp_path / "adapter", adapter=True)

    # A run on the folder that was written keeps its spelling, and all its files where the tokenizer is the same
    config = json.loads((tmp_path / "out" / "config.json").read_text()) | {
        "hidden_act": "swish",
        "eos_token_id": [0, 7],
    }
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    node = ref(huggingface.pretrained, folder=str(tmp_path / "out"))
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), back)
    for name, chat_template in (("second", None), ("third", "{{ messages[0]['content'] }}?")):
        data = ref(pipeline.dataset, path="gone.jsonl", chat_template=chat_template)
        run = left_behind(tmp_path / name, node, model, read, data, wide, {})
        export.export(run, tmp_path / f"{name}_out")
        again = json.loads((tmp_path / f"{name}_out" / "config.json").read_text())
        assert again == config | {"torch_dtype": "float32"} | ({"eos_token_id": 0} if chat_template else {})
        assert tokenization.load(tmp_path / f"{name}_out").chat_template == (chat_template or template)


def test_adapters_of_a_reward_model(tokenizer, tmp_path):
    node = ref(lora.adapted, base=ref(decoder.decoder, outputs=1, lm_head=False, **TINY), **LORA)
    own = {"vocab_size": tokenizer.vocab_size, "outputs": 1, "lm_head": False, **TINY}
    model = lora.adapted(vocab_size=tokenizer.vocab_size, base=lambda: decoder.decoder(**own), **LORA)
    params, carry = export._parts(model)
    params, carry = filled(params), filled(carry, 1)
    data = ref(gold.dataset)
    run = left_behind(tmp_path / "run", node, model, tokenizer, data, params, carry)
    export.export(run, tmp_path / "out")
    back = huggingface.read_params(tmp_path / "out", huggingface.model_from(tmp_path / "out"))
    same(back, model.merged(params, carry))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]
    export.export(run, tmp_path / "adapter", adapter=True)
    same(peft.read_adapter(tmp_path / "adapter", model), params)

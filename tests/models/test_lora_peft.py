"""peft loads the adapters that are written here and computes the same; runs where peft is installed."""

import functools
import os

import jax
import numpy as np
import pytest

from prefjax.models import huggingface, lora
from prefjax.models import peft as ours

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 32}  # fmt: skip
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
TOKENS = np.array([[3, 9, 4, 31, 8, 7]], np.int32)
CASES = {  # family, sizes, targets, heads, options
    "rank-stabilized": ("Llama", SIZES, lora.TARGETS, (), {"rank_stabilized": True}),
    "plain": ("Qwen2", SIZES, ("attn/q", "attn/v", "mlp/down"), (), {}),
    "score": ("Llama", SIZES, ("attn/q", "attn/o"), ("score",), {}),
    "transposed": ("GPT2", GPT2, ("attn/o", "mlp/up", "mlp/down"), (), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_peft_computes_the_same_both_ways(name, tmp_path):
    family, sizes, targets, heads, options = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes, **({"num_labels": 1} if heads else {}))
    auto = transformers.AutoModelForSequenceClassification if heads else transformers.AutoModelForCausalLM
    auto.from_config(config).save_pretrained(tmp_path / "base")
    base = functools.partial(huggingface.pretrained, folder=str(tmp_path / "base"))
    model = lora.adapted(vocab_size=50, base=base, rank=4, alpha=12.0, targets=targets, heads=heads, **options)
    whole = huggingface.read_params(tmp_path / "base", model)
    trained, carry = jax.jit(model.split)(whole, jax.random.key(0))
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), trained)

    @jax.jit
    def run(trained, carry):
        params = model.whole(trained, carry)
        hidden = model.hidden(params, TOKENS)
        return model.scores(params, hidden)[:, -1] if heads else hidden @ model.unembed(params).kernel

    logits = run(trained, carry)
    ours.write_adapter(tmp_path / "adapter", model, trained, base_model=str(tmp_path / "base"))

    frozen = auto.from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        before = frozen(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
        theirs = peft.PeftModel.from_pretrained(frozen, tmp_path / "adapter").eval()
        after = theirs(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    own = theirs.peft_config["default"]
    assert (own.r, own.lora_alpha, own.use_rslora) == (4, 12.0, bool(options))
    assert np.abs(after - before).max() > 0.05
    np.testing.assert_allclose(logits, after, atol=1e-5)

    theirs.save_pretrained(tmp_path / "back")
    again = ours.read_adapter(tmp_path / "back", model)
    assert jax.tree.structure(again) == jax.tree.structure(trained)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(trained), strict=True):
        np.testing.assert_array_equal(a, b)

"""What a trained run writes loads in transformers and says the same; runs where the `hf` extra is installed."""

import json
import os

import jax
import numpy as np
import pytest

from prefjax import export, loop, recipe
from prefjax.config import ref
from prefjax.data import pipeline, tokenization
from prefjax.generate import language as generate
from prefjax.losses import language, reward
from prefjax.models import decoder, huggingface, lora
from prefjax.optim import recipes
from prefjax.views import adapted, rewards
from prefjax.views import language as views

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_positions": 128}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHATS = [[{"role": "user", "content": text}] for text in ("say one", "say two", "what is three?")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Conversations, and a tokenizer that starts texts with a token of its own accord, and ends them with another."""
    folder = tmp_path_factory.mktemp("data")
    texts = [chat[0]["content"] + " one two three" for chat in CHATS]
    made = tokenization.train_bpe(texts, vocab_size=290, special_tokens=["<s>", "<|user|>", "<|assistant|>", "<pad>"])
    tokenization.wrap(made.backend, eos_token="<|endoftext|>", bos_token="<s>", add_bos=True).save(folder / "tokenizer")
    rows = []
    for chat in CHATS * 4:
        both = ([{"role": "assistant", "content": text}] for text in ("one two", "two"))
        chosen, rejected = (chat + reply for reply in both)
        rows.append({"chosen": chosen, "rejected": rejected})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def trained(folder, workdir, view, loss, model, init_from=None, **fields):
    data = ref(pipeline.dataset, path=str(folder / "pairs.jsonl"), use_as="pairs", eval_fraction=0.0, rows=4,
               tokenizer=str(folder / "tokenizer"), chat_template=TEMPLATE, row_length=64)  # fmt: skip
    mesh = {"data": 1, "fsdp": 1, "tensor": 1}
    config = recipe.config(steps=12, data=data, model=model, objective={"it": recipe.term(view, loss, **fields)},
                           optimizer=ref(recipes.adamw, learning_rate=2e-2), checkpoint_every=12, writers=(),
                           init_from=init_from, mesh=mesh, rules=ref(lora.rules))  # fmt: skip
    return loop.fit(config, workdir)


def prompts_of(loaded, run):
    """The chats as transformers makes ids of them, which must be those that the run trained on."""
    out = [loaded(loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)) for chat in CHATS]
    ids = [list(one["input_ids"]) for one in out]
    seen = {tuple(int(i) for i in example["prompt"]) for example in run.dataset.training}
    assert {tuple(one) for one in ids} == seen
    return ids


def test_the_same_greedy_tokens(folder, tmp_path):
    term = {"bind": {"token_logps": "chosen_token_logps"}}
    run = trained(folder, tmp_path / "run", views.pairs, language.sft, ref(decoder.decoder, **TINY), **term)
    export.export(tmp_path / "run", tmp_path / "out", pad_token="<pad>")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    own, about = run.dataset.tokenizer, model.generation_config
    assert (loaded.bos_token_id, loaded.eos_token_id) == (own.bos_id, own.eos_id)
    assert (about.bos_token_id, about.eos_token_id) == (own.bos_id, own.eos_id)
    assert about.pad_token_id == loaded.pad_token_id == own.encode("<pad>")[0]
    assert about.max_length == loaded.model_max_length == model.config.max_position_embeddings == 128
    ids = prompts_of(loaded, run)
    ours = generate.sample(run.model, run.state.params, ids, key=jax.random.key(0), max_new_tokens=100,
                           eos_id=own.eos_id, temperature=0.0)  # fmt: skip
    for row, prompt in enumerate(ids):  # as long as the generation config says: to the end token, or the positions
        with torch.no_grad():
            theirs = model.generate(torch.tensor([prompt]), do_sample=False)[0, len(prompt) :].tolist()
        length = min(int(np.ravel(ours.lengths)[row]), len(theirs))
        assert length > 1 and len(theirs) <= 128 - len(prompt)
        assert np.asarray(ours.tokens).reshape(len(ids), -1)[row, :length].tolist() == theirs[:length]


def test_scores_of_adapters_on_a_folder(folder, tmp_path):
    """A reward model by adapters on a Hugging Face model: merged for transformers, alone for peft."""
    peft = pytest.importorskip("peft")
    vocabulary = tokenization.load(folder / "tokenizer").vocab_size
    config = transformers.Qwen2Config(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, max_position_embeddings=128, eos_token_id=[0, 3], pad_token_id=4)  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    base = ref(huggingface.pretrained, folder=str(tmp_path / "base"), outputs=1, lm_head=False)
    node = ref(lora.adapted, base=base, rank=2, heads=("score",))
    term = {"inner": ref(rewards.scored_pairs)}
    run = trained(folder, tmp_path / "run", adapted.adapted, reward.bradley_terry, node, str(tmp_path / "base"), **term)
    export.export(tmp_path / "run", tmp_path / "out")
    export.export(tmp_path / "run", tmp_path / "adapter", adapter=True)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = prompts_of(loaded, run)
    auto = transformers.AutoModelForSequenceClassification
    merged = auto.from_pretrained(tmp_path / "out").eval()
    whole = auto.from_pretrained(tmp_path / "base", num_labels=1)
    beside = peft.PeftModel.from_pretrained(whole, tmp_path / "adapter").eval()
    params = run.model.whole(run.state.params, run.state.carry)
    for prompt in ids:
        tokens = np.array([prompt], np.int32)
        ours = np.asarray(run.model.scores(params, run.model.hidden(params, tokens)))[0, -1]
        for theirs in (merged, beside):
            with torch.no_grad():
                np.testing.assert_allclose(theirs(torch.tensor([prompt])).logits[0].numpy(), ours, atol=1e-4)

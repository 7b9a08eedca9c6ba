"""BERT's numbers are those of transformers, both ways; runs where the `hf` extra is installed."""

import os

import jax
import numpy as np
import pytest

from prefjax.models import hf_encoder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
         "max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
TOKENS = np.array([[3, 9, 4, 31, 8, 7, 22, 5, 6, 41], [11, 2, 45, 6, 12, 30, 0, 0, 0, 0]], np.int32)
VALID = np.array([[1] * 10, [1] * 6 + [0] * 4], np.int32)
TYPES = np.array([[0] * 4 + [1] * 6, [0] * 10], np.int32)


def drawn(kind, **options):
    """A random model, no parameter at a special value."""
    torch.manual_seed(0)
    model = kind(transformers.BertConfig(**SIZES, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(model):
    with torch.no_grad():
        return model(*(torch.tensor(x, dtype=torch.long) for x in (TOKENS, VALID, TYPES)))


def reload(folder, kind):
    loaded, about = kind.from_pretrained(folder, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"] and not about["mismatched_keys"]
    return loaded.eval()


@pytest.mark.parametrize("options", [{}, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6, "type_vocab_size": 3}])
def test_states_and_pooler_are_those_of_transformers(options, tmp_path):
    theirs = drawn(transformers.BertModel, **options)
    theirs.save_pretrained(tmp_path / "theirs")
    model = hf_encoder.encoder_from(tmp_path / "theirs", pooling="pooler")
    params = hf_encoder.read_encoder(tmp_path / "theirs", model)
    wanted = run(theirs)
    hidden, pooled = jax.jit(
        lambda p: (model.hidden(p, TOKENS, None, VALID, TYPES), model.embed(p, TOKENS, None, VALID, TYPES)[:, 0])
    )(params)
    assert np.std(wanted.last_hidden_state.numpy()) > 0.1
    np.testing.assert_allclose(hidden[VALID > 0], wanted.last_hidden_state.numpy()[VALID > 0], atol=1e-5)
    np.testing.assert_allclose(pooled, wanted.pooler_output.numpy(), atol=1e-5)
    hf_encoder.write_encoder(tmp_path / "ours", model, params)
    again = run(reload(tmp_path / "ours", transformers.AutoModel))
    # Both names of the tanh form of GELU are read as one, and transformers rounds them differently
    np.testing.assert_allclose(again.last_hidden_state.numpy(), wanted.last_hidden_state.numpy(), atol=2e-6)


def test_scores_are_those_of_transformers(tmp_path):
    theirs = drawn(transformers.BertForSequenceClassification, num_labels=3)
    theirs.save_pretrained(tmp_path / "theirs")
    model = hf_encoder.encoder_from(tmp_path / "theirs")
    params = hf_encoder.read_encoder(tmp_path / "theirs", model)
    scores = jax.jit(lambda p: model.scores(p, model.embed(p, TOKENS, None, VALID, TYPES)[:, 0]))(params)
    wanted = run(theirs).logits.numpy()
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    hf_encoder.write_encoder(tmp_path / "ours", model, params)
    again = reload(tmp_path / "ours", transformers.AutoModelForSequenceClassification)
    assert again.config.num_labels == 3
    np.testing.assert_allclose(run(again).logits.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_body_of_a_masked_language_model(tmp_path):
    theirs = drawn(transformers.BertForMaskedLM)
    theirs.save_pretrained(tmp_path)
    model = hf_encoder.encoder_from(tmp_path)
    assert not model.config.pooler
    params = hf_encoder.read_encoder(tmp_path, model)
    hidden = jax.jit(model.hidden)(params, TOKENS, None, VALID, TYPES)
    with torch.no_grad():
        states = theirs.bert(*(torch.tensor(x, dtype=torch.long) for x in (TOKENS, VALID, TYPES))).last_hidden_state
    np.testing.assert_allclose(hidden[VALID > 0], states.numpy()[VALID > 0], atol=1e-5)

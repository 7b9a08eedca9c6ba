"""METEOR on exact matches, and the similarity of a policy's answers."""

import numpy as np

from prefjax.metrics import similarity


def test_meteor_is_the_paper():
    assert similarity.meteor("a b c".split(), "x y".split()) == 0
    # All match in one chunk: F = 1, penalty 1/2 (1/4)^3.
    np.testing.assert_allclose(similarity.meteor("a b c d".split(), "a b c d".split()), 1 - 0.5 / 64)
    # "a b" and "d" match in two chunks: P = 3/4, R = 3/5.
    f = 10 * 0.75 * 0.6 / (0.6 + 9 * 0.75)
    np.testing.assert_allclose(similarity.meteor("a b x d".split(), "a b d e f".split()), f * (1 - 0.5 * (2 / 3) ** 3))
    # A word that occurs once is matched once.
    np.testing.assert_allclose(similarity.meteor("a a a".split(), "a".split()), 10 / 3 / (1 + 3) * 0.5)


def test_collapse_shows():
    varied = ["the cat sat".split(), "a dog ran off".split(), "birds sing loudly".split()]
    collapsed = [text + "as an assistant i am happy to help".split() for text in varied]
    assert similarity.mean_similarity(varied) < 0.1 < 0.5 < similarity.mean_similarity(collapsed)
    assert np.isnan(similarity.mean_similarity(varied[:1]))

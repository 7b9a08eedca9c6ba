"""Rewards by segments and by length."""

import numpy as np
import pytest

from prefjax.ops import returns
from prefjax.rewards import policy

RNG = np.random.default_rng(0)
LOGPS, REF = -RNG.uniform(0.1, 3, (2, 6)), -RNG.uniform(0.1, 3, (2, 6))
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], bool)
SENTENCES = (np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 9.0]]), np.array([[1, 3, 5], [1, 3, -1]]))
WHOLE = (np.array([[0.4], [-0.2]]), np.array([[5], [3]]))


def assemble(*categories, weights, kl_coef=0.1):
    scores, ends = zip(*categories, strict=True)
    return policy.fine_grained(scores, ends, LOGPS, REF, weights=weights, where=MASK, kl_coef=kl_coef)


def test_placement():
    got = assemble(SENTENCES, WHOLE, weights=(0.3, 0.5))
    expected = np.where(MASK, -0.1 * (LOGPS - REF), 0)
    expected += [[0, 0.3, 0, -0.3, 0, 0.3 + 0.2], [0, -0.3, 0, 0.3 - 0.1, 0, 0]]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_edge_one_segment_is_holistic():
    """The claim: one category, one segment at the last token: RLHF's rewards."""
    got = assemble(WHOLE, weights=(1.0,))
    holistic = returns.shaped_rewards(WHOLE[0][:, 0], LOGPS, REF, where=MASK, kl_coef=0.1)
    np.testing.assert_allclose(got, holistic, rtol=1e-5, atol=1e-6)


def test_finer_credit():
    """The claim: undiscounted, the return from the start is the sum of all scores; past a segment, without it."""
    rewards = assemble(SENTENCES, weights=(1.0,), kl_coef=0.0)
    togo = returns.discounted_returns(rewards, where=MASK)
    np.testing.assert_allclose(togo[:, 0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(togo[:, 2], [0, 1], atol=1e-6)  # the first sentence ended at token 1
    late = returns.discounted_returns(
        assemble((SENTENCES[0], np.array([[5, 5, 5], [3, 3, -1]])), weights=(1.0,), kl_coef=0.0), where=MASK
    )
    np.testing.assert_allclose(late[:, 0], togo[:, 0], atol=1e-6)
    np.testing.assert_allclose(late[:, 2], [1, 0], atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="1 segment_scores, 1 segment_ends, 2 weights"):
        assemble(WHOLE, weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="segment_ends"):
        assemble((WHOLE[0], WHOLE[1][:, 0]), weights=(1.0,))


def test_overlong():
    got = policy.overlong(np.array([10, 80, 90, 100, 130]), max_tokens=100, buffer=20)
    np.testing.assert_allclose(got, [0, 0, -0.5, -1, -1])
    with pytest.raises(ValueError, match="buffer=0"):
        policy.overlong(5, max_tokens=100, buffer=0)

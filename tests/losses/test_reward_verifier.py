"""Verifiers of solutions: losses, and re-ranking of clusters of answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import reward_pairs, reward_verifier
from prefjax.theory.checker import check_identity
from prefjax.transforms import filtering


def test_losses_are_the_paper():
    right, wrong = np.log([0.9, 0.6, 0.2]), np.log([0.1, 0.5, 0.8])
    got = reward_verifier.verifier_margin(right, wrong, margin=1.0)
    np.testing.assert_allclose(got, [0, 1 - np.log(0.6 / 0.5), 1 + np.log(4)], rtol=1e-5)
    got = reward_verifier.verifier_pointwise(np.log([0.9, 0.3, 0.2]), np.array([True, False, False]))
    np.testing.assert_allclose(got, -np.log([0.9, 0.7, 0.8]), rtol=1e-5)


def test_a_led_pair_has_no_gradient():
    """The claim: loss and gradient are 0 once every right solution leads by the margin."""
    right, wrong = np.log([0.9, 0.5, 0.8]), np.log([0.2, 0.1, 0.25])
    values, slopes = jax.value_and_grad(lambda r: jnp.sum(reward_verifier.verifier_margin(r, wrong)))(right)
    assert values == 0 and not np.any(slopes)


def test_edge_verifier_margin_is_a_ranking_hinge():
    def draw(rng):
        return {name: -rng.uniform(0, 3, 8) for name in ("a", "b")}

    check_identity(
        "hinge", lambda a, b: reward_verifier.verifier_margin(a, b), lambda a, b: reward_pairs.ranking_hinge(a, b), draw
    ).require()


rerank = jax.jit(filtering.cluster_rerank, static_argnames=("clusters", "aggregate"))


def brute_force(answers, scores, clusters, aggregate):
    """The answer by sorting the groups: votes first, then the aggregate."""
    groups = {a: scores[answers == a] for a in np.unique(answers)}
    worth = {a: {"sum": np.sum, "mean": np.mean, "max": np.max}[aggregate](s) for a, s in groups.items()}
    kept = sorted(groups, key=lambda a: (-len(groups[a]), -worth[a]))[:clusters]
    return max(kept, key=lambda a: worth[a])


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
def test_clusters(aggregate):
    rng = np.random.default_rng(0)
    answers, scores = rng.integers(0, 6, (40, 12)), rng.random((40, 12))
    for clusters in (1, 3):
        got = np.asarray(rerank(answers, scores, clusters=clusters, aggregate=aggregate))
        for row, index in enumerate(got):
            assert answers[row, index] == brute_force(answers[row], scores[row], clusters, aggregate)
            same = answers[row] == answers[row, index]
            assert scores[row, index] == scores[row][same].max()  # the best solution with that answer


def test_special_cases_of_clusters():
    """The claim: constant scores, or one cluster, vote; all clusters by their best score are best-of-N."""
    rng = np.random.default_rng(1)
    answers, scores = rng.integers(0, 5, (40, 13)), rng.random((40, 13))
    votes = np.sum(answers[:, :, None] == answers[:, None, :], axis=-1)
    rows = np.arange(40)
    for got in (
        rerank(answers, np.full_like(scores, 0.5)),
        rerank(answers, scores, clusters=1),
    ):
        np.testing.assert_array_equal(votes[rows, np.asarray(got)], votes.max(1))
    got = rerank(answers, scores, clusters=13, aggregate="max")
    np.testing.assert_array_equal(got, scores.argmax(1))
    where = np.ones((40, 13), bool)
    where[:, 6:] = False
    np.testing.assert_array_equal(rerank(answers, scores, where=where), rerank(answers[:, :6], scores[:, :6]))


def test_re_ranking_beats_voting():
    """The claim's simulation: 64 samples, 8 clusters, a verifier one unit apart, light and heavy tails of its noise."""
    rng = np.random.default_rng(2)
    problems, samples = 400, 64
    accuracy = rng.beta(0.5, 1.2, (problems, 1))
    right = rng.random((problems, samples)) < accuracy
    # Wrong answers fall on few favourites of each problem.
    shares = rng.dirichlet(np.full(30, 0.3), problems).cumsum(1)
    wrong = 1 + np.sum(rng.random((problems, samples, 1)) > shares[:, None, :], axis=-1)
    answers = np.where(right, 0, wrong)
    found = {}
    for tails, noise in (("light", rng.normal(size=right.shape)), ("heavy", rng.standard_t(1.2, right.shape))):
        scores = 1 / (1 + np.exp(-np.clip(right + noise, -30, 30)))
        for name, options in (
            ("clusters", {}),
            ("vote", {"clusters": 1}),
            ("best", {"clusters": samples, "aggregate": "max"}),
        ):
            index = np.asarray(rerank(answers, scores, **options))
            found[name, tails] = np.mean(answers[np.arange(problems), index] == 0)
    for tails in ("light", "heavy"):
        assert found["clusters", tails] > found["vote", tails] + 0.02, found
    assert found["clusters", "heavy"] > found["best", "heavy"] + 0.05, found
    assert found["best", "light"] > found["best", "heavy"] + 0.05, found

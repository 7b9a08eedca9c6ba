"""Losses on lists: Plackett-Luce, RRHF, PRO; with ties, masks and partial rankings."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax import objective
from prefjax.losses.preference import hinge, listwise, paired
from prefjax.theory import listwise as theory
from prefjax.theory.checker import check_gradient, check_identity
from tests.compiled import compile_losses
from tests.losses import draws

compile_losses(globals())


def as_list(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
    """A pair as a list of two, the better one first."""
    logps = jnp.stack([chosen_logps, rejected_logps], axis=1)
    refs = jnp.stack([ref_chosen_logps, ref_rejected_logps], axis=1)
    return logps, refs, jnp.broadcast_to(jnp.array([1.0, 0.0]), logps.shape)


def ranking_probability(scores, order):
    """Drawing without replacement, in proportion to exp(score)."""
    p, left = 1.0, list(order)
    for item in order:
        p *= np.exp(scores[item]) / np.sum(np.exp(scores[left]))
        left.remove(item)
    return p


def test_plackett_luce_is_the_paper():
    arrays = draws.lists(np.random.default_rng(0))
    got = listwise.plackett_luce_dpo(**arrays, beta=0.3)
    for b in range(3):
        scores = 0.3 * (arrays["list_logps"][b] - arrays["ref_list_logps"][b])
        order = np.argsort(-arrays["list_labels"][b])
        np.testing.assert_allclose(got[b], -np.log(ranking_probability(scores, order)), rtol=1e-5)


def test_rankings_add_up_to_one():
    """Over all 24 orders of four responses."""
    scores = np.random.default_rng(1).normal(size=4)
    orders = np.array(list(itertools.permutations(range(4)))).astype(float)
    logps = np.broadcast_to(scores, orders.shape)
    losses = listwise.plackett_luce_dpo(logps, np.zeros_like(logps), orders, beta=1.0)
    np.testing.assert_allclose(jnp.sum(jnp.exp(-losses)), 1, rtol=1e-5)


def test_partial_rankings():
    """Only the best two of four are known: the sum over the orders of the rest; by `top`, or by equal labels."""
    scores = np.random.default_rng(2).normal(size=(1, 4))
    zero = np.zeros((1, 4))
    whole = [(3, 2, 1, 0), (3, 2, 0, 1)]
    expected = sum(ranking_probability(scores[0], [0, 1, *rest]) for rest in ([2, 3], [3, 2]))
    assert len(whole) == 2
    full, partial = np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([[3.0, 2.0, 0.0, 0.0]])
    for got in (
        listwise.plackett_luce_dpo(scores, zero, full, beta=1.0, top=2),
        listwise.plackett_luce_dpo(scores, zero, partial, beta=1.0),
        listwise.plackett_luce_dpo(scores, zero, partial, beta=1.0, ties="share"),
    ):
        np.testing.assert_allclose(np.exp(-got), [expected], rtol=1e-5)


def test_ties():
    """Labels 1, 1, 0: the two best are not compared ("exclude"), or stand in each other's way ("share")."""
    s = np.array([0.5, -0.2, 0.1])
    e = np.exp(s)
    args = (s[None], np.zeros((1, 3)), np.array([[1.0, 1.0, 0.0]]))
    exclude = -np.log(e[0] / (e[0] + e[2])) - np.log(e[1] / (e[1] + e[2]))
    share = -np.log(e[0] / e.sum()) - np.log(e[1] / e.sum())
    np.testing.assert_allclose(listwise.plackett_luce_dpo(*args, beta=1.0), [exclude], rtol=1e-6)
    np.testing.assert_allclose(listwise.plackett_luce_dpo(*args, beta=1.0, ties="share"), [share], rtol=1e-6)
    np.testing.assert_array_equal(listwise.plackett_luce_dpo(*args[:2], np.ones((1, 3))), [0])


def test_plackett_luce_gradient():
    def closed(list_logps, ref_list_logps, list_labels):
        return 0.3 * theory.plackett_luce_gradient(0.3 * (list_logps - ref_list_logps), list_labels)

    loss = functools.partial(listwise.plackett_luce_dpo, beta=0.3)
    check_gradient("Plackett-Luce", loss, {"list_logps": closed}, draws.lists).require()
    gradient = closed(**draws.lists(np.random.default_rng(0)))
    np.testing.assert_allclose(jnp.sum(gradient, axis=1), 0, atol=1e-6)


def test_edge_two_responses_are_dpo():
    for ties in ("exclude", "share"):
        loss = functools.partial(listwise.plackett_luce_dpo, ties=ties)
        check_identity("PL(K = 2) = DPO", lambda loss=loss, **a: loss(*as_list(**a)), paired.dpo, draws.pairs).require()


def test_edge_the_best_against_the_rest_is_dpo_when_the_rest_is_one():
    """top = 1 with a mask that leaves two: still DPO."""

    def masked(**arrays):
        logps, refs, labels = (jnp.pad(x, ((0, 0), (0, 2)), constant_values=-3.0) for x in as_list(**arrays))
        where = jnp.arange(4) < 2
        where = jnp.broadcast_to(where, logps.shape)
        return listwise.plackett_luce_dpo(logps, refs, labels, where=where, top=1)

    check_identity("PL(top 1) = DPO", masked, paired.dpo, draws.pairs).require()


def rrhf_code(scores, labels):
    """The authors' loops, spelled out: diff and rw_diff over all ordered pairs of candidates."""
    total = 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if labels[i] - labels[j] > 0 and scores[i] - scores[j] < 0:
                total += scores[j] - scores[i]
    return total


def list_lengths(arrays, seed=5):
    return arrays | {"list_lengths": np.random.default_rng(seed).integers(1, 20, arrays["list_logps"].shape)}


@pytest.mark.parametrize("penalty", [1.0, 0.6])
def test_rrhf_is_the_authors_code(penalty):
    arrays = list_lengths(draws.lists(np.random.default_rng(3)))
    arrays["list_labels"] = np.minimum(arrays["list_labels"], 2)
    del arrays["ref_list_logps"]
    scores = arrays["list_logps"] / arrays["list_lengths"] ** penalty
    expected = [rrhf_code(s, y) for s, y in zip(scores, arrays["list_labels"], strict=True)]
    np.testing.assert_allclose(listwise.rrhf(**arrays, length_penalty=penalty), expected, rtol=1e-5, atol=1e-6)


def pro_code(scores, rewards):
    """The authors' stages on a list sorted by reward."""
    order = np.argsort(-rewards)
    scores, rewards, total = scores[order], rewards[order], 0.0
    for k in range(len(scores) - 1):
        gaps = rewards[k] - rewards[k + 1 :]
        own = scores[k] * gaps.max()
        total += np.log(np.exp(own) + np.sum(np.exp(scores[k + 1 :] * gaps))) - own
    return total


def test_pro_is_the_authors_code():
    arrays = list_lengths(draws.lists(np.random.default_rng(4)))
    del arrays["ref_list_logps"]
    arrays["list_labels"] = arrays["list_labels"] / 4 + 0.1
    scores = arrays["list_logps"] / arrays["list_lengths"]
    expected = [pro_code(s, r) for s, r in zip(scores, arrays["list_labels"], strict=True)]
    np.testing.assert_allclose(listwise.pro(**arrays), expected, rtol=1e-5)


def test_best_nll_and_the_whole_of_rrhf():
    """The supervised term takes the best response; several best ones share it; `add` makes the objective."""
    logps = np.array([[-3.0, -5.0, -7.0], [-2.0, -4.0, -9.0]])
    labels = np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    np.testing.assert_allclose(listwise.best_nll(logps, labels), [5.0, 3.0])
    lengths = np.full((2, 3), 2)
    batch = {"list_logps": logps, "list_labels": labels, "list_lengths": lengths, "example_mask": np.ones(2, bool)}

    def view(params, carry, batch, key):
        return {name: jnp.asarray(x) for name, x in batch.items()}

    ranking, best = (objective.compose(view, loss) for loss in (listwise.rrhf, listwise.best_nll))
    value, _ = objective.add({"ranking": (1.0, ranking), "best": (1.0, best)})(None, None, batch, jax.random.key(0))
    # The first list: the best (-2.5 a token) is less likely than the worst (-1.5); the middle (-3.5) too, by 2.
    np.testing.assert_allclose(value.value, (1.0 + 2.0 + 0.0) / 2 + 4.0, rtol=1e-6)


def test_edge_rrhf_of_a_pair_is_a_hinge_without_margin():
    """On tokens of length 1: max(0, log pi(l) - log pi(w)), SLiC's with margin 0."""

    def pair(chosen_logps, rejected_logps, **_):
        logps, _, labels = as_list(chosen_logps, rejected_logps, chosen_logps, rejected_logps)
        return listwise.rrhf(logps, labels, list_lengths=jnp.ones_like(logps))

    def free(chosen_logps, rejected_logps, **_):
        return hinge.slic_free(chosen_logps, rejected_logps, margin=0.0)

    check_identity("RRHF(K = 2) = SLiC(0)", pair, free, draws.pairs).require()


def test_edge_pro_of_a_pair_is_dpo_with_a_uniform_reference():
    """The gap of rewards over the length is beta."""

    def pair(chosen_logps, rejected_logps, **_):
        logps, _, labels = as_list(chosen_logps, rejected_logps, chosen_logps, rejected_logps)
        return listwise.pro(logps, 0.8 * labels, list_lengths=jnp.full(logps.shape, 4))

    def uniform(chosen_logps, rejected_logps, **_):
        ref = jnp.zeros_like(chosen_logps)
        return paired.dpo(chosen_logps, rejected_logps, ref, ref, beta=0.2)

    check_identity("PRO(K = 2) = DPO", pair, uniform, draws.pairs).require()

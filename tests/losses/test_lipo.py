"""LiPO's family: pointwise, pairwise, listwise; lambda weights; and where two responses make it DPO or SLiC."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses.preference import hinge, lipo, listwise, paired
from prefjax.theory.checker import check_identity
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid
from tests.losses.test_listwise import as_list

compile_losses(globals())


def scores_of(arrays, beta=0.05):
    return beta * (arrays["list_logps"] - arrays["ref_list_logps"])


def graded(rng):
    return draws.lists(rng) | {"list_labels": rng.random((draws.B, draws.K))}


def lambda_loop(s, psi):
    """The published double sum, with ranks by counting."""
    rank = [1 + sum(other > own for other in s) for own in s]
    total = 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            if psi[i] > psi[j]:
                gain = abs((2 ** psi[i] - 1) - (2 ** psi[j] - 1))
                total -= gain * abs(1 / np.log(1 + rank[i]) - 1 / np.log(1 + rank[j])) * log_sigmoid(s[i] - s[j])
    return total


def test_lambda_is_the_equation():
    arrays = graded(np.random.default_rng(0))
    expected = [lambda_loop(s, psi) for s, psi in zip(scores_of(arrays), arrays["list_labels"], strict=True)]
    np.testing.assert_allclose(lipo.lipo_lambda(**arrays), expected, rtol=1e-4)


def test_pairs_softmax_and_points_are_the_equations():
    arrays = graded(np.random.default_rng(1))
    s, psi = scores_of(arrays), arrays["list_labels"]
    gaps, better = s[:, :, None] - s[:, None, :], psi[:, :, None] > psi[:, None, :]
    logits = s - np.log(np.exp(s).sum(1, keepdims=True))
    expected = {
        "logistic": (-log_sigmoid(gaps) * better).sum((1, 2)),
        "hinge": (np.maximum(0, 1 - gaps) * better).sum((1, 2)),
        "labels": -(psi * logits).sum(1),
        "shares": -(psi * logits).sum(1) / psi.sum(1),
        "softmax": -(np.exp(psi) * logits).sum(1) / np.exp(psi).sum(1),
        "mse": np.square(psi - s).sum(1),
        "sigmoid": -(psi * log_sigmoid(s) + (1 - psi) * log_sigmoid(-s)).sum(1),
    }
    for form in ("logistic", "hinge"):
        np.testing.assert_allclose(lipo.lipo_pairs(**arrays, form=form), expected[form], rtol=1e-4)
    for targets in ("labels", "shares", "softmax"):
        np.testing.assert_allclose(lipo.lipo_softmax(**arrays, targets=targets), expected[targets], rtol=1e-4)
    for form in ("mse", "sigmoid"):
        np.testing.assert_allclose(lipo.lipo_points(**arrays, form=form), expected[form], rtol=1e-4)


def test_the_lambda_weights_carry_no_gradient():
    """Its gradient is that of a pair loss with constant weights."""
    arrays = graded(np.random.default_rng(2))
    found = jax.grad(lambda x: jnp.sum(lipo.lipo_lambda(**{**arrays, "list_logps": x})))(arrays["list_logps"])
    s, psi = scores_of(arrays), arrays["list_labels"]
    tau = np.argsort(np.argsort(-s, axis=1), axis=1) + 1.0
    gain, discount = 2**psi - 1, 1 / np.log(1 + tau)
    delta = np.abs(gain[:, :, None] - gain[:, None, :]) * np.abs(discount[:, :, None] - discount[:, None, :])
    pull = delta * (psi[:, :, None] > psi[:, None, :]) * draws.sigmoid(-(s[:, :, None] - s[:, None, :]))
    np.testing.assert_allclose(found, 0.05 * (pull.sum(1) - pull.sum(2)), rtol=1e-3, atol=1e-6)


def test_swapping_equally_good_responses_changes_nothing():
    def draw(rng):
        arrays = draws.lists(rng)
        arrays["list_labels"][:, 1] = arrays["list_labels"][:, 0]
        return arrays

    def swapped(list_logps, ref_list_logps, list_labels):
        order = jnp.array([1, 0, 2, 3, 4])
        return lipo.lipo_lambda(list_logps[:, order], ref_list_logps[:, order], list_labels)

    check_identity("swap of ties", swapped, lipo.lipo_lambda, draw).require()


def test_the_softmax_member_is_smallest_at_the_softmax_of_the_labels():
    labels = jnp.array([[2.0, 0.0, 1.0]])
    loss = functools.partial(lipo.lipo_softmax, targets="softmax", beta=1.0)
    gradient = jax.grad(lambda x: jnp.sum(loss(x, jnp.zeros((1, 3)), labels)))(labels)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_edge_two_responses_are_dpo_or_slic():
    for form, loss in {"logistic": paired.dpo, "hinge": hinge.slic}.items():
        check_identity(
            f"{form}, K = 2",
            lambda form=form, **a: lipo.lipo_pairs(*as_list(**a), form=form, beta=0.1),
            loss,
            draws.pairs,
        ).require()
    check_identity(
        "list MLE, K = 2", lambda **a: listwise.plackett_luce_dpo(*as_list(**a)), paired.dpo, draws.pairs
    ).require()


def test_edge_lambda_of_two_responses_is_a_multiple_of_dpo():
    def left(**a):
        logps, refs, labels = as_list(**a)
        return lipo.lipo_lambda(logps, refs, 0.25 + 0.5 * labels, beta=0.1)

    factor = abs(2**0.75 - 2**0.25) * abs(1 / np.log(2) - 1 / np.log(3))
    # Ranks are integers, whose discounts are float32 even in x64.
    check_identity("c DPO", left, lambda **a: factor * paired.dpo(**a), draws.pairs, tolerance=1e-6).require()


def test_edge_shares_of_one_best_response_are_the_first_draw_of_plackett_luce():
    def left(**a):
        a["list_labels"] = (a["list_labels"] == draws.K - 1).astype(float)
        return lipo.lipo_softmax(**a, targets="shares", beta=0.1)

    check_identity(
        "softmax = PL(top 1)",
        left,
        functools.partial(listwise.plackett_luce_dpo, top=1, beta=0.1),
        draws.lists,
    ).require()

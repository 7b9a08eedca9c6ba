"""Soft labels, offsets and ties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import graded, paired
from prefjax.theory.checker import check_identity, check_limit
from prefjax.theory.preference import logit
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid

compile_losses(globals())


def with_ties(rng):
    return draws.pairs(rng) | {"ties": rng.random(draws.B) < 0.4}


def swap(arrays):
    chosen, rejected, ref_chosen, ref_rejected = (arrays[name] for name in draws.PAIR)
    return dict(zip(draws.PAIR, (rejected, chosen, ref_rejected, ref_chosen), strict=True))


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_soft_dpo_recovers_the_probability(p, x64):
    """Its minimum is at sigmoid(z) = p, where it is the entropy of p."""
    zero, probs = jnp.zeros(1), jnp.array([p])

    def value(z):
        return graded.soft_dpo(z[None], zero, zero, zero, preference_probs=probs, beta=1.0)[0]

    best = logit(p)
    assert abs(jax.grad(value)(best)) < 1e-12 and jax.grad(jax.grad(value))(best) > 0
    np.testing.assert_allclose(value(best), -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-12)


def test_offset_dpo_is_the_paper():
    pair = [np.array([x]) for x in (-10.0, -14.0, -11.0, -12.5)]
    got = graded.offset_dpo(*pair, margins=np.array([2.0]), beta=0.3, alpha=0.5)
    np.testing.assert_allclose(got, [-log_sigmoid(0.3 * 2.5 - 0.5 * 2.0)], rtol=1e-6)


@pytest.mark.parametrize("loss", [graded.rao_kupper_dpo, graded.davidson_dpo])
def test_win_loss_and_tie_add_up_to_one(loss):
    yes, no = jnp.ones(draws.B, bool), jnp.zeros(draws.B, bool)

    def total(**arrays):
        win, tie, lose = loss(**arrays, ties=no), loss(**arrays, ties=yes), loss(**swap(arrays), ties=no)
        return jnp.exp(-win) + jnp.exp(-tie) + jnp.exp(-lose)

    check_identity("probabilities", total, lambda **a: jnp.ones(draws.B), draws.pairs).require()
    check_identity(
        "a tie has no order",
        lambda **a: loss(**a, ties=yes),
        lambda **a: loss(**swap(a), ties=yes),
        draws.pairs,
    ).require()


@pytest.mark.parametrize("loss", [graded.rao_kupper_dpo, graded.davidson_dpo])
def test_ties_pull_the_margin_to_zero(loss, x64):
    """Equal responses tie with probability 1/2 at the default; from either side a tie's gradient points to z = 0."""
    zero, tie = jnp.zeros(1), jnp.ones(1, bool)

    def value(z):
        return loss(z[None], zero, zero, zero, tie, beta=1.0)[0]

    np.testing.assert_allclose(jnp.exp(-value(jnp.array(0.0))), 0.5, rtol=1e-6)
    slope = jax.grad(value)
    assert slope(jnp.array(-3.0)) < 0 == slope(jnp.array(0.0)) < slope(jnp.array(3.0))


def test_ties_are_the_models():
    """Rao-Kupper with nu, Davidson with nu, spelled out with strengths."""
    strong, weak, nu, zero = np.exp(0.7), np.exp(-0.4), 1.8, np.zeros(1)
    pair = [np.array([0.7]), np.array([-0.4]), zero, zero]
    for tied in (False, True):
        p = (nu**2 - 1) * strong * weak / ((strong + nu * weak) * (weak + nu * strong)) if tied else None
        p = p if tied else strong / (strong + nu * weak)
        got = graded.rao_kupper_dpo(*pair, np.array([tied]), beta=1.0, tie_width=np.log(nu))
        np.testing.assert_allclose(np.exp(-got), [p], rtol=1e-5)
        root = 2 * nu * np.sqrt(strong * weak)
        p = (root if tied else strong) / (strong + weak + root)
        got = graded.davidson_dpo(*pair, np.array([tied]), beta=1.0, tie_weight=2 * nu)
        np.testing.assert_allclose(np.exp(-got), [p], rtol=1e-5)


def test_edge_soft_dpo_with_hard_labels_is_dpo():
    sure = functools.partial(graded.soft_dpo, preference_probs=jnp.ones(draws.B))
    check_identity("soft DPO(1) = DPO", sure, paired.dpo, draws.pairs).require()


def test_edge_soft_dpo_with_one_probability_is_conservative_dpo():
    """p = 1 - e for all pairs; smoothing the label and softening it are one thing."""
    smoothed = functools.partial(paired.dpo, label_smoothing=0.2)
    soft = functools.partial(graded.soft_dpo, preference_probs=np.full(draws.B, 0.8))
    twice = functools.partial(graded.soft_dpo, preference_probs=np.ones(draws.B), label_smoothing=0.2)
    check_identity("soft DPO = cDPO", soft, smoothed, draws.pairs).require()
    check_identity("soft DPO = cDPO", twice, smoothed, draws.pairs).require()


def test_edge_offset_zero_is_dpo():
    check_identity(
        "ODPO(0) = DPO", functools.partial(graded.offset_dpo, margins=jnp.zeros(draws.B)), paired.dpo, draws.pairs
    ).require()


@pytest.mark.parametrize("loss, option", [(graded.rao_kupper_dpo, "tie_width"), (graded.davidson_dpo, "tie_weight")])
def test_edge_without_ties_it_is_dpo(loss, option):
    no = jnp.zeros(draws.B, bool)
    check_limit(
        "no room for ties",
        lambda scale, **a: loss(**a, ties=no, **{option: scale}),
        lambda scale, **a: paired.dpo(**a),
        draws.pairs,
        order=1,
        scales=(1e-2, 1e-3, 1e-4),
    ).require()

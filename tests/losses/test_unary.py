"""Losses that classify each response: BCO's bound on DPO, KTO on pairs, what the batch couples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import paired, unary, unpaired
from prefjax.theory import anchored as theory
from prefjax.theory.checker import check_bound, check_identity
from prefjax.weights import preference as weights
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import sigmoid

compile_losses(globals())


def rewards(**arrays):
    return tuple(0.1 * u for u in draws.ratios(**arrays))


def test_bco_bounds_dpo_by_the_gap():
    """Theorem: bco_pair - dpo = log((1 + e^-a) (1 + e^b) / (1 + e^(b - a))) > 0 for any shift."""
    for shift in (0.0, 0.4):
        check_identity(
            "the gap",
            lambda shift=shift, **a: unary.bco_pair(**a, shift=shift) - paired.dpo(**a),
            lambda shift=shift, **a: theory.bco_gap(*rewards(**a), shift),
            draws.pairs,
        ).require()
    check_bound("DPO < BCO", paired.dpo, unary.bco_pair, draws.pairs).require()


def test_bco_gap_is_smallest_at_the_mean_reward(x64):
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=(2, 50))
    best = theory.bco_shift(chosen, rejected)
    slope = jax.vmap(jax.grad(theory.bco_gap, argnums=2))(chosen, rejected, best)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    away = rng.normal(size=50)
    assert np.all(theory.bco_gap(chosen, rejected, best + away) >= theory.bco_gap(chosen, rejected, best))


def test_shift_an_example():
    """A shift of every pair's own is allowed, one of another shape is not."""
    arrays = draws.pairs(np.random.default_rng(0))
    shifts = np.linspace(-1, 1, draws.B)
    got = unary.bco_pair(**arrays, shift=shifts)[3]
    one = {name: x[3:4] for name, x in arrays.items()}
    np.testing.assert_allclose(got, unary.bco_pair(**one, shift=shifts[3])[0], rtol=1e-5)
    with pytest.raises(ValueError, match="shift has shape"):
        unary.bco_pair(**arrays, shift=shifts[:, None])


def test_batch_mean_shift_is_stopped():
    arrays = draws.unpaired(np.random.default_rng(1))

    def total(logps, shift):
        delta = weights.reward_mean(logps, arrays["ref_logps"]).value if shift is None else shift
        return jnp.sum(unary.bco(logps, arrays["ref_logps"], arrays["desirable"], shift=delta))

    value = float(np.mean(0.1 * (arrays["logps"] - arrays["ref_logps"])))
    logps = jnp.asarray(arrays["logps"])
    found, fixed = jax.grad(total)(logps, None), jax.grad(total)(logps, value)
    np.testing.assert_allclose(found, fixed, rtol=1e-4)


def test_kto_pair_is_early_trl():
    arrays = draws.pairs(np.random.default_rng(2))
    uw, ul = draws.ratios(**arrays)
    kw, kl = max(0, uw.mean()), max(0, ul.mean())
    terms = np.concatenate([1 - sigmoid(0.1 * (uw - kl)), 1 - sigmoid(0.1 * (kw - ul))])
    np.testing.assert_allclose(np.mean(unary.kto_pair(**arrays)), terms.mean(), rtol=1e-5)


def test_kto_pair_stops_its_baseline(x64):
    """The gradient is that with the two means held fixed."""
    arrays = {name: jnp.asarray(x) for name, x in draws.pairs(np.random.default_rng(3)).items()}
    arrays["chosen_logps"] += 2.0
    uw, ul = draws.ratios(**arrays)
    kw, kl = jnp.maximum(uw.mean(), 0), jnp.maximum(ul.mean(), 0)

    def fixed(chosen_logps, rejected_logps):
        uw, ul = chosen_logps - arrays["ref_chosen_logps"], rejected_logps - arrays["ref_rejected_logps"]
        return jnp.sum(2 - jax.nn.sigmoid(0.1 * (uw - kl)) - jax.nn.sigmoid(0.1 * (kw - ul))) / 2

    def total(chosen_logps, rejected_logps):
        return jnp.sum(
            unary.kto_pair(chosen_logps, rejected_logps, arrays["ref_chosen_logps"], arrays["ref_rejected_logps"])
        )

    both = arrays["chosen_logps"], arrays["rejected_logps"]
    assert kw > 0
    np.testing.assert_allclose(
        jax.grad(total, argnums=(0, 1))(*both), jax.grad(fixed, argnums=(0, 1))(*both), rtol=1e-10
    )


def test_edge_bco_pair_is_bco_on_both_halves():
    def halves(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        up = unary.bco(chosen_logps, ref_chosen_logps, jnp.ones(draws.B, bool), shift=0.3)
        return up + unary.bco(rejected_logps, ref_rejected_logps, jnp.zeros(draws.B, bool), shift=0.3)

    check_identity("BCO", functools.partial(unary.bco_pair, shift=0.3), halves, draws.pairs).require()


def test_edge_apo_zero_unpaired_is_kto_without_baseline():
    def kto(logps, ref_logps, desirable):
        same = jnp.zeros(draws.B)
        return unpaired.kto(logps, ref_logps, desirable, kl_logps=same, ref_kl_logps=same)

    check_identity("APO-zero = KTO(z0 = 0)", unary.apo_zero_unpaired, kto, draws.unpaired).require()


def test_edge_kto_pair_is_kto_where_no_class_has_gained():
    """Both means at or below 0: the baselines vanish, and a pair is half of KTO on its two responses."""

    def draw(rng):
        arrays = draws.pairs(rng)
        return arrays | {name: arrays[f"ref_{name}"] - rng.uniform(0, 5, draws.B) for name in draws.PAIR[:2]}

    def kto(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        up = unary.apo_zero_unpaired(chosen_logps, ref_chosen_logps, jnp.ones(draws.B, bool))
        return (up + unary.apo_zero_unpaired(rejected_logps, ref_rejected_logps, jnp.zeros(draws.B, bool))) / 2

    check_identity("KTO on pairs", unary.kto_pair, kto, draw).require()


def test_labels_of_minus_one_are_not_desirable():
    logps, ref, signs = jnp.array([-3.0, -1.0]), jnp.array([-2.0, -2.0]), jnp.array([1, -1])
    for loss in (unary.bco, unary.apo_zero_unpaired, functools.partial(unpaired.kto, kl_logps=ref, ref_kl_logps=ref)):
        np.testing.assert_array_equal(loss(logps, ref, signs), loss(logps, ref, signs > 0))


def test_kto_pair_of_an_empty_slot_reaches_no_gradient():
    keep, hole = np.array([True, False]), np.array([0.0, np.nan])

    def loss(chosen, beta):
        pair = unary.kto_pair(chosen, hole - 2, hole - 3, hole - 1, example_mask=keep, beta=beta)
        return jnp.sum(pair, where=keep)

    for slope in jax.grad(loss, argnums=(0, 1))(jnp.asarray(hole - 1), 0.3):
        assert np.all(np.isfinite(slope))

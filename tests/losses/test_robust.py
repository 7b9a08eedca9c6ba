"""Robust DPO and EXO: what the papers claim of them, and where they meet DPO."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import divergence, paired, robust
from prefjax.theory import robust as theory
from prefjax.theory.checker import check_gradient, check_identity, check_limit
from tests.compiled import compile_losses
from tests.losses import draws

compile_losses(globals())


def swapped(loss, **arrays):
    chosen, rejected, ref_chosen, ref_rejected = (arrays[name] for name in draws.PAIR)
    return loss(rejected, chosen, ref_rejected, ref_chosen)


def margins(beta, **arrays):
    uw, ul = draws.ratios(**arrays)
    return beta * (uw - ul)


@pytest.mark.parametrize("e", [0.05, 0.2, 0.4])
def test_robust_is_unbiased(e):
    """(1 - e) L_rob(z) + e L_rob(-z) = -log sigmoid(z); conservative DPO does not have this."""

    def expected(loss, **arrays):
        loss = functools.partial(loss, beta=0.3, label_smoothing=e)
        return (1 - e) * loss(**arrays) + e * swapped(loss, **arrays)

    clean = functools.partial(paired.dpo, beta=0.3)
    check_identity("robust DPO", functools.partial(expected, robust.robust_dpo), clean, draws.pairs).require()
    assert not check_identity("cDPO", functools.partial(expected, paired.dpo), clean, draws.pairs).holds


def test_robust_trains_on_flipped_labels_as_on_clean_ones():
    """With 30% of the labels flipped the mean loss and gradient over many flips are those of the clean labels."""
    rng, e = np.random.default_rng(0), 0.3
    logps = {name: jnp.asarray(x) for name, x in draws.pairs(rng).items()}
    flips = rng.random((4000, draws.B)) < e

    def mean_loss(shift, loss, flip):
        z = 0.3 * (logps["chosen_logps"] - logps["ref_chosen_logps"] + shift)
        z = jnp.where(flip, -z, z)
        zero = jnp.zeros(draws.B)
        return jnp.mean(loss(z, zero, zero, zero, beta=1.0))

    noisy = jax.vmap(jax.value_and_grad(mean_loss), in_axes=(None, None, 0))
    loss = functools.partial(robust.robust_dpo, label_smoothing=e)
    value, slope = (jnp.mean(x) for x in noisy(0.5, loss, flips))
    clean_value, clean_slope = jax.value_and_grad(mean_loss)(0.5, paired.dpo, np.zeros(draws.B, bool))
    assert abs(value - clean_value) < 0.02 and abs(slope - clean_slope) < 0.02
    naive_value = jnp.mean(noisy(0.5, paired.dpo, flips)[0])
    assert abs(naive_value - clean_value) > 0.05


def test_gradient_weights():
    e, beta = 0.15, 0.3
    for loss, weight in (
        (robust.robust_dpo, theory.robust_weight),
        (paired.dpo, theory.smoothed_weight),
        (divergence.exo, theory.exo_weight),
    ):
        check_gradient(
            loss.__name__,
            functools.partial(loss, beta=beta, label_smoothing=e),
            {"chosen_logps": lambda weight=weight, **a: -beta * weight(margins(beta, **a), flip_rate=e)},
            draws.pairs,
        ).require()


def test_robust_never_lets_go_and_is_unbounded_below():
    """Its pull is at least e / (1 - 2 e) at any margin: -6.25 at z = 50, e = 0.1."""
    zero = jnp.zeros(1)
    value = robust.robust_dpo(jnp.full(1, 50.0), zero, zero, zero, beta=1.0, label_smoothing=0.1)
    np.testing.assert_allclose(value, [-6.25], rtol=1e-6)
    np.testing.assert_allclose(theory.robust_weight(1e4, flip_rate=0.1), 0.125, rtol=1e-6)
    np.testing.assert_allclose(theory.robust_variance_factor(flip_rate=0.25), 4.0)


@pytest.mark.parametrize("loss", [paired.dpo, divergence.exo])
def test_smoothed_labels_have_a_finite_optimum(loss, x64):
    """At z = log((1 - e) / e)."""
    e, zero = 0.2, jnp.zeros(1)
    z = jnp.log((1 - e) / e)
    slope = jax.grad(lambda z: loss(z[None], zero, zero, zero, beta=1.0, label_smoothing=e)[0])
    assert abs(slope(z)) < 1e-12 and slope(z - 0.1) < 0 < slope(z + 0.1)


def test_exo_is_a_divergence():
    """KL(model || labels) >= 0, with 0 at the optimum, and no more than -log e."""
    z = jnp.linspace(-300.0, 300.0, 601)
    zero = jnp.zeros(601)
    values = divergence.exo(z, zero, zero, zero, beta=1.0, label_smoothing=0.01)
    assert np.all(values >= -1e-6) and np.all(values <= -np.log(0.01) + 1e-5)
    assert abs(float(z[jnp.argmin(values)]) - np.log(99)) < 0.6


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda a: robust.robust_dpo(**a, label_smoothing=0.5), r"robust_dpo: label_smoothing=0.5 must lie in \[0"),
        (lambda a: divergence.exo(**a, label_smoothing=0.0), r"exo: label_smoothing=0.0 must lie in \(0"),
    ],
)
def test_flip_rates_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call(draws.pairs(np.random.default_rng(0)))


def test_edge_robust_without_flips_is_dpo():
    check_identity(
        "robust(0) = DPO",
        functools.partial(robust.robust_dpo, label_smoothing=0.0),
        paired.dpo,
        draws.pairs,
    ).require()


def test_edge_exo_reverses_the_divergence_of_smoothed_dpo():
    """Near the optimum the two divergences, each less its minimum, agree to second order."""
    e = 0.2
    best = np.log((1 - e) / e)
    entropy = -(1 - e) * np.log(1 - e) - e * np.log(e)

    def at(loss, scale, step):
        zero = jnp.zeros_like(step)
        return loss(best + scale * step, zero, zero, zero, beta=1.0, label_smoothing=e)

    check_limit(
        "EXO and cDPO are KLs between the same two distributions",
        lambda scale, step: at(divergence.exo, scale, step) / scale**2,
        lambda scale, step: (at(paired.dpo, scale, step) - entropy) / scale**2,
        lambda rng: {"step": rng.normal(size=8)},
        order=1,
        scales=(1e-1, 3e-2, 1e-2),
    ).require()


def test_edge_exo_without_smoothing_minimises_the_error_rate():
    """e -> 0: loss / -log e -> sigmoid(-z), the smooth 0-1 loss."""

    def scaled(scale, **arrays):
        return divergence.exo(**arrays, beta=0.3, label_smoothing=jnp.exp(-1 / scale)) * scale

    check_limit(
        "EXO -> sigmoid loss",
        scaled,
        lambda scale, **a: jax.nn.sigmoid(-margins(0.3, **a)),
        draws.pairs,
        order=1,
        scales=(1e-1, 3e-2, 1e-2),
    ).require()

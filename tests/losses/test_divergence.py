"""f-DPO: its rewards are those of the optimal policy under each divergence; DPO is one of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import discovered, divergence, paired
from prefjax.ops import deformed, divergences
from prefjax.theory import divergence as theory
from prefjax.theory.checker import check_identity, check_limit
from tests.compiled import compile_losses
from tests.losses import draws

compile_losses(globals())

NAMES = ("reverse_kl", "forward_kl", "jensen_shannon", "alpha")
F = {
    "reverse_kl": divergences.reverse_kl,
    "forward_kl": divergences.forward_kl,
    "jensen_shannon": divergences.jensen_shannon,
    "alpha": divergences.alpha(0.5),
}


@pytest.mark.parametrize("name", NAMES)
def test_margin_of_the_optimal_policy_is_the_reward_difference(name, x64):
    """beta (s(u_1) - s(u_2)) = r_1 - r_2, so that f-DPO at the optimum is Bradley-Terry on the true rewards."""
    rng, beta = np.random.default_rng(0), 0.7
    ref = np.log(rng.dirichlet(np.ones(6), 5))
    rewards = rng.normal(size=(5, 6))
    policy = theory.f_optimal_policy(ref, rewards, beta=beta, divergence=name, alpha=0.5)
    np.testing.assert_allclose(jnp.exp(policy).sum(-1), 1, rtol=1e-12)
    loss = divergence.f_dpo(policy[:, 0], policy[:, 1], ref[:, 0], ref[:, 1], divergence=name, alpha=0.5, beta=beta)
    expected = -draws.log_sigmoid(rewards[:, 0] - rewards[:, 1])
    np.testing.assert_allclose(loss, expected, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_optimal_policy_maximises(name, x64):
    """E[r] - beta D_f(pi || ref) falls in every direction from it."""
    rng, beta = np.random.default_rng(1), 0.7
    ref, rewards = np.log(rng.dirichlet(np.ones(5))), rng.normal(size=5)

    def value(policy):
        penalty = jnp.sum(jnp.exp(ref) * F[name].f(policy - ref))
        return jnp.sum(jnp.exp(policy) * rewards) - beta * penalty

    best = theory.f_optimal_policy(ref, rewards, beta=beta, divergence=name, alpha=0.5)
    others = jax.nn.log_softmax(best + 0.05 * rng.normal(size=(40, 5)))
    assert np.all(jax.vmap(value)(others) < value(best))


@pytest.mark.parametrize("name", NAMES)
def test_inverse_of_the_score(name, x64):
    u = jnp.linspace(-5.0, 5.0, 21)
    score = deformed.deformed_log(u, 0.5) if name == "alpha" else F[name].derivative(u)
    np.testing.assert_allclose(theory.log_ratio_of_slope(score, divergence=name, alpha=0.5), u, atol=1e-10)


def test_inverse_out_of_reach():
    assert theory.log_ratio_of_slope(1.0, divergence="forward_kl") == jnp.inf


@pytest.mark.parametrize("name", NAMES)
def test_stable_far_from_the_reference(name):
    """u = -100 and both sides far: TRL's forward KL is NaN there in float32. The chosen response still is pulled up."""
    zero = jnp.zeros(3)
    uw, ul = jnp.array([-100.0, -1e4, -100.0]), jnp.array([-100.0, -9e3, 5.0])

    def total(uw, ul):
        return jnp.sum(divergence.f_dpo(uw, ul, zero, zero, divergence=name))

    value, (chosen, rejected) = jax.value_and_grad(total, argnums=(0, 1))(uw, ul)
    assert np.isfinite(value) and np.all(np.isfinite(chosen)) and np.all(np.isfinite(rejected))
    assert chosen[2] < 0, "no pull on a chosen response that has become unlikely"


def test_deformed_log(x64):
    x = np.array([-40.0, -3.0, -1e-4, 0.0, 1e-6, 2.0, 40.0])
    for a in (-0.5, 0.3, 0.7):
        np.testing.assert_allclose(deformed.deformed_log(x, a), -np.expm1(-a * x) / a, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(deformed.deformed_log(x, 0.0), x)
    slope = jax.jit(jax.vmap(jax.grad(deformed.deformed_log, argnums=1), in_axes=(0, None)))(x, 0.0)
    np.testing.assert_allclose(slope, -(x**2) / 2, rtol=1e-12)
    tangent = deformed.deformed_log(np.array([-1e4]), 1.0)
    np.testing.assert_allclose(tangent, 1 - np.exp(30) * (1 + 1e4 - 30), rtol=1e-12)


def test_edge_f_dpo_of_the_reverse_kl_is_dpo():
    check_identity("f-DPO = DPO", divergence.f_dpo, paired.dpo, draws.pairs).require()


def test_edge_alpha_one_is_the_reverse_kl_and_alpha_zero_the_forward_kl():
    for alpha, name in ((1.0, "reverse_kl"), (0.0, "forward_kl")):
        check_identity(
            f"alpha = {alpha} is {name}",
            functools.partial(divergence.f_dpo, divergence="alpha", alpha=alpha),
            functools.partial(divergence.f_dpo, divergence=name),
            draws.pairs,
        ).require()
        check_limit(
            f"alpha -> {alpha}",
            lambda scale, alpha=alpha, **a: divergence.f_dpo(
                **a, divergence="alpha", alpha=alpha + scale * (1 - 2 * alpha)
            ),
            lambda scale, name=name, **a: divergence.f_dpo(**a, divergence=name),
            draws.pairs,
            order=1,
            scales=(1e-2, 1e-3, 1e-4),
        ).require()


def test_edge_every_divergence_is_dpo_near_the_reference():
    """f''(1) = 1 for the KLs and alpha, 1/2 for Jensen-Shannon: to first order only that scale differs."""
    for name, curvature in (("forward_kl", 1.0), ("jensen_shannon", 0.5), ("alpha", 1.0)):

        def shrunk(scale, loss, **arrays):
            uw, ul = draws.ratios(**arrays)
            zero = jnp.zeros_like(uw)
            return (loss(scale * uw, scale * ul, zero, zero) - jnp.log(2.0)) / scale

        check_limit(
            name,
            functools.partial(shrunk, loss=functools.partial(divergence.f_dpo, divergence=name)),
            functools.partial(shrunk, loss=functools.partial(paired.dpo, beta=0.1 * curvature)),
            draws.pairs,
            order=1,
            scales=(1e-2, 1e-3, 1e-4),
        ).require()


def test_edge_discopop_is_dpo_at_very_negative_margins_and_exponential_at_positive_ones():
    zero = jnp.zeros(2)
    z = jnp.array([-3.0, 3.0])
    got = discovered.discopop(z, zero, zero, zero, beta=1.0)
    np.testing.assert_allclose(got, [-draws.log_sigmoid(-3.0), np.exp(-3.0)], rtol=1e-6)


def test_discopop_is_finite_where_the_product_is_not():
    """z < -88 in float32: exp(-z) overflows, 0 times it is NaN; here the logistic loss is left, and its slope."""
    zero = jnp.zeros(2)
    z = jnp.array([-100.0, -1e4])
    value, slope = jax.value_and_grad(lambda z: jnp.sum(discovered.discopop(z, zero, zero, zero, beta=1.0)))(z)
    np.testing.assert_allclose(value, 10100, rtol=1e-6)
    np.testing.assert_allclose(slope, [-1, -1], rtol=1e-6)


def test_discopop_is_not_convex(x64):
    """The paper: a local minimum at a small negative margin, so that some wrong pairs are left alone."""
    z = jnp.linspace(-1.0, 1.0, 401)
    zero = jnp.zeros(401)
    values = np.asarray(discovered.discopop(z, zero, zero, zero, beta=1.0))
    inside = (values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])
    assert inside.any() and np.all(z[1:-1][inside] < 0)

"""Log-barrier FTRL: its optimality conditions, its estimates, its regret."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.optim import ftrl
from prefjax.theory import adversarial
from prefjax.theory.checker import check_identity


def losses(rng):
    """Of any sign, and very negative ones among them."""
    return {"totals": rng.normal(size=(6, 5)) * np.array([[1e-2], [1.0], [10.0], [1e3], [1e6], [1e9]])}


def test_optimality_conditions():
    """The claim: p_a (L_a + nu) is 1 / rate for one nu, and p sums to 1, for losses of any sign and size."""
    rate = 0.3

    def chances(totals):
        return ftrl.log_barrier(totals, rate=rate)

    def nu_spread(totals):
        p = chances(totals)
        nu = 1 / (rate * p) - totals
        return (nu - nu[:, :1]) / (1 + jnp.abs(totals).max(axis=1, keepdims=True))

    check_identity("sum", lambda totals: jnp.sum(chances(totals), -1), lambda totals: jnp.ones(6), losses).require()
    check_identity("nu", nu_spread, lambda totals: jnp.zeros((6, 5)), losses).require()
    check_identity("shift", lambda totals: chances(totals + 7.0), chances, losses, tolerance=1e-8, draws=5).require()
    spread = np.array([0.0, 40.0])
    np.testing.assert_allclose(ftrl.exponential_weights(spread, rate=0.1)[1], 1 / (1 + np.exp(4)), rtol=1e-5)
    # With gap g: 1 / x + 1 / (x + g) = 1 at x = 1 - g / 2 + sqrt(1 + g^2 / 4), g = 4
    np.testing.assert_allclose(ftrl.log_barrier(spread, rate=0.1)[0], 1 / (1 - 2 + np.sqrt(5)), rtol=1e-5)


def test_magnitude_reduced(x64):
    """The claim: the same mean, never below E[min(Z, 0)], no larger second moment."""
    z = np.random.default_rng(0).standard_t(2.5, (5000, 3)) * np.array([1.0, 5.0, 0.2]) + 0.3
    low = np.minimum(z, 0).mean(0)
    reduced = ftrl.magnitude_reduced(z, low)
    np.testing.assert_allclose(reduced.mean(0), z.mean(0), atol=1e-12)
    assert np.all(reduced.min(0) >= low) and np.all(reduced.min(0) > 5 * z.min(0))
    assert np.all((reduced**2).mean(0) <= (z**2).mean(0))


def test_linear_estimates_are_unbiased(x64):
    rng = np.random.default_rng(1)
    phi, theta, p = rng.normal(size=(5, 3)), rng.normal(size=3), rng.dirichlet(np.ones(5))
    inverse = np.linalg.inv(np.einsum("a,ai,aj->ij", p, phi, phi))
    each = [ftrl.linear_q_estimates(phi, a, inverse, phi[a] @ theta) for a in range(5)]
    np.testing.assert_allclose(p @ np.stack(each), phi @ theta, atol=1e-12)
    assert np.min(each) < 0


def test_regret_grows_as_the_root():
    """The claim: importance-weighted losses in {-1, 0}, whose estimates have no lower bound: about sqrt(rounds).

    The best arm is better by 4 / sqrt(rounds) only, the gap that is hardest to find.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def regret(rounds):
        chances = jnp.array([0.5 + 4 / np.sqrt(rounds), 0.5, 0.5])
        table = -jax.random.bernoulli(jax.random.key(5), chances, (rounds, 3)).astype(float)
        policy = functools.partial(ftrl.log_barrier, rate=np.sqrt(3 * np.log(rounds) / rounds), steps=10)
        keys = jax.random.split(jax.random.key(0), 24)
        return jnp.mean(jax.vmap(lambda key: adversarial.bandit_regret(key, table, policy)[-1])(keys))

    ratio = regret(4096) / regret(256)
    assert 2 < ratio < 6  # sqrt(16) = 4; linear growth would be 16

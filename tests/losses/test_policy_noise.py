"""Noise masks by policy gradient: the density, and the score function's expectation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import policy_noise
from prefjax.transforms import noise_masks
from tests.compiled import compile_losses

compile_losses(globals())


def test_loss_is_the_score_of_beta_distributions():
    a, b, m = np.array([[[2.0, 0.5]]]), np.array([[[3.0, 1.5]]]), np.array([[[0.3, 0.8]]])
    log_beta = [math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    density = ((a - 1) * np.log(m) + (b - 1) * np.log(1 - m)).ravel() - log_beta
    got = policy_noise.beta_noise_policy_gradient(a, b, m, np.array([-0.7]))
    np.testing.assert_allclose(got, [0.7 * density.sum()], rtol=1e-5)


def test_the_gradient_is_unbiased_with_any_baseline():
    """The claim: for R = m the mean is d/da a / (a + b) within 3 standard errors; a baseline lowers the variance."""
    a, b, draws = 2.0, 3.0, 20_000
    shape = (draws, 1, 1)
    masks = jax.jit(noise_masks.sample)(jax.random.key(0), np.full(shape, a), np.full(shape, b))
    assert np.all((masks >= 0) & (masks <= 1))

    @jax.jit
    def gradients(baseline):
        def loss(alphas):
            advantages = masks[:, 0, 0] - baseline
            return jnp.sum(policy_noise.beta_noise_policy_gradient(alphas, jnp.full(shape, b), masks, advantages))

        return -jax.grad(loss)(jnp.full(shape, a))[:, 0, 0]

    spreads = []
    for baseline in (0.0, a / (a + b)):
        found = np.asarray(gradients(baseline), np.float64)
        assert abs(found.mean() - b / (a + b) ** 2) < 3 * found.std() / np.sqrt(draws)
        spreads.append(found.std())
    assert spreads[1] < 0.8 * spreads[0]


def test_masks_and_images():
    masks = np.random.default_rng(0).random((2, 3, 3))
    masks[0] = 0
    images = np.ones((2, 6, 6, 3))
    sharp = noise_masks.apply(images, masks, patch=2, kernel=1)
    np.testing.assert_allclose(sharp[1, :, :, 2], np.kron(masks[1], np.ones((2, 2))), rtol=1e-6)
    assert not sharp[0].any()  # where the mask is 0 nothing is seen
    weights = np.exp(-0.5 * (np.arange(-1, 2) / 2.0) ** 2)
    mirrored = np.pad(masks, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (3, 3), axis=(1, 2))
    wanted = np.einsum("bhwij,i,j->bhw", windows, *[weights / weights.sum()] * 2)
    np.testing.assert_allclose(noise_masks.apply(images[:, :3, :3, 0], masks, kernel=3, sigma=2.0), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="patch=1"):
        noise_masks.apply(images, masks)
    with pytest.raises(ValueError, match="kernel=2"):
        noise_masks.apply(images, masks, patch=2, kernel=2)

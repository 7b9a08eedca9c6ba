"""Noise masks drawn from a Beta distribution a place, and images with the noise on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.ops import numerics


def sample(key: jax.Array, noise_alphas: jax.Array, noise_betas: jax.Array) -> jax.Array:
    """[B, H, W] masks in [0, 1] drawn from Beta(alpha, beta) at every place; no gradient flows.

    Reference: Yavuz, Yang, "Policy Gradient-Driven Noise Mask", 2024, arXiv:2406.14568.
    """
    drawn = jax.random.beta(key, numerics.as_float(noise_alphas), numerics.as_float(noise_betas))
    return jax.lax.stop_gradient(drawn)


def apply(
    key: jax.Array, images: jax.Array, noise_masks: jax.Array, *, scale: ArrayLike = 0.1, patch: int = 1
) -> jax.Array:
    """images + scale mask noise, with standard normal noise; a mask of patches is repeated over their pixels.

    Args:
      key: random key. images: [B, H, W] or [B, H, W, channels].
      noise_masks: [B, H / patch, W / patch] in [0, 1]. scale: >= 0. patch: pixels of a place's side.
    Returns: of the images' shape. Raises: ValueError if mask and images do not fit.
    Reference: Yavuz, Yang, "Policy Gradient-Driven Noise Mask", 2024, arXiv:2406.14568. Reconstructed: additive noise
      and its scale.
    """
    masks = jnp.repeat(jnp.repeat(numerics.as_float(noise_masks), patch, axis=1), patch, axis=2)
    images = numerics.as_float(images)
    if masks.shape != images.shape[:3]:
        raise ValueError(
            f"noise_masks of shape {list(jnp.shape(noise_masks))} with patch={patch} cover {list(masks.shape)}; "
            f"images have shape {list(images.shape)}"
        )
    masks = masks.reshape(masks.shape + (1,) * (images.ndim - 3))
    return images + scale * masks * jax.random.normal(key, images.shape, images.dtype)

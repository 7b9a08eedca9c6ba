"""Metrics of heads on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from prefjax.metrics import preference


def posterior_accuracy(chosen_posterior_scores: jax.Array, rejected_posterior_scores: jax.Array) -> jax.Array:
    """1 where chosen scores higher under the mean of the user's latent; a tie counts 0."""
    return preference.accuracy(chosen_posterior_scores, rejected_posterior_scores)


def posterior_margin(chosen_posterior_scores: jax.Array, rejected_posterior_scores: jax.Array) -> jax.Array:
    """Score of chosen less score of rejected, under the mean of the user's latent."""
    return preference.margin(chosen_posterior_scores, rejected_posterior_scores)


def latent() -> Mapping[str, Callable[..., jax.Array]]:
    """Metrics of a reward with a latent user; a report takes its pair accuracy from `rewards/margins`."""
    return {"accuracy": posterior_accuracy, "rewards/margins": posterior_margin}


def rating_error(chosen_attribute_scores: jax.Array, chosen_attribute_ratings: jax.Array) -> jax.Array:
    """Absolute error of the predicted ratings of the chosen response, mean over the attributes."""
    return jnp.mean(jnp.abs(chosen_attribute_scores - chosen_attribute_ratings), axis=-1)


def ratings() -> preference.Metrics:
    """Metrics of predicted ratings, one of which is the reward."""
    return {"rating_error": rating_error, **preference.REWARD_METRICS}

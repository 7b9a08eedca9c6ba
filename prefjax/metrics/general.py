"""What one watches of a preference model without scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from prefjax.metrics.preference import Metrics
from prefjax.ops import skew


def preference_scores(
    chosen_embeddings: jax.Array, rejected_embeddings: jax.Array, *, embedding_scales: jax.Array | None = None
) -> jax.Array:
    """[B] score of chosen over rejected, whose sign is the model's verdict."""
    return skew.product(chosen_embeddings, rejected_embeddings, embedding_scales)


def preference_accuracies(
    chosen_embeddings: jax.Array, rejected_embeddings: jax.Array, *, embedding_scales: jax.Array | None = None
) -> jax.Array:
    """1 where the model prefers the chosen response; a tie counts 0."""
    scores = preference_scores(chosen_embeddings, rejected_embeddings, embedding_scales=embedding_scales)
    return (scores > 0).astype(jnp.float32)


def preference_model() -> Metrics:
    """Metrics of a general preference model; rewards/margins is the score of the pair."""
    return {"rewards/margins": preference_scores, "accuracy": preference_accuracies}

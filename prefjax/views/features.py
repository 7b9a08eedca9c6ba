"""Views of heads on frozen features (`prefjax.rewards.heads`), from the batches of `prefjax.data.feature_sets`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from prefjax.rewards.heads import Batch, Head
from prefjax.views import Named

_INPUTS = ("features", "prompt_features", "context_features", "context_mask")


def _stored(batch: Batch) -> dict[str, Any]:
    return {name: x for name, x in batch.items() if name not in _INPUTS}


def pairs(params: Any, carry: Any, batch: Batch, key: jax.Array, *, model: Head) -> Named:
    """chosen_scores, rejected_scores [B]; each other output of the head with two responses likewise, the rest as it is.

    Args:
      params: the head's.
      carry: not read.
      batch: of a feature data set; its further arrays are given by name (users, margins, attribute_ratings, ...).
      key: for heads that draw.
      model: the head.
    """
    del carry
    given = model.named(params, batch, key)
    entries: dict[str, Any] = {}
    for name, thunk in given.items():
        once = functools.cache(thunk)
        if name.endswith("scores"):
            entries[f"chosen_{name}"] = _side(once, 0)
            entries[f"rejected_{name}"] = _side(once, 1)
        else:
            entries[name] = once
    return Named({**_stored(batch), **entries})


def _side(thunk: Callable[[], jax.Array], k: int) -> Callable[[], jax.Array]:
    return lambda: thunk()[:, k]


def ratings(params: Any, carry: Any, batch: Batch, key: jax.Array, *, model: Head) -> Named:
    """attribute_scores, attribute_ratings [2 B, A]: both responses of each pair as examples of their own.

    Raises:
      ValueError: the batch has no attribute_ratings.
    """
    del carry
    if "attribute_ratings" not in batch:
        raise ValueError("ratings: the batch has no attribute_ratings; this data was not rated")
    given = model.named(params, batch, key)
    return Named(
        {
            "attribute_scores": lambda: _flat(given["attribute_scores"]()),
            "attribute_ratings": _flat(batch["attribute_ratings"]),
            "example_mask": jnp.repeat(batch["example_mask"], 2),
            "example_ids": jnp.repeat(batch["example_ids"], 2),
        }
    )


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

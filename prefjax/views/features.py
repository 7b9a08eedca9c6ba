"""Views of heads on frozen features (`prefjax.rewards.heads`), from the batches of `prefjax.data.feature_sets`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from prefjax.rewards.heads import Batch, Head
from prefjax.views import Named

_INPUTS = ("features", "prompt_features", "context_features", "context_mask")


def _two_sided(name: str) -> bool:
    return name.endswith(("scores", "_ratings"))


def pairs(params: Any, carry: Any, batch: Batch, key: jax.Array, *, model: Head) -> Named:
    """chosen_scores, rejected_scores [B]; other scores of the head and the stored ratings likewise, the rest as it is.

    Args:
      params: the head's.
      carry: not read.
      batch: of a feature data set; its further arrays are given by name (users, margins, attribute_ratings, ...).
      key: for heads that draw.
      model: the head.
    """
    del carry
    given = {name: functools.cache(thunk) for name, thunk in model.named(params, batch, key).items()}
    stored = {name: x for name, x in batch.items() if name not in _INPUTS}
    entries: dict[str, Any] = {name: x for name, x in {**stored, **given}.items() if not _two_sided(name)}
    for k, side in enumerate(("chosen", "rejected")):
        entries |= {f"{side}_{name}": _side(thunk, k) for name, thunk in given.items() if _two_sided(name)}
        entries |= {f"{side}_{name}": x[:, k] for name, x in stored.items() if _two_sided(name)}
    return Named(entries)


def _side(thunk: Callable[[], jax.Array], k: int) -> Callable[[], jax.Array]:
    return lambda: thunk()[:, k]

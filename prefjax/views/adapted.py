"""Views of a decoder with adapters (`prefjax.models.lora`): any view of language, its reference the adapters off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from prefjax.models import lora
from prefjax.views import Named, layout


def adapted(
    params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: lora.LoraModel, inner: Callable[..., Named]
) -> Named:
    """What `inner` gives, with the carried base and its adapters as parameters and the base alone as reference.

    Args:
      params: adapters, and heads that are trained whole.
      carry: `base` holds the frozen parameters, of which there is one copy.
      batch, key: of `inner`.
      model: of `lora.adapted`.
      inner: a view of language models, such as `views.language.pairs`.
    """
    whole = model.whole(params, carry)
    return inner(whole, {**carry, "reference": carry[lora.BASE]}, batch, key, model=model)

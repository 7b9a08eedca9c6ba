"""The view of sampled responses: every response of a batch a row [B, T], with what its sampling stored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prefjax.models.decoder import LanguageModel
from prefjax.views import Named, layout, tokens

TOKENS = "old_token_logps"
"""The stored field that says how many tokens T a response may have."""


def rollouts(params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: LanguageModel) -> Named:
    """token_logps, token_mask [B, T], logps, lengths [B] of all responses, ref_ forms, values, the fields as stored.

    B counts responses, the K of a prompt in a row, so that b // K is the group. A stored number a response that is
    named `advantages` counts for each of its tokens.

    Args:
      params: the policy's parameters; `values` reads the score head's first output.
      carry: `reference` holds the reference's parameters; not read when the batch stores `ref_token_logps`.
      batch: stores old_token_logps [E, S, K, T], and other fields [E, S], [E, S, K] or [E, S, K, T].
      key: not used.
      model: the language model.
    """
    del key
    stored = layout.fields(batch)
    groups, size, length = stored[TOKENS].shape

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(groups * size, *x.shape[2:])

    def per_token(values: jax.Array) -> jax.Array:
        return flat(layout.response_tokens(values, batch, length)[0])

    @functools.cache
    def states() -> jax.Array:
        return tokens.row_states(model, params, batch, layout.inside(batch))

    heads: dict[str, jax.Array] = {}

    def stats(name: str) -> jax.Array:
        if name not in heads:  # the log-probs come with any other
            wanted = {name} - {"logps"}
            heads.update(tokens.row_stats(model, params, batch, states(), layout.inside(batch), *wanted))
        return per_token(heads[name])

    @functools.cache
    def mask() -> jax.Array:
        return flat(layout.response_tokens(jnp.ones(batch["tokens"].shape), batch, length)[1])

    def spread(x: jax.Array) -> jax.Array:
        return x if x.ndim == 2 else jnp.where(mask(), x[:, None], 0)

    entries: dict[str, Any] = {}
    for name, x in stored.items():
        if name == "advantages":
            entries[name] = functools.partial(spread, flat(x))
        elif x.ndim > 1 and name != "response_mask":
            entries[name] = flat(x)
        elif x.ndim == 1:
            entries[name] = jnp.repeat(x, size, axis=0)
    entries["example_mask"] = entries["example_mask"] & flat(stored["response_mask"])
    entries["token_mask"] = entries["action_mask"] = mask
    entries["lengths"] = lambda: jnp.sum(mask(), axis=1)
    entries["token_entropies"] = functools.partial(stats, "entropy")
    entries["token_logps"] = functools.partial(stats, "logps")
    entries["logps"] = lambda: jnp.sum(named["token_logps"], axis=1)
    entries["values"] = lambda: per_token(model.scores(params, states())[..., 0])
    if "reference" in (carry or {}):
        entries |= _against(model, params, jax.lax.stop_gradient(carry["reference"]), batch, states, per_token, entries)
    if "ref_token_logps" in entries:
        entries["ref_logps"] = lambda: jnp.sum(named["ref_token_logps"], axis=1)
    entries["old_logps"] = lambda: jnp.sum(named[TOKENS], axis=1)
    named = Named(entries)
    return named


def _against(
    model: LanguageModel,
    params: Any,
    reference: Any,
    batch: layout.Batch,
    states: Callable[[], jax.Array],
    per_token: Callable[[jax.Array], jax.Array],
    stored: Mapping[str, Any],
) -> dict[str, Any]:
    """ref_token_logps, unless stored, and token_kls: exact KL(policy || reference) of the next token."""
    where = layout.inside(batch)
    ref_states = functools.cache(lambda: tokens.row_states(model, reference, batch, where))

    def kls() -> jax.Array:
        heads = model.unembed(reference), model.unembed(params)
        return per_token(tokens.head_kls(*heads, ref_states(), states(), where))

    found: dict[str, Any] = {"token_kls": kls}
    if "ref_token_logps" not in stored:
        found["ref_token_logps"] = lambda: per_token(
            tokens.row_stats(model, reference, batch, ref_states(), where)["logps"]
        )
    return found

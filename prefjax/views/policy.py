"""The view of sampled responses: every response of a batch a row [B, T], with what its sampling stored."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from prefjax.models.decoder import LanguageModel
from prefjax.ops import logprobs
from prefjax.views import Named, layout

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
        return _states(model, params, batch)

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
    entries["token_logps"] = lambda: per_token(_logps(model, params, batch, states()))
    entries["logps"] = lambda: jnp.sum(named["token_logps"], axis=1)
    entries["token_entropies"] = lambda: per_token(_stats(model, params, batch, states(), "entropy")["entropy"])
    entries["values"] = lambda: per_token(model.scores(params, states())[..., 0])
    if "ref_token_logps" not in stored and "reference" in (carry or {}):
        reference = jax.lax.stop_gradient(carry["reference"])
        entries["ref_token_logps"] = lambda: per_token(
            _logps(model, reference, batch, _states(model, reference, batch))
        )
    if "ref_token_logps" in entries:
        entries["ref_logps"] = lambda: jnp.sum(named["ref_token_logps"], axis=1)
    entries["old_logps"] = lambda: jnp.sum(named[TOKENS], axis=1)
    named = Named(entries)
    return named


def _states(model: LanguageModel, params: Any, batch: layout.Batch) -> jax.Array:
    """[R, T, D] the state that each token is chosen in."""
    hidden = model.hidden(params, *(batch[name] for name in layout.TOKEN_FIELDS))
    return jnp.take_along_axis(hidden, layout.predictors(batch)[..., None], axis=1)


def _stats(
    model: LanguageModel, params: Any, batch: layout.Batch, states: jax.Array, *stats: str
) -> dict[str, jax.Array]:
    """{"logps" and each of `stats`: [R, T]}, nats; what is no response is left to who reads it."""
    head = model.unembed(params)
    found = logprobs.token_stats(
        states.reshape(-1, states.shape[-1]),
        head.kernel,
        batch["tokens"].reshape(-1),
        bias=head.bias,
        softcap=head.softcap,
        stats=stats,
    )
    return {name: value.reshape(batch["tokens"].shape) for name, value in found.items()}


def _logps(model: LanguageModel, params: Any, batch: layout.Batch, states: jax.Array) -> jax.Array:
    return _stats(model, params, batch, states)["logps"]

"""What a language model says about each token of a batch: [R, T] log-probs, statistics of the vocabulary, exact KLs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from prefjax.models import placement
from prefjax.models.decoder import LanguageModel, Unembed
from prefjax.ops import logprobs
from prefjax.ops.token_kls import token_kls
from prefjax.views import layout


def row_states(model: LanguageModel, params: Any, batch: layout.Batch, where: jax.Array | None = None) -> jax.Array:
    """[R, T, D] the state that predicts each token; of those that `where` [R, T] holds alone, others are anything."""
    # A model of one's own may know no `where`
    asked: dict[str, jax.Array] = {}
    if where is not None and isinstance(model, LanguageModel):
        asked["where"] = layout.predicting(batch, where)
    hidden = model.hidden(params, *(batch[name] for name in layout.TOKEN_FIELDS), **asked)
    return placement.taken(hidden, layout.predictors(batch), layout.prompt_ends(batch), batch["segments"])


def row_layers(model: LanguageModel, params: Any, batch: layout.Batch) -> jax.Array:
    """[R, L, T, D] the residual stream after each layer, of the positions that predict each token."""
    layers = range(1, model.config.num_layers + 1)
    _, early = model.hidden(params, *(batch[name] for name in layout.TOKEN_FIELDS), exits=layers)
    return jnp.moveaxis(jnp.take_along_axis(early, layout.predictors(batch)[None, ..., None], axis=2), 0, 1)


def row_stats(
    model: LanguageModel, params: Any, batch: layout.Batch, states: jax.Array, where: jax.Array, *stats: str
) -> dict[str, jax.Array]:
    """{"logps" and each of `stats`: [R, T]} of the tokens that `where` [R, T] holds, else 0; see `ops.logprobs`."""
    head = model.unembed(params)
    parts = placement.token_parts(*states.shape[:2])

    def of_rows(head: Unembed, *rows: jax.Array) -> dict[str, jax.Array]:
        states, targets, where = rows
        return logprobs.row_stats(
            states, head.kernel, targets, where, bias=head.bias, softcap=head.softcap, parts=parts, stats=stats
        )

    return placement.by_token(of_rows, head, states, batch["tokens"], where)


def row_baselines(model: LanguageModel, params: Any, batch: layout.Batch, states: jax.Array) -> jax.Array:
    """[R, T] log sum_v p_v^2: the log of the mean probability of a token that the policy itself would draw; stopped."""
    params, states, where = *jax.lax.stop_gradient((params, states)), layout.scored(batch)
    sums = row_stats(model, params, batch, states, where, "sum_sq")["sum_sq"]
    return jnp.where(where, jnp.log(jnp.maximum(sums, 1e-30)), 0)


def row_kls(
    model: LanguageModel, params: Any, reference: Any, batch: layout.Batch, states: jax.Array, ref_states: jax.Array
) -> jax.Array:
    """[R, T] exact KL(reference || policy) of the next token where a response's token stands, nats; else 0."""
    return head_kls(model.unembed(params), model.unembed(reference), states, ref_states, layout.scored(batch))


def head_kls(
    head: Unembed, ref_head: Unembed, states: jax.Array, ref_states: jax.Array, where: jax.Array | None = None
) -> jax.Array:
    """[R, T] `ops.token_kls` of rows of states [R, T, D]: KL(ref || policy), nats; 0 where `where` is False."""
    parts = placement.token_parts(*states.shape[:2])

    def of_rows(heads: tuple[Unembed, Unembed], *rows: jax.Array) -> jax.Array:
        own, ref = heads
        kls = token_kls(
            rows[0].reshape(-1, rows[0].shape[-1]),
            rows[1].reshape(-1, rows[1].shape[-1]),
            own.kernel,
            ref.kernel,
            bias=own.bias,
            ref_bias=ref.bias,
            softcap=own.softcap,
            parts=parts,
            where=None if where is None else rows[2].reshape(-1),
        )
        return kls.reshape(rows[0].shape[:2])

    return placement.by_token(of_rows, (head, ref_head), states, ref_states, *(() if where is None else (where,)))

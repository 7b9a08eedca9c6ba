"""Views of reward models: scores, ratings and embeddings read at the last token of each response."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prefjax.models.decoder import LanguageModel
from prefjax.views import Named, layout, roles

Stacks = Mapping[str, tuple[str, ...]] | None


def outputs(model: Any) -> int:
    """How many numbers the model's score head gives; 0 without one."""
    return int(getattr(getattr(model, "config", None), "outputs", 0) or 0)


def response_states(params: Any, batch: layout.Batch, model: LanguageModel) -> jax.Array:
    """[B, K, D] the state at each response's last token."""
    # A model of one's own may know no `where`
    asked = {"where": layout.last_tokens(batch)} if isinstance(model, LanguageModel) else {}
    return layout.last_states(model.hidden(params, *(batch[name] for name in layout.TOKEN_FIELDS), **asked), batch)


def response_scores(params: Any, batch: layout.Batch, model: LanguageModel) -> jax.Array:
    """[B, K], or [B, K, outputs] of a head of several, scores at each response's last token."""
    scores = model.scores(params, response_states(params, batch, model))
    return scores[..., 0] if scores.shape[-1] == 1 else scores


def scored_pairs(
    params: Any,
    carry: Any,
    batch: layout.Batch,
    key: jax.Array,
    *,
    model: LanguageModel,
    parts: Mapping[str, int] | None = None,
    stacks: Stacks = None,
) -> Named:
    """chosen_scores, rejected_scores [B] (or [B, outputs]) of a reward model, with lengths and the batch's fields.

    Args:
      params: holds the score head. carry, key: not used.
      batch, parts, stacks: as in `language.pairs`; `parts` names other roles, such as {"first": 0, "second": 1}.
      model: a model with a score head.
    """
    del carry, key
    cast = dict(roles.PAIR if parts is None else parts)
    scores = functools.cache(lambda: response_scores(params, batch, model))
    entries = roles.of_batch(batch, cast) | roles.named({"scores": scores}, cast)
    return Named(entries | _integers(batch) | roles.stacked(batch, cast, stacks) | _learned_arrays(params))


def scored_lists(params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: LanguageModel) -> Named:
    """scores [B, K], list_mask, list_lengths of a reward model over K responses; list_labels as stored.

    Where a response is the solution up to a step, read as step_scores, step_mask and step_labels (the list_labels).
    """
    del carry, key
    scores = functools.cache(lambda: response_scores(params, batch, model))
    entries = roles.of_batch(batch, roles.LIST)
    entries |= {"scores": scores, "step_scores": scores, "step_mask": entries["list_mask"]}
    if "list_labels" in entries:
        entries["step_labels"] = entries["list_labels"]
    return Named(entries)


def scored_responses(
    params: Any,
    carry: Any,
    batch: layout.Batch,
    key: jax.Array,
    *,
    model: LanguageModel,
    stacks: Stacks = None,
) -> Named:
    """scores [B] of single responses, or attribute_scores [B, outputs] of a head of several; fields as stored."""
    del carry, key
    scores = functools.cache(lambda: response_scores(params, batch, model)[:, 0])
    entries = roles.of_batch(batch, {"": 0}) | {"attribute_scores" if outputs(model) > 1 else "scores": scores}
    return Named(entries | roles.stacked(batch, {"": 0}, stacks))


def siblings(params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: LanguageModel) -> Named:
    """chosen_step_scores, rejected_step_scores [B, 1]: a pair of sibling steps, each the end of its response."""
    named = scored_pairs(params, carry, batch, key, model=model)
    steps = {f"{role}_step_scores": lambda role=role: named[f"{role}_scores"][:, None] for role in roles.PAIR}
    return Named({**{name: functools.partial(named.__getitem__, name) for name in named}, **steps})


def segments(params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: LanguageModel) -> Named:
    """Responses as segments of behaviour: a reward, and a value, of every token.

    chosen_rewards, rejected_rewards [B, T] are the head's first output at each token; chosen_advantages and
    rejected_advantages its non-positive form -softplus. With a second output, the value: start values at the prompt's
    end, and end values, which are 0 since a whole response ends its episode.
    """
    del carry, key
    cast = dict(roles.PAIR)

    @functools.cache
    def heads() -> jax.Array:
        return model.scores(params, model.hidden(params, *(batch[name] for name in layout.TOKEN_FIELDS)))

    rewards = functools.cache(lambda: jnp.where(layout.scored(batch), heads()[..., 0], 0))
    arrays = {
        "rewards": lambda: layout.response_tokens(rewards(), batch)[0],
        "advantages": lambda: layout.response_tokens(-jax.nn.softplus(rewards()), batch)[0],
    }
    if outputs(model) > 1:

        @functools.cache
        def starts() -> jax.Array:
            before = jnp.take_along_axis(heads()[..., 1], layout.predictors(batch), axis=1)
            return layout.response_tokens(before, batch)[0][..., 0]

        arrays |= {"start_values": starts, "end_values": lambda: jnp.zeros_like(starts())}
    return Named(roles.of_batch(batch, cast) | roles.named(arrays, cast))


def classified_pairs(
    params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: LanguageModel, classes: int
) -> Named:
    """first_logits, second_logits [B, classes], and the head's other outputs as first_ and second_head_scores [B, H].

    `targets` and `chosen_degrees`, `rejected_degrees` are given as integers where the batch stores them.
    """
    del carry, key
    cast = {"first": 0, "second": 1}
    scores = functools.cache(lambda: response_scores(params, batch, model))
    arrays = {"logits": lambda: scores()[..., :classes], "head_scores": lambda: scores()[..., classes:]}
    return Named(roles.of_batch(batch, cast) | roles.named(arrays, cast) | _integers(batch))


def degrees(params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: LanguageModel) -> Named:
    """chosen_degree_logits, rejected_degree_logits [B, outputs] of the third and fourth response, the thinned ones."""
    del carry, key
    cast = {"chosen": 2, "rejected": 3}
    scores = functools.cache(lambda: response_scores(params, batch, model))
    return Named(roles.of_batch(batch, cast) | roles.named({"degree_logits": scores}, cast) | _integers(batch))


def _integers(batch: layout.Batch) -> roles.Entries:
    """Fields that count classes, which batches store as numbers."""
    fields = layout.fields(batch)
    names = ("targets", "chosen_degrees", "rejected_degrees", "preference_levels")
    return {name: lambda name=name: jnp.round(fields[name]).astype(jnp.int32) for name in names if name in fields}


def _learned_arrays(params: Any) -> roles.Entries:
    """Plain arrays among what a config learns beside the model (params["learned"]), under their names."""
    learned = params.get("learned", {}) if isinstance(params, Mapping) else {}
    return {name: value for name, value in learned.items() if not isinstance(value, Mapping)}

"""Views of language models: log-probs of responses, from the one token layout."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax

from prefjax.models.decoder import LanguageModel
from prefjax.views import Named, layout, rewards, roles, tokens
from prefjax.views.rewards import scored_lists as scored_lists
from prefjax.views.rewards import scored_pairs as scored_pairs


def row_logps(model: LanguageModel, params: Any, batch: layout.Batch, states: jax.Array | None = None) -> jax.Array:
    """[R, T] log-prob in nats of each response token given what it may see; 0 for prompt, context and padding.

    Args:
      states: [R, T, D] of `tokens.row_states`, where they are at hand.
    """
    where = layout.scored(batch)
    states = tokens.row_states(model, params, batch, where) if states is None else states
    return tokens.row_stats(model, params, batch, states, where)["logps"]


def _responses(model: LanguageModel, params: Any, batch: layout.Batch, prefix: str = "") -> dict[str, Any]:
    """Lazy [B, K] and [B, K, T] arrays of one model; one forward pass serves all, `states` being its last states.

    Without log-probs of prompts, which therefore come first, the prompts' last states are not made.
    """
    whole = functools.cache(lambda: tokens.row_states(model, params, batch))

    @functools.cache
    def states() -> jax.Array:
        made = whole.cache_info().currsize
        return whole() if made else tokens.row_states(model, params, batch, layout.scored(batch))

    def before() -> jax.Array:
        rest = (batch["segments"] > 0) & ~layout.scored(batch)
        return layout.prompt_sums(tokens.row_stats(model, params, batch, whole(), rest)["logps"], batch)

    rows = functools.cache(lambda: row_logps(model, params, batch, states()))
    return {
        f"{prefix}prompt_logps": before,
        "states": states,
        f"{prefix}logps": lambda: layout.response_sums(rows(), batch),
        f"{prefix}token_logps": lambda: layout.response_tokens(rows(), batch)[0],
    }


def policy_arrays(params: Any, carry: Any, batch: layout.Batch, model: LanguageModel) -> dict[str, Any]:
    """{name: () -> [B, K, ...]} of policy and reference, for `roles.named`.

    The reference is the batch's stored `ref_logps` where there are any, else carry["reference"], whose gradient is
    stopped; with neither there are no `ref_` arrays, and without its parameters no KLs.
    """
    arrays = _responses(model, params, batch)
    states = arrays.pop("states")
    arrays["token_baselines"] = lambda: layout.response_tokens(
        tokens.row_baselines(model, params, batch, states()), batch
    )[0]
    if "ref_logps" in batch:
        arrays["ref_logps"] = lambda: layout.fields(batch)["ref_logps"]
    elif "reference" in (carry or {}):
        reference = jax.lax.stop_gradient(carry["reference"])
        theirs = _responses(model, reference, batch, "ref_")
        ref_states = theirs.pop("states")
        kls = functools.cache(lambda: tokens.row_kls(model, params, reference, batch, states(), ref_states()))
        arrays |= theirs
        arrays["kls"] = lambda: layout.response_sums(kls(), batch)
        arrays["token_kls"] = lambda: layout.response_tokens(kls(), batch)[0]
    return arrays


def pairs(
    params: Any,
    carry: Any,
    batch: layout.Batch,
    key: jax.Array,
    *,
    model: LanguageModel,
    parts: Mapping[str, int] | None = None,
    stacks: Mapping[str, tuple[str, ...]] | None = None,
    constants: Mapping[str, tuple[float, ...]] | None = None,
    scores: bool = False,
) -> Named:
    """chosen_ and rejected_ logps, token_logps, prompt_logps, lengths, masks, step masks, KLs, with ref_ forms.

    Args:
      params: the policy's parameters.
      carry: `reference` holds the reference's parameters; not read when the batch stores `ref_logps` [E, S, K].
      batch: the chosen response first, then the rejected one; its further fields are given by name.
      key: not used.
      model: the language model.
      parts: {role: response} of examples with more responses, {"chosen": 0, "rejected": 1, "improved": 2, ...}; each
        role has the arrays above under its name. None is chosen and rejected.
      stacks: {name: fields}, [B, F] of a response's fields by role, such as chosen_margin_rewards.
      constants: {name: numbers}, arrays that the config fixes, such as margin_weights.
      scores: whether the model's score head gives chosen_scores and rejected_scores as well.
    """
    del key
    cast = dict(roles.PAIR if parts is None else parts)
    arrays = policy_arrays(params, carry, batch, model)
    if scores:
        arrays["scores"] = functools.cache(lambda: rewards.response_scores(params, batch, model))
    entries = roles.named(arrays, cast) | roles.of_batch(batch, cast)
    return Named(entries | roles.stacked(batch, cast, stacks) | roles.constants(constants) | roles.carried(carry))


def responses(
    params: Any,
    carry: Any,
    batch: layout.Batch,
    key: jax.Array,
    *,
    model: LanguageModel,
    stacks: Mapping[str, tuple[str, ...]] | None = None,
    target_beta: float | None = None,
    target_reward: str = "gold",
) -> Named:
    """logps, token_logps, token_mask, lengths of the first response, with ref_ forms: supervised or unpaired data.

    Where examples have a second response it is a mismatched one, and its log-probs are `kl_logps` (KTO's baseline).
    A running mean in the carry is given by its name, as a scalar.

    Args:
      params, carry, batch, key, model, stacks: as in `pairs`.
      target_beta: gives `target_logps` = ref_logps + reward / target_beta, the unnormalised optimum of RLHF, and
        `proposal_logps` = ref_logps, for responses drawn from the reference.
      target_reward: the batch's field that is the reward.
    """
    del key
    arrays = policy_arrays(params, carry, batch, model)
    entries = roles.named(arrays, {"": 0}) | roles.of_batch(batch, {"": 0}) | roles.stacked(batch, {"": 0}, stacks)
    entries |= roles.carried(carry)
    if batch["response_mask"].shape[-1] > 1:
        second = {name: arrays[name] for name in ("logps", "ref_logps") if name in arrays}
        entries |= roles.named(second, {"kl": 1})
    if target_beta is not None and "ref_logps" in arrays:
        if target_reward not in batch:
            has = ", ".join(layout.fields(batch))
            raise ValueError(f"target_beta needs the field {target_reward!r}; the batch has {has}")
        found = layout.fields(batch)[target_reward]
        reward = found if found.ndim == 1 else found[:, 0]
        entries["proposal_logps"] = lambda: arrays["ref_logps"]()[:, 0]
        entries["target_logps"] = lambda: arrays["ref_logps"]()[:, 0] + reward / target_beta
    return Named(entries)


def lists(params: Any, carry: Any, batch: layout.Batch, key: jax.Array, *, model: LanguageModel) -> Named:
    """list_logps, list_token_logps and so on of all K responses, with ref_ forms; list_labels as the batch stores them.

    list_mask [B, K] says which responses exist, list_token_mask [B, K, T] which tokens.
    """
    del key
    entries = roles.named(policy_arrays(params, carry, batch, model), roles.LIST)
    return Named(entries | roles.of_batch(batch, roles.LIST))

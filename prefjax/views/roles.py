"""From arrays of K responses to names: response k plays a role, and its arrays carry the role's name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prefjax.ops.masked import Mean
from prefjax.transforms.edits import suffix_masks
from prefjax.views import layout

PAIR: Mapping[str, int] = {"chosen": 0, "rejected": 1}
# Of a batch's own fields these are for the views alone.
HIDDEN = ("ref_logps", "response_mask", layout.CONTEXT)
# What [B, K] and [B, K, T] arrays are called where they stay lists.
LIST = "list"

Entries = dict[str, Callable[[], Any] | Any]


def label(role: str, name: str) -> str:
    """An array's name in a role: ("chosen", "ref_logps") is "ref_chosen_logps"."""
    before, bare = ("ref_", name.removeprefix("ref_")) if name.startswith("ref_") else ("", name)
    return f"{before}{role}_{bare}" if role else name


def named(arrays: Mapping[str, Callable[[], Any]], roles: Mapping[str, int] | str) -> Entries:
    """Lazy entries for each role.

    Args:
      arrays: {name: () -> [B, K, ...]}; a name that starts with "ref_" keeps that in front of the role.
      roles: {role: k}, giving `<role>_<name>` of response k ("" gives the bare name); or one prefix for whole lists.
    """
    if isinstance(roles, str):
        return {label(roles, name): array for name, array in arrays.items()}
    return {
        label(role, name): lambda array=array, k=k: array()[:, k]
        for role, k in roles.items()
        for name, array in arrays.items()
    }


def of_batch(batch: layout.Batch, roles: Mapping[str, int] | str) -> Entries:
    """What the batch alone tells: lengths and masks by role, its fields by name, those of each response by role too.

    For the roles "chosen" and "rejected" also `chosen_step_mask` and `rejected_step_mask`: the tokens from the first
    at which the two responses differ, which is the step that siblings are compared by.
    """
    sizes = functools.cache(lambda: layout.lengths(batch))
    masks = functools.cache(lambda: layout.response_tokens(layout.scored(batch).astype(jnp.int32), batch)[0] > 0)
    stored = {name: x for name, x in layout.fields(batch).items() if name not in HIDDEN}
    many = {name: x for name, x in stored.items() if x.ndim == 2}
    entries: Entries = dict(stored)
    if not isinstance(roles, str):
        entries |= named({name: lambda x=x: x for name, x in many.items()}, roles)
    mask_name = "token_mask" if isinstance(roles, str) or "" in roles else "mask"
    entries |= named({"lengths": sizes, mask_name: masks}, roles)
    if isinstance(roles, str):
        entries[f"{roles}_mask"] = layout.fields(batch)["response_mask"]
    elif {"chosen", "rejected"} <= set(roles):
        entries |= _step_masks(batch, masks, roles["chosen"], roles["rejected"])
    return entries


def _step_masks(batch: layout.Batch, masks: Callable[[], jax.Array], chosen: int, rejected: int) -> Entries:
    @functools.cache
    def both() -> tuple[jax.Array, jax.Array]:
        tokens, _ = layout.response_tokens(batch["tokens"], batch)
        return suffix_masks(tokens[:, chosen], tokens[:, rejected], masks()[:, chosen], masks()[:, rejected])

    return {"chosen_step_mask": lambda: both()[0], "rejected_step_mask": lambda: both()[1]}


def stacked(
    batch: layout.Batch, roles: Mapping[str, int] | str, stacks: Mapping[str, tuple[str, ...]] | None
) -> Entries:
    """{name: fields} -> [B, K, F] of those fields of each response, by role; a field of the example serves all.

    Raises:
      ValueError: the batch has no such field.
    """
    fields = layout.fields(batch)
    for name, parts in (stacks or {}).items():
        for part in parts:
            if part not in fields:
                raise ValueError(f"{name} is made of {', '.join(parts)}; the batch has {', '.join(fields)}")
    count = batch["response_mask"].shape[-1]

    def stack(parts: tuple[str, ...]) -> jax.Array:
        found = [fields[part] for part in parts]
        return jnp.stack([jnp.broadcast_to(x if x.ndim == 2 else x[:, None], (len(x), count)) for x in found], axis=-1)

    return named({name: lambda parts=parts: stack(tuple(parts)) for name, parts in (stacks or {}).items()}, roles)


def constants(values: Mapping[str, tuple[float, ...]] | None) -> Entries:
    """{name: numbers} -> arrays, for what a config fixes and a loss takes as an array."""
    return {name: jnp.asarray(tuple(numbers), jnp.float32) for name, numbers in (values or {}).items()}


def carried(carry: Any) -> Entries:
    """Running means of the carry, {name: scalar}; their gradient is stopped."""
    means = {name: value for name, value in (carry or {}).items() if isinstance(value, Mean)}
    return {name: lambda mean=mean: jax.lax.stop_gradient(mean.value) for name, mean in means.items()}

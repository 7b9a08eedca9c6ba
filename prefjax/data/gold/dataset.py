"""The gold world as a `Dataset`: what a config names when it wants to train on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefjax.config import did_you_mean
from prefjax.data import pipeline, tokenization
from prefjax.data.gold import solutions, vocab
from prefjax.data.gold import world as worlds

# What kind of records each function of the world makes, by the name that a config gives.
KINDS: dict[str, tuple[str, Callable[..., list[worlds.Record]]]] = {
    "sft": ("sft", worlds.sft),
    "pairs": ("pairs", worlds.pairs),
    "cycles": ("pairs", worlds.cycles),
    "siblings": ("pairs", solutions.siblings),
    "lists": ("lists", worlds.lists),
    "prefixes": ("lists", solutions.prefixes),
    "unpaired": ("unpaired", worlds.unpaired),
    "prompts": ("prompts", worlds.prompts),
}
OWN = ("size", "seed", "start", "split")


def dataset(
    *,
    kind: str = "pairs",
    size: int = 4000,
    eval_size: int = 256,
    seed: int = 0,
    world: Mapping[str, Any] | None = None,
    mismatched: bool = False,
    rewrite: pipeline.Rewrite | None = None,
    derive: pipeline.Derive | None = None,
    layout: str = "shared",
    rows: int = 16,
    row_length: int = 128,
    slots: int | None = None,
    responses: int | None = None,
    buckets: Sequence[int] = (),
) -> pipeline.Dataset:
    """Records of the gold world, with held-out prompts that no training record has.

    Args:
      kind: "sft", "pairs", "cycles" (pairs that no scores fit), "siblings" (pairs that part at a step), "lists",
        "prefixes" (solutions up to each step), "unpaired" or "prompts".
      size, eval_size: training and held-out records; of cycles, multiples of 3 keep the triples whole.
      seed: of the world and of the shuffle.
      world: options of the world's function of that name (noise, annotators, tasks, length, ...); see
        `prefjax.data.gold.world`.
      rewrite, derive: see `prefjax.data.pipeline.from_records`.
      mismatched: see `prefjax.data.pipeline.from_records`.
      layout, rows, row_length, slots, responses, buckets: see `prefjax.data.packing.Layout`.

    Raises:
      ValueError: an unknown kind or option (with a did-you-mean).
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; {did_you_mean(kind, KINDS)}")
    made, make = KINDS[kind]
    options = dict(world or {})
    allowed = [name for name in inspect.signature(make).parameters if name not in OWN]
    for name in options:
        if name not in allowed:
            raise ValueError(f"world.{name} is no option of the gold world's {kind}; {did_you_mean(name, allowed)}")
    return pipeline.from_records(
        make(size=size, seed=seed, split="train", **options),
        eval_records=make(size=eval_size, start=size, seed=seed, split="heldout", **options) if eval_size else (),
        kind=made,
        rewrite=rewrite,
        derive=derive,
        mismatched=mismatched,
        tokenizer=tokenization.wrap(vocab.tokenizer(), eos_token="<eos>", bos_token="<bos>", where="gold world"),
        layout=layout,
        rows=rows,
        row_length=row_length,
        slots=slots,
        responses=responses,
        buckets=buckets,
        eval_fraction=0.0,
        seed=seed,
        about=f"gold world {kind}, seed {seed}",
    )

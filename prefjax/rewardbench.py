"""A run on a file in RewardBench's format: read, score each response once, and report by subset and section.

RewardBench 1 has rows {prompt, chosen, rejected, subset}, with one response on each side; RewardBench 2 has lists of
responses on both sides, and pairs of prompts "tied:<n>" and "ref:<n>" in its subset Ties.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prefjax import evaluation, mesh, train
from prefjax.config import did_you_mean
from prefjax.data import pipeline, sources
from prefjax.data.sources import RowError
from prefjax.metrics import rewardbench
from prefjax.metrics.rewardbench import Results, TiedPrompt
from prefjax.models import lora
from prefjax.views import language

TIES = "Ties"
REWARDS = ("auto", "scores", "implicit")


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt (text or messages) with right and wrong responses."""

    id: str
    subset: str
    prompt: Any
    right: list[str]
    wrong: list[str]
    source: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What came out: Results, the number of examples by subset, exact ties, and RewardBench 2's score of Ties."""

    results: Results
    counts: dict[str, int]
    level: int
    version: int
    ties: dict[str, float] | None = None


def read(path: str | Sequence[str], *, limit: int | None = None) -> tuple[list[Example], int]:
    """Examples of files (JSONL, JSON, Parquet, ...) and which version of RewardBench they are.

    Args:
      path: see `prefjax.data.sources.expand`.
      limit: read at most this many rows; None reads all.

    Raises:
      RowError: a row without prompt, chosen, rejected or subset, naming file, line and field.
      ValueError: rows of both versions.
    """
    found: list[Example] = []
    lists: set[bool] = set()
    for file in sources.expand(path):
        for where, row in sources.read(file):
            if limit is not None and len(found) >= limit:
                break
            for name in ("prompt", "chosen", "rejected", "subset"):
                if row.get(name) is None:
                    hint = did_you_mean(name, row)
                    raise RowError(where, "missing field", f"field {name!r} of RewardBench's format; {hint}")
            sides = [_responses(where, name, row[name]) for name in ("chosen", "rejected")]
            lists.add(not isinstance(row["chosen"], str))
            name = str(row.get("id", len(found)))
            found.append(Example(name, str(row["subset"]), row["prompt"], sides[0], sides[1], where))
    if len(lists) > 1:
        raise ValueError(f"{path}: 'chosen' is text in some rows (version 1) and a list in others (version 2)")
    return found, 2 if lists == {True} else 1


def _responses(where: str, name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence) and value and all(isinstance(one, str) for one in value):
        return list(value)
    raise RowError(where, "wrong type", f"field {name!r}: expected text or a list of texts, got {value!r:.60}")


def scores(
    run: Any,
    examples: Sequence[Example],
    *,
    rows: int = 8,
    row_length: int | None = None,
    reward: str = "auto",
    chat_template: str | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(scores of the right responses, of the wrong ones) of each example; the same for any `rows`.

    Args:
      run: a `prefjax.loop.Run` of a language model.
      examples: of `read`.
      rows: responses a device call.
      row_length: tokens of prompt and response, longer ones are cut (and counted); None is the run's.
      reward: "scores" of a reward head, "implicit" (log-ratio to the reference it carries), or "auto": what it has.
      chat_template: of conversations; None is the tokenizer's.

    Raises:
      ValueError: a run that is no language model, or has neither a reward head nor a reference.
    """
    data = run.dataset
    if getattr(data, "tokenizer", None) is None:
        raise ValueError(f"{run.config.name} is no run of a language model: its data has no tokenizer")
    if reward not in REWARDS:
        raise ValueError(f"reward={reward!r} is unknown; {did_you_mean(reward, REWARDS)}")
    headed = bool(getattr(run.model.config, "outputs", 0))
    if reward == "auto":
        reward = "scores" if headed else "implicit"
    if reward == "scores" and not headed:
        raise ValueError("reward='scores': this model has no reward head")
    reference = lora.reference(run.model, run.state.carry)
    if reward == "implicit" and reference is None:
        raise ValueError("reward='implicit': the run carries no reference, and its model has no reward head")
    # A run trained on conversations reads conversations
    chat = bool(data.records) and not isinstance(data.records[0]["prompt"], str)
    flat = [
        {
            "id": number,
            "prompt": [{"role": "user", "content": e.prompt}] if chat and isinstance(e.prompt, str) else e.prompt,
            "responses": [[{"role": "assistant", "content": text}] if chat else text],
            "fields": {},
            "source": e.source,
        }
        for number, (e, text) in enumerate((e, text) for e in examples for text in (*e.right, *e.wrong))
    ]
    made = pipeline.from_records(
        flat,
        kind="sft",
        tokenizer=data.tokenizer,
        chat_template=chat_template if chat else None,
        layout="separate",
        rows=rows,
        row_length=data.layout.row_length if row_length is None else row_length,
        responses=1,
        eval_fraction=0.0,
    )
    found = evaluation.collect(
        functools.partial(language.scored_lists if reward == "scores" else language.lists, model=run.model),
        _one_score if reward == "scores" else _log_ratio,
        lora.parameters(run.model, run.state.params, run.state.carry),
        {**train.with_step(run.state), **({} if reference is None else {"reference": reference})},
        made.train_in_order(*mesh.share(run.mesh)),
        run.key,
        grid=run.mesh,
    )["value"]
    if len(found) != len(flat):
        raise ValueError(f"{len(flat) - len(found)} of {len(flat)} responses could not be scored: {made.counts}")
    out, start = [], 0
    for e in examples:
        middle, end = start + len(e.right), start + len(e.right) + len(e.wrong)
        out.append((found[start:middle], found[middle:end]))
        start = end
    return out


def _one_score(named: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    given = named["scores"]
    if given.ndim > 2:
        raise ValueError(f"the reward head has {given.shape[-1]} outputs; RewardBench needs one")
    return {"value": given[:, 0]}


def _log_ratio(named: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {"value": (named["list_logps"] - named["ref_list_logps"])[:, 0]}


def report(examples: Sequence[Example], found: Sequence[tuple[np.ndarray, np.ndarray]], *, version: int) -> Report:
    """Accuracy by subset, weighted section means and the score of either version.

    Args:
      examples, found: of `read` and `scores`.
      version: 1, whose subsets stand in sections with published weights (a file with other subsets takes each as its
        own section); 2, where a subset's score is the mean credit of best-of-n and Ties has a score of its own.

    Raises:
      ValueError: Ties whose ids are not "tied:<n>" and "ref:<n>".
    """
    counts: dict[str, int] = {}
    for e in examples:
        counts[e.subset] = counts.get(e.subset, 0) + 1
    level = sum(int(np.max(right) == np.max(wrong)) for right, wrong in found)
    if version == 1:
        chosen, rejected = (np.array([pair[side][0] for pair in found]) for side in (0, 1))
        sections = rewardbench.SECTIONS
        if not set(counts) <= {name for section in sections.values() for name in section}:
            sections = {name: {name: 1} for name in counts}
        subsets = [e.subset for e in examples]
        return Report(rewardbench.pairwise(chosen, rejected, subsets, sections=sections), counts, level, 1)
    rest = [i for i, e in enumerate(examples) if e.subset != TIES]
    tied = _ties(examples, found) if TIES in counts else None
    ordered = [np.concatenate([found[i][0][:1], found[i][1]]) for i in rest]
    names = [examples[i].subset for i in rest]
    results = rewardbench.version_2(ordered, names, ties_score=None if tied is None else tied["score"])
    return Report(results, counts, level, 2, tied)


def _ties(examples: Sequence[Example], found: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    groups: dict[str, dict[int, TiedPrompt]] = {"tied": {}, "ref": {}}
    for e, (right, wrong) in zip(examples, found, strict=True):
        if e.subset == TIES:
            kind, _, number = e.id.partition(":")
            if kind not in groups or not number.isdigit():
                raise ValueError(f"{e.source}: id {e.id!r} of subset Ties: expected 'tied:<n>' or 'ref:<n>'")
            groups[kind][int(number)] = TiedPrompt(right, wrong)
    return rewardbench.ties(groups["tied"], groups["ref"])


def table(made: Report) -> str:
    """The report as lines of text."""
    lines = [f"RewardBench {made.version}: {sum(made.counts.values())} prompts, {made.level} of them level at the top"]
    for name, value in sorted(made.results.subsets.items()):
        lines.append(f"  {name:28} {100 * value:6.2f} %  n={made.counts.get(name, 0)}")
    if made.version == 1:
        lines += [f"section {name:22} {100 * value:6.2f} %" for name, value in made.results.sections.items()]
    return "\n".join([*lines, f"score {100 * made.results.score:.2f} %"])

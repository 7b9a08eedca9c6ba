"""Rounds of sampling as a data set, so that one loop trains, saves, resumes and reports offline and online alike.

    prompts -> sample -> score -> learn, select -> minibatches

Each arrow is a function that the config names; an algorithm is a choice of these and of a loss.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from prefjax import processes
from prefjax.data import iterate, packing, pipeline
from prefjax.data.packing import Batch
from prefjax.generate import language
from prefjax.objective import call
from prefjax.online import advantages, batches, rollouts, samplers, scorers, select
from prefjax.online.rollouts import Answers, Policy, Rollout
from prefjax.online.scorers import Failure
from prefjax.ops.masked import Mean
from prefjax.views import Named

log = logging.getLogger(__name__)

VERSION = 1
FAILURES = "failures.jsonl"
"""In a run's folder: one line for each prompt that failed."""
EMPTY_ROUNDS = 50
"""So many rounds in a row without an example mean that something is wrong."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a round does; see `dataset` for the fields."""

    sample: Callable[..., language.Samples | Answers]
    score: Callable[..., Any]
    select: Callable[..., select.Picks]
    learn: Callable[..., Mapping[str, Any]] | None
    keep: tuple[str, ...]
    watch: Mapping[str, Callable[..., Any]]
    preference: Callable[..., Any] | None
    prompts_per_round: int
    minibatches: int
    epochs: int
    waves: int
    slots: int
    timeout: float | None


def dataset(
    *,
    prompts: Callable[[], pipeline.Dataset],
    score: Callable[..., Any],
    sample: Callable[..., Any] = samplers.own,
    learn: Callable[..., Any] | None = advantages.grouped,
    select: Callable[..., Any] = select.everything,
    keep: tuple[str, ...] = ("scores", "old_token_logps", "advantages"),
    watch: Mapping[str, Callable[..., Any]] | None = None,
    preference: Callable[..., Any] | None = None,
    prompts_per_round: int = 32,
    minibatches: int = 1,
    epochs: int = 1,
    waves: int = 1,
    slots: int = 1,
    timeout: float | None = None,
) -> Online:
    """A data set that samples from the policy being trained.

    Args:
      prompts: () -> the data set whose prompts are answered; its held-out prompts serve evaluation.
      score: (rollout) -> [N] rewards; see `prefjax.online.scorers`.
      sample: (policy, prompts, key) -> Samples or Answers; see `prefjax.online.samplers`.
      learn: named arrays of the round -> {field: array}, such as advantages; None adds none.
      select: named arrays of the round -> `Picks`, which responses make examples.
      keep: names of arrays that the batch stores for the loss.
      watch: {name: scorer} to report besides, such as the true reward where a model of it is learned from; `learn` and
        `select` see the scores by these names, NaN where there is none.
      preference: (rollout, scores [P, K]) -> [P, K, K], P(i beats j); None is Bradley-Terry on the scores.
      prompts_per_round: P.
      minibatches, epochs: optimiser steps of a round: epochs passes over its examples in so many parts. Of fewer
        examples than parts some are taken again, so that a round that has an example always has all its steps.
      waves: times that a round draws P new prompts at most until P examples are found.
      slots: examples packed into a row at most.
      timeout: seconds to score a prompt, by the clock of the one process that there must be then.

    Raises:
      ValueError: a number below 1.
    """
    numbers = {
        "prompts_per_round": prompts_per_round,
        "minibatches": minibatches,
        "epochs": epochs,
        "waves": waves,
        "slots": slots,
    }
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    recipe = Recipe(
        sample=sample,
        score=score,
        select=select,
        learn=learn,
        keep=tuple(keep),
        watch=dict(watch or {}),
        preference=preference,
        timeout=timeout,
        **numbers,
    )
    return Online(prompts(), recipe)


class Online:
    """Prompts, and what is done with them; `follow` tells it whose samples to take.

    Before `follow`, and for shapes, its batches are blank: the right fields, no example.
    """

    def __init__(self, prompts: pipeline.Dataset, recipe: Recipe):
        self.prompts, self.recipe = prompts, recipe
        self.kind, self.records, self.tokenizer = prompts.kind, prompts.records, prompts.tokenizer
        self.counts, self.training, self.held_out = prompts.counts, prompts.training, prompts.held_out
        self.held_out_records = prompts.held_out_records
        self.texts = {record["id"]: _text(record) for record in prompts.records}
        self._run: Any = None

    def follow(self, run: Any) -> None:
        """Samples from `run`'s model with the parameters that it has at the time.

        Raises:
          ValueError: a timeout with several processes, whose clocks would not agree on who was late.
        """
        if self.recipe.timeout is not None and jax.process_count() > 1:
            raise ValueError(
                f"timeout={self.recipe.timeout}: {jax.process_count()} processes would not agree on what came too "
                "late; leave it out, and let the scorer itself give NaN in time"
            )
        self._run = run

    @property
    def policy(self) -> Policy | None:
        """The policy as it is now."""
        run = self._run
        return None if run is None else Policy(run.model, run.state.params, run.state.carry, self.tokenizer, run.mesh)

    @property
    def workdir(self) -> pathlib.Path | None:
        return None if self._run is None else self._run.workdir

    def describe(self) -> str:
        """The prompts, and what a round does with them."""
        recipe = self.recipe
        return (
            f"{self.prompts.describe()}\nonline: {recipe.prompts_per_round} prompts a round, {recipe.epochs} epochs of "
            f"{recipe.minibatches} minibatches"
        )

    def train(
        self, seed: int | None = None, shard_index: int = 0, shard_count: int = 1, *, prefetch: int = 0
    ) -> Rounds:
        """An endless, resumable iterator over this process's part of the minibatches of round after round.

        Nothing is prepared ahead, whatever `prefetch`: a round waits for the policy that samples it.
        """
        del prefetch
        return Rounds(self, self.prompts.seed if seed is None else seed, shard_index, shard_count)

    def eval(self, shard_index: int = 0, shard_count: int = 1) -> HeldOut:
        """One round on all held-out prompts by the present policy, always with the same random key."""
        return HeldOut(self, shard_index, shard_count)

    def shape(self, prompts: int) -> batches.Shape:
        """Of the minibatches of a round of so many prompts."""
        recipe, run, (data, picks, rollout) = self.recipe, self._run, self._blank
        longest = max(int(np.diff(c.bounds[:, :2]).max(initial=1)) for c in (self.training, self.held_out))
        row_length = longest + data.responses * rollout.samples.tokens.shape[1]
        each = -(-prompts * picks.valid.shape[1] // recipe.minibatches)
        return batches.Shape(
            minibatches=recipe.minibatches,
            row_length=-(-row_length // 8) * 8,
            slots=recipe.slots,
            rows=-(-each // recipe.slots),
            multiple=1 if run is None else run.mesh.shape["data"] * run.mesh.shape["fsdp"],
        )

    def blank(self) -> Batch:
        """A batch of the right fields and shapes in which no example exists."""
        return batches.blank(self._blank[0], self.shape(self.recipe.prompts_per_round))

    @functools.cached_property
    def _blank(self) -> tuple[packing.Corpus, select.Picks, Rollout]:
        """Examples, picks and rollout of two prompts that nobody answered."""
        policy, tokens = rollouts.nobody(self.tokenizer), [np.zeros(1, np.int32)] * 2
        samples, own, found = rollouts.answers(self.recipe.sample(policy, tokens, jax.random.key(0)))
        samples = samples._replace(lengths=np.maximum(samples.lengths, 1))  # as if all existed
        rollout = Rollout(["", ""], tokens, samples, [""] * len(samples.lengths), policy, own, found)
        shape = (2, rollout.size)
        table = {name: np.zeros(shape) for name in ("scores", *self.recipe.watch)}
        picks, named = self.learned(rollouts.arrays(rollout, table, np.ones(shape, bool)))
        picks = picks._replace(valid=np.ones(picks.valid.shape, bool))
        return batches.corpus(rollout, picks, named, self.recipe.keep, np.arange(2)), picks, rollout

    def learned(self, named: Named) -> tuple[select.Picks, Named]:
        """The picks of a round, and its arrays with those that `learn` adds."""
        recipe = self.recipe
        if recipe.learn is not None:
            added = call(recipe.learn, named, source="the round")
            named = Named({**{name: functools.partial(named.__getitem__, name) for name in named}, **added})
        return call(recipe.select, named, source="the round"), named

    def play(self, indices: np.ndarray, held_out: bool, key: jax.Array) -> Played:
        """One round on the given prompts: sample, score, learn, select; failures cost their own prompts alone."""
        policy = self.policy
        if policy is None:
            raise ValueError("nobody to sample from: call follow(run) first")
        began = time.monotonic()
        data = self.held_out if held_out else self.training
        tokens = [data.tokens[data.bounds[i, 0] : data.bounds[i, 1]] for i in indices]
        ids = data.ids[indices]
        (samples, own, found), failures = _sampled(self.recipe.sample, policy, tokens, key)
        texts = rollouts.texts_of(samples, self.tokenizer)
        rollout = Rollout([self.texts[int(i)] for i in ids], tokens, samples, texts, policy, own, found)
        shape = (len(tokens), rollout.size)
        exists = samples.lengths.reshape(shape) > 0
        failures += [
            Failure(row // rollout.size, "empty output", "")
            for row, text in enumerate(texts)
            if samples.lengths[row] and not text.strip()  # of length 0: not sampled, and counted as that already
        ]
        timeout = self.recipe.timeout
        scores, failed = scorers.score(rollout, self.recipe.score, timeout=timeout)
        scores = processes.agreed(scores)
        exists &= np.isfinite(scores)
        table = {"scores": np.where(exists, scores, 0.0)}
        for name, scorer in self.recipe.watch.items():
            watched, lost = scorers.score(rollout, scorer, timeout=timeout, required=False)
            table[name] = processes.agreed(watched)
            failed += [failure._replace(reason=f"{name}: {failure.reason}") for failure in lost]
        preferences = None
        if self.recipe.preference is not None:
            judge = functools.partial(self.recipe.preference, rollout, table["scores"])
            preferences = processes.agreed(np.asarray(processes.together(judge)))
        seen = rollouts.arrays(rollout, table, exists, preferences=preferences)
        picks, named = self.learned(seen)
        made = batches.corpus(rollout, picks, named, self.recipe.keep, ids)
        # From what was seen: the KL is to the carried reference, even where `learn` puts another one in place.
        metrics = _metrics(rollout, seen, table, exists)
        return Played(made, metrics, failures + failed, rollout, ids, time.monotonic() - began)


@dataclasses.dataclass(frozen=True)
class Played:
    """What a round gave: examples, numbers, what failed, and the responses themselves."""

    examples: packing.Corpus
    metrics: dict[str, Mean]
    failures: list[Failure]
    rollout: Rollout
    ids: np.ndarray
    seconds: float


def _sampled(
    sample: Callable[..., language.Samples | Answers], policy: Policy, tokens: list[np.ndarray], key: jax.Array
) -> tuple[Answers, list[Failure]]:
    """The responses; where sampling fails, prompt by prompt, and those that fail again are of length 0.

    What fails in one of several processes has failed in all.
    """
    try:
        return processes.together(lambda: rollouts.answers(sample(policy, tokens, key))), []
    except Exception as error:
        log.warning("sampling a round in one call failed, trying prompt by prompt: %s", error)
        first = error
    parts: list[Answers | None] = []
    failures = []
    for index, prompt in enumerate(tokens):
        one = functools.partial(sample, policy, [prompt], jax.random.fold_in(key, index))
        try:
            parts.append(processes.together(lambda one=one: rollouts.answers(one())))
        except Exception as error:
            parts.append(None)
            failures.append(Failure(index, "generation", f"{type(error).__name__}: {error}"))
    whole = next((part for part in parts if part is not None), None)
    if whole is None:
        raise RuntimeError(f"no prompt of the round could be answered: {first}") from first
    nothing = language.Samples(*(np.zeros_like(x) for x in whole.samples))
    kept = [nothing if part is None else part.samples for part in parts]
    joined = language.Samples(*(np.concatenate(column) for column in zip(*kept, strict=True)))
    index = np.repeat(np.arange(len(tokens), dtype=np.int32), len(whole.own))
    found = {
        name: np.concatenate([np.zeros_like(x) if part is None else part.found[name] for part in parts])
        for name, x in whole.found.items()
    }
    return Answers(joined._replace(prompt_index=index), whole.own, found), failures


def _metrics(rollout: Rollout, named: Named, table: Mapping[str, np.ndarray], exists: np.ndarray) -> dict[str, Mean]:
    """Means over the responses of a round that exist and that the policy drew from itself."""
    samples, shape = rollout.samples, exists.shape
    own = exists if rollout.own is None else exists & rollout.own
    found = {"length": samples.lengths.reshape(shape), "finished": samples.finished.reshape(shape), **table}
    if rollout.policy.carry.get("reference") is not None:
        found["kl"] = np.asarray(named["old_logps"]) - np.asarray(named["ref_logps"])
    kept = {name: np.asarray(x, np.float64)[own & np.isfinite(x)] for name, x in found.items()}
    return {f"rollout/{name}": Mean(x.sum(), x.size) for name, x in kept.items()}


def _values(means: Mapping[str, Mean]) -> dict[str, float]:
    """As numbers; NaN where there was nothing to average."""
    return {name: float(mean.total / mean.weight) if mean.weight else float("nan") for name, mean in means.items()}


class Rounds:
    """Round after round; its state: where the prompts stand, the round's number, the minibatches still to come."""

    def __init__(self, online: Online, seed: int, shard_index: int, shard_count: int):
        self._online, self._seed = online, seed
        self._shard = (shard_index, shard_count)
        self._identity = {"version": VERSION, "seed": seed, "data": online.training.fingerprint()}
        self._at = {"round": 0, "epoch": 0, "drawn": 0}
        self._pending: list[Batch] = []
        self._counts: dict[str, int] = {}
        self._metrics: dict[str, float] = {}
        self._trimmed = False

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._online.policy is None:
            return self._mine(self._online.blank())
        for _ in range(EMPTY_ROUNDS):
            if self._pending:
                return self._mine(self._pending.pop(0))
            self._play()
        raise RuntimeError(
            f"{EMPTY_ROUNDS} rounds in a row gave no example; the last: {self._metrics}. Are all rewards equal?"
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Of the round that the last batch came from."""
        return dict(self._metrics)

    def _mine(self, batch: Batch) -> Batch:
        index, count = self._shard
        if count == 1:
            return batch
        return {name: np.split(x, count)[index] for name, x in batch.items()}

    def _draw(self) -> np.ndarray:
        """The next prompts: each once an epoch, in a new order each time."""
        size, found = len(self._online.training), []
        for _ in range(self._online.recipe.prompts_per_round):
            if self._at["drawn"] == size:
                self._at |= {"epoch": self._at["epoch"] + 1, "drawn": 0}
            found.append(iterate.shuffled(self._at["drawn"], size, self._seed, self._at["epoch"]))
            self._at["drawn"] += 1
        return np.asarray(found)

    def _play(self) -> None:
        recipe, number = self._online.recipe, self._at["round"]
        key = jax.random.fold_in(jax.random.key(self._seed), number)
        played = []
        for wave in range(recipe.waves):
            played.append(self._online.play(self._draw(), False, jax.random.fold_in(key, wave)))
            if sum(len(p.examples) for p in played) >= recipe.prompts_per_round:
                break
        self._at["round"] = number + 1
        self._record(played, number)
        examples = _joined([p.examples for p in played])
        wanted = recipe.prompts_per_round * self._online._blank[1].valid.shape[1]
        shape = self._online.shape(recipe.prompts_per_round)
        for epoch in range(recipe.epochs):
            rng = np.random.default_rng([self._seed, number, epoch])
            order = rng.permutation(min(len(examples), wanted))
            if 0 < len(order) < recipe.minibatches:  # every round has its steps: who counts them counts rounds
                order = np.resize(order, recipe.minibatches)
            self._pending += batches.minibatches(examples, order, shape)

    def _record(self, played: list[Played], number: int) -> None:
        """Counts and keeps what failed, and the round's numbers."""
        failures = [(p, failure) for p in played for failure in p.failures]
        for _, failure in failures:
            self._counts[failure.reason] = self._counts.get(failure.reason, 0) + 1
        means = {name: functools.reduce(Mean.__add__, (p.metrics[name] for p in played)) for name in played[0].metrics}
        tokens = sum(int(p.rollout.samples.lengths.sum()) for p in played)
        self._metrics = {
            **_values(means),
            "rollout/round": float(number),
            "rollout/examples": float(sum(len(p.examples) for p in played)),
            "rollout/failures": float(len(failures)),
            **{f"failures/{reason.replace(' ', '_')}": float(n) for reason, n in sorted(self._counts.items())},
            "speed/rollout_tokens_per_second": tokens / max(sum(p.seconds for p in played), 1e-9),
        }
        rows = [
            {
                "round": number,
                "id": int(p.ids[failure.prompt]),
                "prompt": p.rollout.prompts[failure.prompt],
                "reason": failure.reason,
                "detail": failure.detail,
            }
            for p, failure in failures
        ]
        if self._online.workdir is not None and jax.process_index() == 0:
            self._write(self._online.workdir / FAILURES, rows, number)

    def _write(self, path: pathlib.Path, rows: list[dict[str, Any]], number: int) -> None:
        """Adds rows; at first without those of rounds that a killed run played beyond its last checkpoint."""
        if not self._trimmed and path.exists():
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a last line without its end was cut off
            kept = [line for line in lines if json.loads(line)["round"] < number]
            whole = path.with_suffix(".tmp")
            whole.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            whole.replace(path)
        self._trimmed = True
        if rows:
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def get_state(self) -> bytes:
        """All that the rounds are, the minibatches of the present one that are still to come included."""
        timeless = {name: value for name, value in self._metrics.items() if not name.startswith("speed/")}
        about = {**self._identity, **self._at, "counts": self._counts, "metrics": timeless}
        arrays: dict[str, Any] = {f"{i}/{name}": x for i, part in enumerate(self._pending) for name, x in part.items()}
        out = io.BytesIO()
        np.savez(out, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
        return out.getvalue()

    def set_state(self, state: bytes) -> None:
        """Continues where `get_state` was called.

        Raises:
          ValueError: a state of other prompts or of another seed.
        """
        if not isinstance(state, bytes):
            raise ValueError(f"not a state of online rounds: expected bytes, got {type(state).__name__}")
        with np.load(io.BytesIO(state)) as file:
            loaded = {name: file[name] for name in file.files}
        about = json.loads(bytes(loaded.pop("about")))
        for name, value in self._identity.items():
            if about[name] != value:
                raise ValueError(f"the saved rounds have {name}={about[name]!r}, this run has {value!r}")
        self._at = {name: about[name] for name in self._at}
        self._counts, self._metrics = about["counts"], about["metrics"]
        self._pending = []
        for name, array in loaded.items():
            index, _, field = name.partition("/")
            while len(self._pending) <= int(index):
                self._pending.append({})
            self._pending[int(index)][field] = array

    def close(self) -> None:
        """Nothing is held open."""


class HeldOut:
    """The batches of one round on the held-out prompts; `metrics` says how it went once they were taken."""

    def __init__(self, online: Online, shard_index: int, shard_count: int):
        self._online, self._shard = online, (shard_index, shard_count)
        self.metrics: dict[str, float] = {}

    def __iter__(self) -> Iterator[Batch]:
        online, (index, count) = self._online, self._shard
        size = len(online.held_out)
        if not size:
            return
        played = online.play(np.arange(size), True, jax.random.key(online.prompts.seed))
        self.metrics = {**_values(played.metrics), "rollout/failures": float(len(played.failures))}
        each = online.recipe.prompts_per_round
        shape = online.shape(each)
        parts = max(1, -(-len(played.examples) * shape.minibatches // each))
        shape = dataclasses.replace(shape, minibatches=parts)
        for batch in batches.minibatches(played.examples, np.arange(len(played.examples)), shape):
            yield {name: np.split(x, count)[index] for name, x in batch.items()} if count > 1 else batch


def _text(record: Mapping[str, Any]) -> str:
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _joined(parts: list[packing.Corpus]) -> packing.Corpus:
    """The examples of several corpora in one."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.tokens) for part in parts[:-1])])
    return packing.Corpus(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.bounds + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.ids for part in parts]),
        {name: np.concatenate([part.fields[name] for part in parts]) for name in parts[0].fields},
    )

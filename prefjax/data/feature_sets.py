"""Pairs as cached embeddings: a data set whose batches hold features in place of tokens, for heads on a frozen encoder.

A batch holds `features` [E, 2, D] (chosen, rejected), `prompt_features` [E, D], `users` and `tasks` [E] int32,
`context_features` [E, n, 2, D] with `context_mask` [E, n] (other training pairs of the same user), the numeric fields
of the records ([E] or [E, 2]), `example_mask` [E] and `example_ids` [E].
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prefjax.data import iterate, records, splits
from prefjax.data.examples import Counts
from prefjax.metrics.text_baselines import text_of

Batch = dict[str, np.ndarray]
Record = Mapping[str, Any]
Featurise = Callable[[Sequence[str], Sequence[str]], np.ndarray]  # (prompts [N], responses [N]) -> [N, D]


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureDataset:
    """Pairs as arrays, split in training and held-out ones.

    Attributes:
      records, held_out_records: the text records, and which are held out: bool [N].
      arrays: {name: [N, ...]}; what a batch holds of each pair.
      context: [N, n] int64 indices of training pairs of the same user, -1 for none.
      rows: pairs in a batch, of all processes.
      sizes: what a model must know: features, users, tasks.
      training, held_out: indices of the records.
      counts: how many records there are.
    """

    kind: str
    records: list[Record]
    held_out_records: np.ndarray
    arrays: dict[str, np.ndarray]
    context: np.ndarray
    rows: int
    sizes: dict[str, int]
    seed: int
    about: str
    counts: Counts
    tokenizer: None = None

    @functools.cached_property
    def training(self) -> np.ndarray:
        """Indices of the training pairs."""
        return np.flatnonzero(~self.held_out_records)

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """Indices of the held-out pairs."""
        return np.flatnonzero(self.held_out_records)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all arrays and of the split."""
        digest = hashlib.sha256(self.held_out_records.tobytes() + self.context.tobytes())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def batch(self, indices: np.ndarray) -> Batch:
        """The pairs at `indices`; -1 is an empty slot."""
        exists, safe = indices >= 0, np.maximum(indices, 0)
        out = {name: array[safe] for name, array in self.arrays.items()}
        for array in out.values():
            array[~exists] = 0
        out |= {"example_mask": exists, "example_ids": np.where(exists, indices, -1).astype(np.int32)}
        if self.context.shape[1]:
            near = np.where(exists[:, None], self.context[safe], -1)
            out["context_mask"] = near >= 0
            out["context_features"] = self.arrays["features"][np.maximum(near, 0)]
        return out

    def train(
        self, seed: int | None = None, shard_index: int = 0, shard_count: int = 1, *, prefetch: int = 2
    ) -> FeatureIterator:
        """An endless, resumable iterator over this process's part of shuffled batches; see `pipeline.Dataset.train`."""
        seed = self.seed if seed is None else seed
        return FeatureIterator(self, seed, _part(self.rows, shard_index, shard_count), prefetch)

    def eval(self, shard_index: int = 0, shard_count: int = 1) -> FeatureBatches:
        """The held-out pairs in order, each once."""
        return FeatureBatches(self, self.held_out, _part(self.rows, shard_index, shard_count))

    def train_in_order(self, shard_index: int = 0, shard_count: int = 1) -> FeatureBatches:
        """The training pairs in order, each once."""
        return FeatureBatches(self, self.training, _part(self.rows, shard_index, shard_count))

    def describe(self) -> str:
        """One paragraph: source, sizes, split."""
        shape = ", ".join(f"{name} {list(array.shape[1:])}" for name, array in sorted(self.arrays.items()))
        return (
            f"data: {self.kind}, {self.about}; {len(self.training)} training and {len(self.held_out)} held-out pairs, "
            f"{self.sizes['users']} users, {self.sizes['tasks']} tasks, {self.context.shape[1]} context pairs each; "
            f"batches of {self.rows}: {shape}"
        )


def _part(rows: int, index: int, count: int) -> slice:
    if count < 1 or not 0 <= index < count or rows % count:
        raise ValueError(f"shard_index={index}, shard_count={count}: expected 0 <= index < count, dividing rows={rows}")
    return slice(index * rows // count, (index + 1) * rows // count)


class FeatureBatches:
    """A finite pass in order, the last batch filled up with empty slots; `len` is the number of batches."""

    def __init__(self, data: FeatureDataset, indices: np.ndarray, mine: slice):
        self._data, self._indices, self._mine = data, indices, mine

    def __len__(self) -> int:
        return -(-len(self._indices) // self._data.rows)

    def __iter__(self) -> Iterator[Batch]:
        rows = self._data.rows
        for start in range(0, len(self._indices), rows):
            part = self._indices[start : start + rows]
            whole = np.concatenate([part, np.full(rows - len(part), -1, part.dtype)])
            yield self._data.batch(whole[self._mine])

    def blanks(self) -> list[Batch]:
        """The one shape of batch that the pass has, empty; none where there is no pair."""
        return [self._data.batch(np.full(self._mine.stop - self._mine.start, -1))] if len(self) else []


class FeatureIterator:
    """Endless shuffled batches; every process counts whole batches and fills its own rows, so states are the same.

    Attributes:
      wait_seconds: how long `next` has taken in all.
    """

    def __init__(self, data: FeatureDataset, seed: int, mine: slice, prefetch: int = 2):
        if not len(data.training):
            raise ValueError("the training set is empty; expected at least one pair")
        self._data, self._seed, self._mine, self._drawn, self.wait_seconds = data, seed, mine, 0, 0.0
        self._prefetch, self._thread, self._stop = prefetch, None, threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(max(prefetch, 1))

    def __iter__(self) -> Iterator[Batch]:
        return self

    @property
    def epoch(self) -> int:
        """The epoch of the last drawn pair, from 0."""
        return max(self._drawn - 1, 0) // len(self._data.training)

    def _at(self, drawn: int) -> Batch:
        size = len(self._data.training)
        places = range(drawn + self._mine.start, drawn + self._mine.stop)
        chosen = [iterate.shuffled(i % size, size, self._seed, i // size) for i in places]
        return self._data.batch(self._data.training[chosen])

    def __next__(self) -> Batch:
        began = time.perf_counter()
        if not self._prefetch:
            batch = self._at(self._drawn)
        else:
            if self._thread is None:
                self._start()
            batch = self._queue.get()
            if isinstance(batch, Exception):
                self.close()
                raise batch
        self._drawn += self._data.rows
        self.wait_seconds += time.perf_counter() - began
        return batch

    def _start(self) -> None:
        stop, out, drawn = threading.Event(), queue.Queue(self._prefetch), self._drawn
        self._stop, self._queue = stop, out

        def work(drawn: int) -> None:
            while not stop.is_set():
                try:
                    item: Any = self._at(drawn)
                except Exception as error:
                    item = error
                drawn += self._data.rows
                while not stop.is_set():
                    try:
                        out.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if isinstance(item, Exception):
                    return

        self._thread = threading.Thread(target=work, args=(drawn,), daemon=True, name="prefjax-features")
        self._thread.start()

    def get_state(self) -> dict[str, Any]:
        """A JSON-able dict from which `set_state` goes on with the next batch."""
        return {"seed": self._seed, "data": self._data.fingerprint, "drawn": self._drawn}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `get_state` was called.

        Raises:
          ValueError: a state of other data or of another seed, or no state at all.
        """
        own = self.get_state()
        for name in own:
            if name not in state or (name != "drawn" and state[name] != own[name]):
                raise ValueError(f"the saved data state has {name}={state.get(name)!r}, this run has {own[name]!r}")
        self.close()
        self._drawn = int(state["drawn"])

    def close(self) -> None:
        """Stops the prefetching thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def from_pairs(
    found: Sequence[Record],
    featurise: Featurise,
    *,
    prompt_features: Callable[[Sequence[str]], np.ndarray] | None = None,
    fields: Mapping[str, Callable[[Record], Any]] | None = None,
    user: str | None = None,
    task: str | None = None,
    context: int = 0,
    rows: int = 64,
    eval_fraction: float = 0.2,
    eval_records: Sequence[Record] = (),
    split_by: str = "auto",
    folds: int = 0,
    fold: int = 0,
    seed: int = 0,
    about: str = "pairs in memory",
    counts: Counts | None = None,
) -> FeatureDataset:
    """A data set of features from text records of pairs.

    Args:
      found: text records (see `prefjax.data.records`), the chosen response first.
      featurise: (prompts, responses) -> [N, D].
      prompt_features: prompts -> [N, P]; None leaves them out.
      fields: further arrays: {name: record -> number or list of numbers}, beside the records' own numeric fields.
      user, task: names of the field or meta entry that says who chose and what kind of prompt it is; None: all alike.
      context: n, training pairs of the same user beside each pair (never the pair itself).
      rows: pairs in a batch.
      eval_fraction, eval_records, split_by, seed: as of `prefjax.data.pipeline.from_records`.
      folds, fold: hold out part `fold` of `folds`, whole groups together, in place of eval_fraction; 0 for none.

    Raises:
      ValueError: no pairs, a user or task that a record lacks, or responses other than two.
    """
    kept = [*found, *eval_records]
    if not found:
        raise ValueError(f"{about}: no pairs")
    for record in kept:
        records.check(record, "pairs")
    if eval_records:
        if eval_fraction:
            raise ValueError(f"held-out records are given, so eval_fraction={eval_fraction} must be 0")
        held = np.arange(len(kept)) >= len(found)
    elif folds:
        held = fold_of(kept, folds, split_by=split_by, seed=seed) == fold
        if not 0 <= fold < folds:
            raise ValueError(f"fold={fold}: expected 0 to {folds - 1}")
    else:
        held = splits.held_out(kept, fraction=eval_fraction, split_by=split_by, seed=seed)
    prompts = [text_of(record["prompt"]) for record in kept]
    sides = [featurise(prompts, [text_of(record["responses"][k]) for record in kept]) for k in (0, 1)]
    arrays: dict[str, np.ndarray] = {"features": np.stack(sides, axis=1).astype(np.float32)}
    if prompt_features is not None:
        arrays["prompt_features"] = np.asarray(prompt_features(prompts), np.float32)
    for name in kept[0]["fields"]:
        arrays[name] = np.asarray([record["fields"][name] for record in kept], np.float32)
    for name, read in (fields or {}).items():
        arrays[name] = np.asarray([read(record) for record in kept], np.float32)
    users, tasks = (_numbered(kept, name) for name in (user, task))
    arrays |= {"users": users, "tasks": tasks}
    sizes = {
        "features": arrays["features"].shape[-1],
        "users": int(users.max()) + 1,
        "tasks": int(tasks.max()) + 1,
    }
    if prompt_features is not None:
        sizes["prompt_features"] = arrays["prompt_features"].shape[-1]
    counts = Counts(records=len(kept), examples=len(kept)) if counts is None else counts
    near = _context(users, ~held, context, seed)
    return FeatureDataset("pairs", list(kept), held, arrays, near, rows, sizes, seed, about, counts)


def fold_of(kept: Sequence[Record], folds: int, *, split_by: str = "auto", seed: int = 0) -> np.ndarray:
    """[N] int: the fold of each record; whole groups stay together, the largest ones are dealt first, to the emptiest.

    Raises:
      ValueError: fewer groups than folds.
    """
    groups = [splits.group_of(record, split_by) for record in kept]
    names, member, sizes = np.unique(np.asarray(groups, object), return_inverse=True, return_counts=True)
    if folds < 2 or len(names) < folds:
        raise ValueError(f"folds={folds}: expected 2 to {len(names)}, the number of groups by split_by={split_by!r}")
    order = sorted(range(len(names)), key=lambda g: (-sizes[g], hashlib.sha256(f"{seed}:{names[g]}".encode()).digest()))
    filled, chosen = np.zeros(folds, int), np.zeros(len(names), int)
    for group in order:
        chosen[group] = np.argmin(filled)
        filled[chosen[group]] += sizes[group]
    return chosen[member]


def _numbered(kept: Sequence[Record], name: str | None) -> np.ndarray:
    """[N] int32: 0, 1, ... for the distinct values of a field or meta entry, sorted."""
    if name is None:
        return np.zeros(len(kept), np.int32)
    values = []
    for record in kept:
        known = {**record["fields"], **record.get("meta", {})}
        if name not in known:
            raise ValueError(f"{record.get('source')}: no field {name!r}; it has {', '.join(known) or 'none'}")
        values.append(str(known[name]))
    return np.unique(np.asarray(values, object), return_inverse=True)[1].astype(np.int32)


def _context(users: np.ndarray, training: np.ndarray, size: int, seed: int) -> np.ndarray:
    """[N, size] training pairs of the same user, others than the pair itself, drawn without repeats; -1 for none."""
    out = np.full((len(users), size), -1, np.int64)
    if not size:
        return out
    rng = np.random.default_rng([seed, 7])
    order = np.argsort(users, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(users[order])) + 1):
        pool = group[training[group]]
        for index in group:
            # One more than needed, so that the pair itself can be left out
            drawn = rng.choice(pool, size=min(size + 1, len(pool)), replace=False) if len(pool) else pool
            drawn = drawn[drawn != index][:size]
            out[index, : len(drawn)] = drawn
    return out

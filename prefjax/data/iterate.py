"""Batch iterators: an endless shuffled one that stops and resumes exactly, and a finite ordered one for evaluation."""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from grain.experimental import index_shuffle

from prefjax.data import packing
from prefjax.data.packing import Batch, Corpus, Layout, Plan

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a stream stands: the epoch, how many of its examples were drawn, and which still wait for a row."""

    epoch: int = 0
    drawn: int = 0
    pending: tuple[int, ...] = ()


def shuffled(index: int, size: int, seed: int, epoch: int) -> int:
    """The example at place `index` of an epoch: grain's permutation of range(size), another one each epoch."""
    key = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
    return index_shuffle(index, max_index=size - 1, seed=int(key), rounds=4)


def advance(position: Position, sizes: np.ndarray, layout: Layout, seed: int) -> tuple[Layout, Plan, Position]:
    """Shape and plan of the next batch (of all processes together) and the position after it; pure."""
    epoch, drawn, size = position.epoch, position.drawn, len(sizes)
    key = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])

    def draw() -> int:
        nonlocal epoch, drawn, key
        if drawn == size:
            epoch, drawn = epoch + 1, 0
            key = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        drawn += 1
        return index_shuffle(drawn - 1, max_index=size - 1, seed=key, rounds=4)

    pending = list(position.pending)
    shape, rows = packing.plan(draw, pending, sizes, layout)
    return shape, rows, Position(epoch, drawn, tuple(pending))


def shard(layout: Layout, shard_index: int, shard_count: int) -> slice:
    """Which groups of the global batch a process holds.

    Raises:
      ValueError: an index outside [0, shard_count), or a batch that does not divide.
    """
    if shard_count < 1 or not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index={shard_index}, shard_count={shard_count}: expected 0 <= index < count")
    if layout.groups % shard_count:
        raise ValueError(
            f"rows={layout.rows} ({layout.groups} examples or rows) cannot be shared by {shard_count} processes"
        )
    each = layout.groups // shard_count
    return slice(shard_index * each, (shard_index + 1) * each)


def _produce(
    position: Position, *, data: Corpus, sizes: np.ndarray, layout: Layout, seed: int, mine: slice
) -> tuple[Batch, Position]:
    shape, rows, after = advance(position, sizes, layout, seed)
    return packing.assemble(data, rows[mine], shape), after


def _blanks(data: Corpus, shapes: Iterable[Layout], mine: slice) -> list[Batch]:
    """A process's part of a batch of each shape in which no example exists."""
    return [packing.assemble(data, [[] for _ in range(mine.stop - mine.start)], shape) for shape in shapes]


def _work(produce: Any, position: Position, out: queue.Queue, stop: threading.Event) -> None:
    """The prefetching thread: keeps the queue full; an error is handed over and raised where the batch is taken."""
    item: tuple[Any, ...] = ()
    while not stop.is_set():
        if not item:
            try:
                batch, position = produce(position)
                item = (batch, position, None)
            except Exception as error:
                item = (None, None, error)
        try:
            out.put(item, timeout=0.1)
        except queue.Full:
            continue
        if item[2] is not None:
            return
        item = ()


class TrainIterator:
    """An endless iterator over shuffled, packed batches, which can be stopped and resumed exactly.

    Every process plans the whole global batch and fills its own rows only, so the state is the same on all processes
    and stays valid when their number changes: with the same global `rows` the global batches go on unchanged.

    Attributes:
      wait_seconds: how long `next` has waited for data in all.
    """

    def __init__(
        self,
        data: Corpus,
        layout: Layout,
        *,
        seed: int = 0,
        shard_index: int = 0,
        shard_count: int = 1,
        prefetch: int = 2,
    ):
        if not len(data):
            raise ValueError("the training set is empty; expected at least one example")
        if not isinstance(prefetch, int) or prefetch < 0:
            raise ValueError(f"prefetch={prefetch!r}: expected the number of batches to prepare ahead, 0 for no thread")
        self.wait_seconds = 0.0
        self._data, self._layout, self._mine = data, layout, shard(layout, shard_index, shard_count)
        self._identity = {"version": VERSION, "seed": seed, "data": data.fingerprint(), "examples": len(data)}
        self._produce = functools.partial(
            _produce,
            data=data,
            sizes=data.sizes(layout.layout),
            layout=layout,
            seed=seed,
            mine=self._mine,
        )
        self._prefetch, self._position = prefetch, Position()
        self._queue: queue.Queue | None = None
        self._stop, self._thread = threading.Event(), None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        if self._prefetch == 0:
            batch, self._position = self._produce(self._position)
        else:
            if self._thread is None:
                self._start()
            batch, position, error = self._queue.get()  # type: ignore[union-attr]
            if error is not None:
                self.close()
                raise error
            self._position = position
        self.wait_seconds += time.perf_counter() - start
        return batch

    def blanks(self) -> list[Batch]:
        """An empty batch of each shape that `next` may give, shortest rows first: what to compile ahead for."""
        return _blanks(self._data, self._layout.shapes, self._mine)

    @property
    def epoch(self) -> int:
        """The epoch that the last drawn example belongs to, from 0."""
        return self._position.epoch

    def get_state(self) -> dict[str, Any]:
        """A JSON-able dict from which `set_state` continues with the batch after the last one that was taken."""
        position = self._position
        return {
            **self._identity,
            "epoch": position.epoch,
            "drawn": position.drawn,
            "pending": [int(index) for index in position.pending],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `get_state` was called; the shape of the batches and the number of processes may differ.

        Raises:
          ValueError: a state of other data, of another seed or that is no state at all.
        """
        expected = {*self._identity, "epoch", "drawn", "pending"}
        if not isinstance(state, Mapping) or set(state) != expected:
            got = ", ".join(sorted(state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"not a data-iterator state: expected {', '.join(sorted(expected))}; got {got}")
        for name, value in self._identity.items():
            if state[name] != value:
                raise ValueError(f"the saved data-iterator state has {name}={state[name]!r}, this run has {value!r}")
        size, pending = self._identity["examples"], tuple(int(index) for index in state["pending"])
        if not 0 <= state["drawn"] <= size or any(not 0 <= index < size for index in pending):
            raise ValueError(f"the saved data-iterator state points outside of the {size} examples")
        self.close()
        self._position = Position(int(state["epoch"]), int(state["drawn"]), pending)

    def _start(self) -> None:
        self._queue, self._stop = queue.Queue(self._prefetch), threading.Event()
        args = (self._produce, self._position, self._queue, self._stop)
        self._thread = threading.Thread(target=_work, args=args, daemon=True, name="prefjax-data")
        self._thread.start()

    def close(self) -> None:
        """Stops the prefetching thread; the next `next` starts it again where it stood."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread, self._queue = None, None

    def __del__(self) -> None:
        if hasattr(self, "_stop"):
            self._stop.set()


class EvalBatches:
    """The batches of a finite pass in order; each example once, the last batch filled up with empty slots.

    `len` is the number of batches, the same on every process; iterating again starts again.
    """

    def __init__(self, data: Corpus, layout: Layout, *, shard_index: int = 0, shard_count: int = 1):
        self._data, self._mine = data, shard(layout, shard_index, shard_count)
        self._plans = packing.plan_shapes(data.sizes(layout.layout), layout)

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[Batch]:
        for shape, rows in self._plans:
            yield packing.assemble(self._data, rows[self._mine], shape)

    def blanks(self) -> list[Batch]:
        """An empty batch of each shape that the pass has, shortest rows first."""
        shapes = {shape.row_length: shape for shape, _ in self._plans}
        return _blanks(self._data, [shapes[length] for length in sorted(shapes)], self._mine)

"""Tokenised examples to the one token layout: planning which examples share a row, and filling the arrays."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prefjax.config import did_you_mean

Example = Mapping[str, Any]
Batch = dict[str, np.ndarray]
Plan = list[list[int]]
LAYOUTS = ("shared", "separate")
FITS = ("best", "first")
TOKEN_ARRAYS = ("tokens", "positions", "segments", "branches")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The static shape of a batch.

    Attributes:
      layout: `shared` packs up to `slots` examples in a row, each prompt once; `separate` gives each response its own
        row with its prompt repeated.
      rows: token rows R of the whole batch, over all processes.
      row_length: tokens T in a row.
      slots: examples S in a row (1 for `separate`).
      responses: responses K of an example; 0 for prompts alone.
      look_ahead: how many waiting examples the packer chooses from.
      fit: `best` takes the longest waiting example that fits, `first` the one that waits longest.
      buckets: ascending row lengths, the last one row_length: each batch has `rows` of one of them. Without any all
        rows have row_length.
    """

    layout: str = "shared"
    rows: int = 8
    row_length: int = 512
    slots: int = 8
    responses: int = 2
    look_ahead: int = 64
    fit: str = "best"
    buckets: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name, options in (("layout", LAYOUTS), ("fit", FITS)):
            value = getattr(self, name)
            if value not in options:
                raise ValueError(f"{name}={value!r} is unknown; {did_you_mean(str(value), options)}")
        for name, least in (("rows", 1), ("row_length", 2), ("slots", 1), ("responses", 0), ("look_ahead", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
        if self.layout == "separate" and self.slots != 1:
            raise ValueError(f"slots={self.slots}: the separate layout holds 1 example in a row")
        if self.rows % self.copies:
            raise ValueError(f"rows={self.rows} is not a multiple of the {self.copies} rows that each example takes")
        object.__setattr__(self, "buckets", self._checked_buckets())

    def _checked_buckets(self) -> tuple[int, ...]:
        found = self.buckets
        good = isinstance(found, list | tuple) and all(isinstance(n, int | np.integer) and n >= 2 for n in found)
        if not good or (found and (list(found) != sorted(set(found)) or found[-1] != self.row_length)):
            raise ValueError(
                f"buckets={found!r}: expected ascending row lengths of at least 2, the last one "
                f"row_length={self.row_length}"
            )
        return tuple(int(n) for n in found)

    @functools.cached_property
    def shapes(self) -> tuple[Layout, ...]:
        """The layouts that a batch may have, one a bucket, shortest rows first.

        All have the same rows, so that buckets change what a step costs and not how many examples its mean is over, and
        what divides `rows` (devices, processes, micro-batches) fits each.
        """
        lengths = self.buckets or (self.row_length,)
        return tuple(dataclasses.replace(self, row_length=length, buckets=()) for length in lengths)

    @property
    def copies(self) -> int:
        """Rows that one example takes."""
        return max(self.responses, 1) if self.layout == "separate" else 1

    @property
    def groups(self) -> int:
        """E: the leading axis of the per-example arrays."""
        return self.rows // self.copies


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Tokenised examples as flat arrays, from which a batch is gathered without a Python loop over tokens.

    Attributes:
      tokens: int32 [N], prompt and responses of each example one after the other.
      bounds: int64 [n, K + 2]; piece j of example i (0 the prompt) is tokens[bounds[i, j] : bounds[i, j + 1]].
      ids: int32 [n].
      fields: {name: [n] or [n, K] float32 or bool}.

    Indexing gives single examples, for generation and for other pipelines.
    """

    tokens: np.ndarray
    bounds: np.ndarray
    ids: np.ndarray
    fields: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example as `corpus` takes them; so a corpus is also a random-access source for grain.MapDataset."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        ends = self.bounds[index]
        prompt, *responses = (self.tokens[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True))
        kept = [r for r in responses if len(r)]
        fields = {n: v[index] if v.ndim == 1 else v[index, : len(kept)] for n, v in self.fields.items()}
        return {"id": int(self.ids[index]), "prompt": prompt, "responses": kept, "fields": fields}

    @property
    def responses(self) -> int:
        """K."""
        return self.bounds.shape[1] - 2

    def sizes(self, layout: str = "shared") -> np.ndarray:
        """int64 [n]: tokens of the longest row that each example needs."""
        pieces = np.diff(self.bounds, axis=1)
        if layout == "shared" or not self.responses:
            return pieces.sum(1)
        return pieces[:, 0] + pieces[:, 1:].max(1)

    def fingerprint(self) -> str:
        """A hash of tokens, bounds and ids."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.bounds, self.ids):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def corpus(examples: Sequence[Example], responses: int | None = None) -> Corpus:
    """Examples `{"id", "prompt": int32[P], "responses": [int32[L], ...], "fields": {...}}` as one `Corpus`.

    Args:
      examples: tokenised examples; all have the same field names. A list-valued field has one number a response.
      responses: K; None takes the most that any example has. Fewer responses leave their last places empty.

    Raises:
      ValueError: an empty prompt or response, more responses than K, or fields that differ between examples.
    """
    counts = [len(e["responses"]) for e in examples]
    k = max(counts, default=0) if responses is None else responses
    if counts and min(counts) == 0 and k > 0:
        raise ValueError(f"example {examples[int(np.argmin(counts))]['id']} has no response; expected 1 to {k}")
    if counts and max(counts) > k:
        worst = examples[int(np.argmax(counts))]
        raise ValueError(f"example {worst['id']} has {max(counts)} responses; expected at most {k}")
    lengths = np.zeros((len(examples), k + 1), np.int64)
    pieces: list[np.ndarray] = []
    for i, example in enumerate(examples):
        parts = [example["prompt"], *example["responses"]]
        for j, part in enumerate(parts):
            if len(part) == 0:
                name = "the prompt" if j == 0 else f"response {j}"
                raise ValueError(f"example {example['id']}: {name} has no tokens; expected at least 1")
            lengths[i, j] = len(part)
        pieces += parts
    tokens = np.concatenate(pieces).astype(np.int32) if pieces else np.zeros(0, np.int32)
    ends = np.cumsum(lengths.ravel()).reshape(lengths.shape)
    bounds = np.concatenate([ends[:, :1] - lengths[:, :1], ends], axis=1)
    ids = np.asarray([e["id"] for e in examples], np.int32)
    return Corpus(tokens, bounds, ids, _fields(examples, k))


def _fields(examples: Sequence[Example], k: int) -> dict[str, np.ndarray]:
    if not examples:
        return {}
    first, out = examples[0]["fields"], {}
    for example in examples:
        if example["fields"].keys() != first.keys():
            names = ", ".join(first) or "no fields", ", ".join(example["fields"]) or "no fields"
            raise ValueError(f"example {example['id']} has {names[1]}, example {examples[0]['id']} has {names[0]}")
    for name, sample in first.items():
        values, many = [e["fields"][name] for e in examples], np.ndim(sample) > 0
        kind = bool if np.asarray(sample).dtype == bool else np.float32
        out[name] = array = np.zeros((len(examples), k) if many else len(examples), kind)
        for i, value in enumerate(values):
            if (np.ndim(value) > 0) != many or (many and len(value) != len(examples[i]["responses"])):
                expected = "one number a response" if many else "one number"
                raise ValueError(f"example {examples[i]['id']}: field {name!r}: expected {expected}, got {value!r}")
            if many:
                array[i, : len(value)] = value
            else:
                array[i] = value
    return out


class _Again:
    """Draws that can be made again: those of a plan that was given up are the first ones of the next."""

    def __init__(self, draw: Callable[[], int | None]):
        self._draw, self._drawn, self._at = draw, [], 0

    def __call__(self) -> int | None:
        if self._at == len(self._drawn):
            self._drawn.append(self._draw())
        self._at += 1
        return self._drawn[self._at - 1]

    def rewind(self) -> None:
        self._at = 0

    def rest(self) -> list[int]:
        """What was drawn, but not since the last `rewind`."""
        return [index for index in self._drawn[self._at :] if index is not None]


def plan(draw: Callable[[], int | None], pending: list[int], sizes: np.ndarray, layout: Layout) -> tuple[Layout, Plan]:
    """Chooses the shape and the examples of one batch.

    The example that has waited longest decides the bucket, so none starves: the shortest that holds it and that the
    waiting examples fill. The first row begins with it, further rows with the one of this bucket that has waited
    longest; what is left of a row is chosen among the `look_ahead` waiting ones. Ties go to the one that has waited
    longest.

    Args:
      draw: gives the next example's index, or None at the end.
      pending: indices that wait, oldest first; changed in place.
      sizes: tokens that each example takes in a row.
      layout: see `Layout`.

    Returns:
      One of `layout.shapes`, and for each of its `groups` rows the indices in it; empty rows only at the end of the
      stream.
    """
    window = layout.look_ahead if layout.slots > 1 or len(layout.shapes) > 1 else 1
    if not pending and (first := draw()) is not None:
        pending.append(first)
    oldest, again = int(sizes[pending[0]]) if pending else 0, _Again(draw)
    if oldest > layout.row_length:
        raise ValueError(f"an example of {oldest} tokens does not fit a row of {layout.row_length}")
    above, shape, rows, waiting = 0, layout, [], pending
    for shape in layout.shapes:
        if oldest <= shape.row_length:
            again.rewind()
            waiting = list(pending)
            rows = _fill(again, waiting, sizes, shape, window, above)
            # Filled is a batch that did not run out of what fits it before its last row
            if not waiting or (all(rows) and min(sizes[index] for index in waiting) <= shape.row_length):
                break
        above = shape.row_length
    pending[:] = waiting + again.rest()
    return shape, rows


def _fill(
    draw: Callable[[], int | None], pending: list[int], sizes: np.ndarray, shape: Layout, window: int, above: int
) -> Plan:
    """The rows of a batch of one shape; `above` is the row length of the next shorter one."""
    order = [(int(sizes[index]), -age) for age, index in enumerate(pending)]
    by_age, age = dict(enumerate(pending)), len(pending)
    order.sort()

    def refill() -> None:
        nonlocal age
        while len(order) < window:
            index = draw()
            if index is None:
                return
            bisect.insort(order, (int(sizes[index]), -age))
            by_age[age] = index
            age += 1

    def choose(room: int) -> int | None:
        """Position in `order` of the example to place."""
        if shape.fit == "best":
            at = bisect.bisect_right(order, (room, 1)) - 1
            return at if at >= 0 else None
        fits = [(-negative, at) for at, (size, negative) in enumerate(order) if size <= room]
        return min(fits)[1] if fits else None

    def begin(first: bool) -> int | None:
        """Position in `order` of the example that a row begins with."""
        oldest = next(iter(by_age))
        size = int(sizes[by_age[oldest]])
        if first or above < size <= shape.row_length:
            return bisect.bisect_left(order, (size, -oldest))
        own = range(bisect.bisect_right(order, (above, 1)), bisect.bisect_right(order, (shape.row_length, 1)))
        return max(own, key=lambda at: order[at][1]) if own else choose(shape.row_length)

    rows: Plan = []
    for _ in range(shape.groups):
        row: list[int] = []
        refill()
        if order:
            at, room = begin(not rows), shape.row_length
            while at is not None:
                size, negative = order.pop(at)
                row.append(by_age.pop(-negative))
                room -= size
                refill()
                at = choose(room) if len(row) < shape.slots else None
        rows.append(row)
    pending[:] = by_age.values()
    return rows


def assemble(data: Corpus, rows: Plan, layout: Layout) -> Batch:
    """Gathers the examples of a plan into the arrays of a batch.

    Args:
      data: tokenised examples with layout.responses responses each.
      rows: indices into `data`, one list a row (`shared`) or an example (`separate`).
      layout: one of `Layout.shapes`; its `rows` may be those of one process alone.

    Returns:
      tokens, positions, segments, branches int32 [R, T]; response_mask bool [E, S, K]; example_mask bool [E, S];
      example_ids int32 [E, S]; each field [E, S] or [E, S, K].
    """
    k, groups = data.responses, len(rows)
    count = np.asarray([len(row) for row in rows], np.int64)
    placed = np.asarray([index for row in rows for index in row], np.int64)
    group = np.repeat(np.arange(groups), count)
    begin = np.cumsum(count) - count
    slot = np.arange(len(placed)) - begin[group]
    bounds = data.bounds[placed]
    lengths = np.diff(bounds, axis=1)
    if layout.layout == "separate" and k:
        pieces = _separate_pieces(bounds, group)
    else:
        pieces = _shared_pieces(bounds, group, slot, begin)
    width = (groups * layout.copies, layout.row_length)
    batch: Batch = {name: np.zeros(width, np.int32) for name in TOKEN_ARRAYS}
    _copy(batch, data.tokens, pieces)

    shape = (groups, layout.slots)
    batch["example_mask"] = np.arange(layout.slots) < count[:, None]
    batch["example_ids"] = np.full(shape, -1, np.int32)
    batch["example_ids"][group, slot] = data.ids[placed]
    batch["response_mask"] = np.zeros((*shape, k), bool)
    batch["response_mask"][group, slot] = lengths[:, 1:] > 0
    for name, values in data.fields.items():
        batch[name] = np.zeros((*shape, *values.shape[1:]), values.dtype)
        batch[name][group, slot] = values[placed]
    return batch


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """Runs of tokens: where each comes from, its length, its row and column, and what it is; arrays of one shape."""

    source: np.ndarray
    length: np.ndarray
    row: np.ndarray
    column: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    branch: np.ndarray


def _shared_pieces(bounds: np.ndarray, group: np.ndarray, slot: np.ndarray, begin: np.ndarray) -> _Pieces:
    """Each example as it lies in the corpus, after those before it in its row."""
    length = np.diff(bounds, axis=1)
    total = length.sum(1)
    before = np.cumsum(total) - total
    column = (before - before[begin[group]])[:, None] + bounds[:, :-1] - bounds[:, :1]
    branch = np.broadcast_to(np.arange(length.shape[1]), length.shape)
    row, segment = (np.broadcast_to(x[:, None], length.shape) for x in (group, slot + 1))
    position = np.where(branch == 0, 0, length[:, :1])
    return _Pieces(bounds[:, :-1], length, row, column, position, segment, branch)


def _separate_pieces(bounds: np.ndarray, group: np.ndarray) -> _Pieces:
    """For each response a row of its own: the prompt, then the response; the row of an absent response stays empty."""
    length = np.diff(bounds, axis=1)
    k = length.shape[1] - 1
    exists = length[:, 1:] > 0
    prompt = np.broadcast_to(length[:, :1], exists.shape)
    zero, one = np.zeros_like(exists, np.int64), np.ones_like(exists, np.int64)
    row = group[:, None] * k + np.arange(k)
    source = np.stack([np.broadcast_to(bounds[:, :1], exists.shape), bounds[:, 1:-1]])
    column = np.stack([zero, prompt])
    branch = np.stack([zero, one * np.arange(1, k + 1)])
    pieces = np.stack([np.where(exists, prompt, 0), length[:, 1:]])
    return _Pieces(source, pieces, np.stack([row, row]), column, column, np.stack([one, one]), branch)


def _copy(batch: Batch, tokens: np.ndarray, pieces: _Pieces) -> None:
    """Copies runs of `tokens` to their places in the flattened rows, and writes what each token belongs to."""
    width, length = batch["tokens"].shape[1], pieces.length.ravel()
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values.ravel(), length)

    to = spread(pieces.row * width + pieces.column) + offset
    batch["tokens"].ravel()[to] = tokens[spread(pieces.source) + offset]
    batch["positions"].ravel()[to] = spread(pieces.position) + offset
    batch["segments"].ravel()[to] = spread(pieces.segment)
    batch["branches"].ravel()[to] = spread(pieces.branch)


def pack(
    examples: Sequence[Example],
    *,
    layout: str = "shared",
    rows: int = 8,
    row_length: int = 512,
    slots: int = 8,
    responses: int | None = None,
    look_ahead: int = 64,
    fit: str = "best",
    buckets: Sequence[int] = (),
) -> list[Batch]:
    """All batches of a list of tokenised examples, in order; the last one is filled up with empty slots.

    Args:
      examples: as `corpus` takes them.
      layout, rows, row_length, slots, responses, look_ahead, fit, buckets: see `Layout`; `separate` sets slots to 1.

    Raises:
      ValueError: an unknown layout (with a did-you-mean), or an example that does not fit a row.
    """
    data = corpus(examples, responses)
    slots = 1 if layout == "separate" else slots
    whole = Layout(layout, rows, row_length, slots, data.responses, look_ahead, fit, buckets)
    return [assemble(data, rows, shape) for shape, rows in plan_shapes(data.sizes(layout), whole)]


def plan_shapes(sizes: np.ndarray, layout: Layout) -> list[tuple[Layout, Plan]]:
    """The plans of all batches over the examples in order, each with the shape it is for."""
    stream, pending, plans = iter(range(len(sizes))), [], []
    while True:
        shape, rows = plan(lambda: next(stream, None), pending, sizes, layout)
        if not any(rows):
            return plans
        plans.append((shape, rows))


def plan_all(sizes: np.ndarray, layout: Layout) -> list[Plan]:
    """The plans of all batches over the examples in order, of a layout without buckets."""
    return [rows for _, rows in plan_shapes(sizes, layout)]


def unpack(batch: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The tokenised examples in a batch of either layout: the inverse of packing.

    Returns:
      Examples in the order of (E, S), each with every token once; empty slots give none.
    """
    response_mask, examples = batch["response_mask"], []
    groups, slots, k = response_mask.shape
    separate = len(batch["tokens"]) == groups * k and k > 1
    known = {*TOKEN_ARRAYS, "example_mask", "example_ids", "response_mask"}
    for e in range(groups):
        for s in range(slots):
            if not batch["example_mask"][e, s]:
                continue
            kept, rows = [j for j in range(k) if response_mask[e, s, j]], {}
            for j in [-1, *kept]:
                row = e * k + (max(j, 0) if j >= 0 else kept[0]) if separate else e
                inside = (batch["segments"][row] == s + 1) & (batch["branches"][row] == j + 1)
                at = np.flatnonzero(inside)
                rows[j] = batch["tokens"][row][at[np.argsort(batch["positions"][row][at], kind="stable")]]
            fields = {n: a[e, s] if a.ndim == 2 else a[e, s][kept] for n, a in batch.items() if n not in known}
            prompt, replies = rows.pop(-1), [rows[j] for j in kept]
            name = int(batch["example_ids"][e, s])
            examples.append({"id": name, "prompt": prompt, "responses": replies, "fields": fields})
    return examples


def efficiency(batch: Mapping[str, np.ndarray]) -> float:
    """The fraction of tokens that is not padding."""
    return float(np.mean(batch["segments"] > 0))

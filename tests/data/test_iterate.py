"""The training iterator: exact resume, process counts, shuffling, prefetching; the evaluation pass."""

import itertools
import json
import threading
import time

import numpy as np
import pytest

from prefjax.data import iterate, packing
from prefjax.data.iterate import EvalBatches, TrainIterator
from prefjax.data.packing import Layout

SHAPE = Layout(rows=4, row_length=32, slots=5, responses=2, look_ahead=16)
SHAPES = {
    "shared": SHAPE,
    "separate": Layout("separate", 8, 32, 1, 2),
    "shared in buckets": Layout(rows=4, row_length=32, slots=2, responses=2, look_ahead=16, buckets=(10, 20, 32)),
    "separate in buckets": Layout("separate", 8, 32, 1, 2, look_ahead=9, buckets=(9, 12, 32)),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def data_of(count, seed=0):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(1, 9, 3) for _ in range(count)]
    examples = [
        {
            "id": i,
            "prompt": rng.integers(1, 99, p).astype(np.int32),
            "responses": [rng.integers(1, 99, n).astype(np.int32) for n in (a, b)],
            "fields": {"margins": float(i)},
        }
        for i, (p, a, b) in enumerate(parts)
    ]
    return packing.corpus(examples)


DATA = data_of(101)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])
            assert x[name].dtype == y[name].dtype


def ids(batches):
    return [int(i) for b in batches for i in b["example_ids"].ravel() if i >= 0]


@pytest.mark.parametrize("prefetch, name", [(0, "shared"), *((2, name) for name in SHAPES)])
def test_resume_is_exact_at_every_step(prefetch, name):
    shape = SHAPES[name]
    whole = TrainIterator(DATA, shape, seed=3, prefetch=0)
    states, batches = [whole.get_state()], []
    for _ in range(60):
        batches.append(next(whole))
        states.append(json.loads(json.dumps(whole.get_state())))
    assert states[-1]["epoch"] >= 2  # several epochs, and states in the middle of each
    if shape.slots > 1 or shape.buckets:
        assert any(s["pending"] for s in states)  # and in the middle of packing
    assert {b["tokens"].shape[1] for b in batches} == set(shape.buckets or [32])
    fresh = TrainIterator(DATA, shape, seed=3, prefetch=prefetch)
    for at in (0, 1, 7, 23, 59):
        fresh.set_state(states[at])
        assert fresh.get_state() == states[at]
        same(take(fresh, 60 - at), batches[at:])
    fresh.close()


def test_state_is_that_of_the_last_batch_taken_not_of_the_last_prepared():
    ahead, plain = TrainIterator(DATA, SHAPE, prefetch=3), TrainIterator(DATA, SHAPE, prefetch=0)
    for _ in range(5):
        same([next(ahead)], [next(plain)])
        time.sleep(0.01)  # the thread runs ahead
        assert ahead.get_state() == plain.get_state()
    ahead.close()
    same(take(ahead, 3), take(plain, 3))  # closing loses nothing
    ahead.close()


def test_each_epoch_holds_every_example_once_in_another_order():
    iterator = TrainIterator(DATA, SHAPE, prefetch=0)
    seen = ids(take(iterator, 120))
    assert len(seen) > 3 * len(DATA)
    drawn = [iterate.shuffled(i, len(DATA), 0, 0) for i in range(len(DATA))]
    assert sorted(drawn) == list(range(len(DATA))) and drawn != sorted(drawn)
    assert drawn != [iterate.shuffled(i, len(DATA), 0, 1) for i in range(len(DATA))]
    assert drawn != [iterate.shuffled(i, len(DATA), 1, 0) for i in range(len(DATA))]
    assert set(seen[: len(DATA) + SHAPE.look_ahead * 4]) == set(range(len(DATA)))


@each_shape
def test_nothing_is_lost_or_repeated_within_epochs(shape):
    iterator = TrainIterator(DATA, shape, prefetch=0)
    counts = np.bincount(ids(take(iterator, 40)), minlength=len(DATA))
    counts += np.bincount(np.asarray(iterator.get_state()["pending"]), minlength=len(DATA))
    drawn = iterator.get_state()["epoch"] * len(DATA) + iterator.get_state()["drawn"]
    assert counts.sum() == drawn and counts.max() - counts.min() <= 1


def test_seed_decides_the_order():
    first = ids(take(TrainIterator(DATA, SHAPE, seed=0, prefetch=0), 3))
    assert first == ids(take(TrainIterator(DATA, SHAPE, seed=0, prefetch=0), 3))
    assert first != ids(take(TrainIterator(DATA, SHAPE, seed=1, prefetch=0), 3))


@each_shape
def test_processes_share_the_global_batch(shape):
    whole = take(TrainIterator(DATA, shape, prefetch=0), 6)
    parts = [take(TrainIterator(DATA, shape, shard_index=i, shard_count=4, prefetch=0), 6) for i in range(4)]
    joined = [{n: np.concatenate([p[step][n] for p in parts]) for n in whole[0]} for step in range(6)]
    same(joined, whole)


def test_resume_with_another_number_of_processes():
    whole = take(TrainIterator(DATA, SHAPE, prefetch=0), 9)
    two = [TrainIterator(DATA, SHAPE, shard_index=i, shard_count=2, prefetch=0) for i in range(2)]
    for iterator in two:
        take(iterator, 4)
    assert two[0].get_state() == two[1].get_state()
    one = TrainIterator(DATA, SHAPE, prefetch=0)
    one.set_state(two[1].get_state())
    same(take(one, 5), whole[4:])


def test_resume_with_another_batch_shape_repeats_and_loses_nothing():
    first = TrainIterator(DATA, SHAPE, prefetch=0)
    seen = ids(take(first, 3))
    second = TrainIterator(DATA, Layout(rows=2, row_length=64, slots=9, responses=2, look_ahead=4), prefetch=0)
    second.set_state(first.get_state())
    while second.epoch == 0:
        seen += ids([next(second)])
    assert np.bincount(seen, minlength=len(DATA)).max() <= 2
    assert set(seen) | set(second.get_state()["pending"]) == set(range(len(DATA)))


def test_small_data_fill_a_large_batch():
    (batch,) = take(TrainIterator(data_of(2), SHAPE, prefetch=0), 1)
    assert batch["example_mask"].any(1).all() and set(ids([batch])) == {0, 1}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"seed": 4}, "has seed=4, this run has 3"),
        ({"data": "other"}, "has data='other', this run has"),
        ({"examples": 7}, "has examples=7, this run has 101"),
        ({"version": 9}, "has version=9"),
        ({"drawn": 102}, "points outside of the 101 examples"),
        ({"pending": [101]}, "points outside of the 101 examples"),
        ({"extra": 1}, "not a data-iterator state: expected data, drawn"),
    ],
)
def test_state_of_another_run(change, message):
    iterator = TrainIterator(DATA, SHAPE, seed=3, prefetch=0)
    with pytest.raises(ValueError, match=message):
        iterator.set_state({**iterator.get_state(), **change})


def test_state_that_is_none():
    with pytest.raises(ValueError, match="not a data-iterator state: .*got NoneType"):
        TrainIterator(DATA, SHAPE, prefetch=0).set_state(None)


def test_state_knows_other_data():
    state = TrainIterator(data_of(101, seed=1), SHAPE, prefetch=0).get_state()
    with pytest.raises(ValueError, match="saved data-iterator state has data="):
        TrainIterator(DATA, SHAPE, prefetch=0).set_state(state)


def test_prefetching_hides_the_work(monkeypatch):
    """Batches are made while the training step runs: taking one that is ready takes less time than making it."""
    real = iterate._produce

    def slow(*args, **options):
        time.sleep(0.2)
        return real(*args, **options)

    monkeypatch.setattr(iterate, "_produce", slow)

    def waited(prefetch):
        iterator = TrainIterator(DATA, SHAPE, prefetch=prefetch)
        next(iterator)
        assert iterator.wait_seconds >= 0.2  # nothing was ready for the first one
        before = iterator.wait_seconds
        while prefetch and not iterator._queue.full():  # a long training step
            time.sleep(0.01)
        next(iterator)
        iterator.close()
        return iterator.wait_seconds - before

    assert waited(2) < 0.1 < 0.2 <= waited(0)


def test_error_in_the_thread_reaches_the_consumer(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("broken disk")

    monkeypatch.setattr(iterate, "_produce", broken)
    with pytest.raises(RuntimeError, match="broken disk"):
        next(TrainIterator(DATA, SHAPE, prefetch=2))


def test_threads_end_with_their_iterator():
    def running():
        return sum(t.name == "prefjax-data" for t in threading.enumerate())

    before = running()
    iterator = TrainIterator(DATA, SHAPE)
    next(iterator)
    assert running() == before + 1
    del iterator
    for _ in range(100):
        if running() == before:
            return
        time.sleep(0.02)
    raise AssertionError("the prefetching thread outlives its iterator")


@each_shape
def test_evaluation_sees_each_example_once_and_again(shape):
    batches = EvalBatches(DATA, shape)
    assert sorted(ids(batches)) == list(range(len(DATA))) == sorted(ids(batches))
    assert len(batches) == len(list(batches))
    assert {b["tokens"].shape for b in batches} == {(shape.rows, n) for n in shape.buckets or [32]}
    parts = [list(EvalBatches(DATA, shape, shard_index=i, shard_count=2)) for i in range(2)]
    same([{n: np.concatenate([a[n], b[n]]) for n in a} for a, b in zip(*parts, strict=True)], list(batches))


@each_shape
def test_blank_batches_have_every_shape_that_comes(shape):
    def kinds(batches):
        return {tuple((name, x.shape, x.dtype) for name, x in sorted(batch.items())) for batch in batches}

    train = TrainIterator(DATA, shape, shard_index=1, shard_count=2, prefetch=0)
    held_out = EvalBatches(DATA, shape, shard_index=1, shard_count=2)
    for blanks, real in ((train.blanks(), take(train, 25)), (held_out.blanks(), held_out)):
        assert len(blanks) == len(kinds(blanks)) and kinds(blanks) == kinds(real)
        assert not any(batch["example_mask"].any() or batch["segments"].any() for batch in blanks)


def test_evaluation_of_nothing():
    assert (
        len(EvalBatches(packing.corpus([], 2), SHAPE)) == 0 == len(EvalBatches(packing.corpus([], 2), SHAPE).blanks())
    )


def test_bad_options():
    with pytest.raises(ValueError, match="the training set is empty"):
        TrainIterator(packing.corpus([], 2), SHAPE)
    with pytest.raises(ValueError, match="shard_index=2, shard_count=2"):
        TrainIterator(DATA, SHAPE, shard_index=2, shard_count=2)
    with pytest.raises(ValueError, match="rows=4 .* cannot be shared by 3 processes"):
        EvalBatches(DATA, SHAPE, shard_index=0, shard_count=3)
    with pytest.raises(ValueError, match="prefetch=-1"):
        TrainIterator(DATA, SHAPE, prefetch=-1)

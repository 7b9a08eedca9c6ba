"""Packing: the token layout's invariants, round trips, both layouts, planning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.data import packing
from prefjax.data.packing import Layout


def example(number, prompt, *responses, **fields):
    """Distinct tokens, so that a misplaced one shows."""
    start, out = 1000 * (number + 1), []
    for n in (prompt, *responses):
        out.append(np.arange(start, start + n, dtype=np.int32))
        start += n
    return {"id": number, "prompt": out[0], "responses": out[1:], "fields": fields}


@st.composite
def corpora(draw):
    k = draw(st.integers(0, 4))
    out = []
    for number in range(draw(st.integers(1, 12))):
        count = draw(st.integers(1, k)) if k else 0
        lengths = [draw(st.integers(1, 6)) for _ in range(1 + count)]
        labels = [draw(st.integers(0, 5)) for _ in range(count)]
        out.append(example(number, *lengths, desirable=bool(number % 2), list_labels=labels))
    return k, out


def as_text(examples):
    return [
        (
            e["id"],
            e["prompt"].tolist(),
            [r.tolist() for r in e["responses"]],
            np.asarray(e["fields"]["list_labels"]).tolist(),
        )
        for e in sorted(examples, key=lambda e: e["id"])
    ]


def check_layout(batch, layout):
    """The contract of a batch, row by row."""
    pad = batch["segments"] == 0
    for name in ("tokens", "positions", "branches"):
        assert not batch[name][pad].any()
    for name in packing.TOKEN_ARRAYS:
        assert batch[name].dtype == np.int32
    for segments, branches, positions in zip(batch["segments"], batch["branches"], batch["positions"], strict=True):
        used = np.flatnonzero(segments)
        assert used.tolist() == list(range(len(used)))  # no hole inside a row
        assert (np.diff(segments[used]) >= 0).all()  # a segment is contiguous
        for s in np.unique(segments[used]):
            inside = segments == s
            assert (np.diff(branches[inside]) >= 0).all()  # prompt, then branch by branch
            prompt = positions[inside & (branches == 0)]
            assert prompt.tolist() == list(range(len(prompt))) and len(prompt)
            for b in np.unique(branches[inside & (branches > 0)]):
                part = positions[inside & (branches == b)]
                assert part.tolist() == list(range(len(prompt), len(prompt) + len(part)))
    filled = batch["example_mask"]
    assert (batch["example_ids"][~filled] == -1).all() and (batch["example_ids"][filled] >= 0).all()
    assert not batch["response_mask"][~filled].any()
    k = batch["response_mask"].shape[2]
    for e, s in np.argwhere(filled):
        rows = [e] if layout == "shared" else range(e * max(k, 1), (e + 1) * max(k, 1))
        assert all(set(batch["segments"][r]) <= {0, 1} for r in rows) or layout == "shared"
        for j in range(k):
            row = e if layout == "shared" else e * k + j
            there = ((batch["segments"][row] == s + 1) & (batch["branches"][row] == j + 1)).any()
            assert there == batch["response_mask"][e, s, j]


@settings(max_examples=60, deadline=None)
@given(
    corpora(),
    st.sampled_from(packing.LAYOUTS),
    st.sampled_from(packing.FITS),
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from([(), (9, 16, 32)]),
)
def test_round_trip_every_token_once(drawn, layout, fit, slots, look_ahead, buckets):
    k, examples = drawn
    rows = 2 * max(k, 1) if layout == "separate" else 3
    batches = packing.pack(
        examples,
        layout=layout,
        rows=rows,
        row_length=32,
        slots=slots,
        responses=k,
        look_ahead=look_ahead,
        fit=fit,
        buckets=buckets,
    )
    for batch in batches:
        assert len(batch["tokens"]) == rows and batch["tokens"].shape[1] in (buckets or (32,))
        check_layout(batch, layout)
    assert as_text(e for b in batches for e in packing.unpack(b)) == as_text(examples)
    repeats = {e["id"]: 1 if layout == "shared" else max(len(e["responses"]), 1) for e in examples}
    expected = sum(repeats[e["id"]] * len(e["prompt"]) + sum(map(len, e["responses"])) for e in examples)
    assert sum(int((b["segments"] > 0).sum()) for b in batches) == expected


def test_shared_layout_by_hand():
    pairs = [example(0, 2, 1, 2, margins=0.5), example(1, 1, 2, 1, margins=1.5)]
    (batch,) = packing.pack(pairs, rows=1, row_length=10, slots=3)
    assert batch["tokens"].tolist() == [[1000, 1001, 1002, 1003, 1004, 2000, 2001, 2002, 2003, 0]]
    assert batch["segments"].tolist() == [[1, 1, 1, 1, 1, 2, 2, 2, 2, 0]]
    assert batch["branches"].tolist() == [[0, 0, 1, 2, 2, 0, 1, 1, 2, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 1, 0]]
    assert batch["example_ids"].tolist() == [[0, 1, -1]]
    assert batch["example_mask"].tolist() == [[True, True, False]]
    assert batch["response_mask"].tolist() == [[[True, True], [True, True], [False, False]]]
    assert batch["margins"].tolist() == [[0.5, 1.5, 0.0]] and batch["margins"].dtype == np.float32
    assert packing.efficiency(batch) == 0.9


def test_separate_layout_by_hand():
    pairs = [example(0, 2, 1, 2), example(1, 1, 2, 1)]
    (batch,) = packing.pack(pairs, layout="separate", rows=4, row_length=5)
    assert batch["tokens"].tolist() == [
        [1000, 1001, 1002, 0, 0],
        [1000, 1001, 1003, 1004, 0],
        [2000, 2001, 2002, 0, 0],
        [2000, 2003, 0, 0, 0],
    ]
    assert batch["branches"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 2, 2, 0], [0, 1, 1, 0, 0], [0, 2, 0, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 0], [0, 1, 2, 0, 0], [0, 1, 0, 0, 0]]
    assert batch["segments"].max() == 1 and batch["example_ids"].tolist() == [[0], [1]]


def test_absent_responses_leave_their_row_empty():
    (batch,) = packing.pack([example(0, 1, 1, 1), example(1, 1, 1)], layout="separate", rows=4, row_length=4)
    assert batch["response_mask"].tolist() == [[[True, True]], [[True, False]]]
    assert not batch["tokens"][3].any()


def test_prompts_alone_have_no_responses():
    (batch,) = packing.pack([example(0, 3), example(1, 2)], rows=2, row_length=4)
    assert batch["response_mask"].shape == (2, 8, 0)
    assert [e["prompt"].tolist() for e in packing.unpack(batch)] == [[1000, 1001, 1002], [2000, 2001]]


def test_bool_fields_stay_bool_and_lists_become_one_a_response():
    (batch,) = packing.pack([example(0, 1, 1, 1, desirable=True, list_labels=[2, 1])], rows=1, row_length=8, slots=2)
    assert batch["desirable"].tolist() == [[True, False]] and batch["desirable"].dtype == bool
    assert batch["list_labels"].tolist() == [[[2.0, 1.0], [0.0, 0.0]]]


def test_best_fit_takes_the_longest_that_fits_and_first_fit_the_oldest():
    lengths = [6, 1, 4, 3, 4]
    examples = [example(i, n) for i, n in enumerate(lengths)]

    def ids(fit):
        batches = packing.pack(examples, rows=2, row_length=10, slots=4, fit=fit)
        return [[row[row >= 0].tolist() for row in b["example_ids"]] for b in batches]

    assert ids("best") == [[[0, 2], [1, 4, 3]]]
    assert ids("first") == [[[0, 1, 3], [2, 4]]]


def test_look_ahead_bounds_the_choice():
    examples = [example(i, n) for i, n in enumerate([6, 5, 4])]
    near, far = (packing.pack(examples, rows=1, row_length=10, slots=4, look_ahead=n) for n in (1, 2))
    assert [b["example_ids"][0, 0] for b in near] == [0, 1] and len(far) == 2
    assert far[0]["example_ids"][0, :2].tolist() == [0, 2]
    assert near[1]["example_ids"][0, :2].tolist() == [1, 2]


def test_corpus_gives_its_examples_back_also_to_grain():
    import grain

    examples = [example(i, 2, *[1 + i] * (1 + i % 2), list_labels=[i] * (1 + i % 2)) for i in range(5)]
    data = packing.corpus(examples)
    assert as_text([data[i] for i in range(5)]) == as_text(examples)
    assert as_text(grain.MapDataset.source(data).shuffle(seed=1)) == as_text(examples)
    with pytest.raises(IndexError, match="example 5 of 5"):
        data[5]


def test_slots_bound_the_examples_of_a_row():
    batches = packing.pack([example(i, 1) for i in range(5)], rows=1, row_length=100, slots=2)
    assert [b["example_mask"].sum() for b in batches] == [2, 2, 1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(1, 8))
def test_no_example_starves(sizes, window):
    """The oldest waiting example opens the next row, so it waits at most `window` rows."""
    shape = Layout(rows=1, row_length=20, slots=4, look_ahead=window)
    plans = packing.plan_all(np.asarray(sizes), shape)
    for number, ((row,),) in enumerate(zip(plans, strict=True)):
        placed = sorted(i for (earlier,) in plans[:number] for i in earlier)
        assert row[0] == min(set(range(len(sizes))) - set(placed))
    assert sorted(i for (row,) in plans for i in row) == list(range(len(sizes)))


def test_the_one_that_waits_longest_decides_the_bucket_and_similar_ones_share_it():
    """Rows of 4 tokens where the waiting ones fill them or none is left, else longer ones, which hold these too."""

    def plans(sizes, slots=1, **options):
        examples = [example(i, n) for i, n in enumerate(sizes)]
        batches = packing.pack(examples, rows=2, row_length=10, slots=slots, buckets=[4, 10], **options)
        return [(b["tokens"].shape[1], [row[row >= 0].tolist() for row in b["example_ids"]]) for b in batches]

    assert plans([3, 9, 2, 4, 10]) == [(4, [[0], [2]]), (10, [[1], [4]]), (4, [[3], []])]
    assert plans([3, 9, 10]) == [(10, [[0], [1]]), (10, [[2], []])]
    assert plans([3, 9, 10, 2, 1], look_ahead=2) == [(10, [[0], [1]]), (10, [[2], [3]]), (4, [[4], []])]
    # A long row takes what is short, a short row as many as fit
    assert plans([6, 1, 3, 4, 2, 1, 1], slots=3) == [(10, [[0, 3], [2, 4, 1]]), (4, [[5, 6], []])]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=60),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 8),
    st.sampled_from(packing.FITS),
)
def test_no_example_starves_in_buckets(sizes, rows, slots, window, fit):
    """The oldest waiting example opens the next batch; no row is empty while there is more to come."""
    shape = Layout(rows=rows, row_length=20, slots=slots, look_ahead=window, fit=fit, buckets=(5, 12, 20))
    left, stream, pending, drawn = set(range(len(sizes))), iter(range(len(sizes))), [], []
    sizes = np.asarray(sizes)

    def draw():
        drawn.append(next(stream, None))
        return drawn[-1]

    while left:
        chosen, plan = packing.plan(draw, pending, sizes, shape)
        assert chosen in shape.shapes and len(plan) == rows and plan[0][0] == min(left)
        assert all(len(row) <= slots and sizes[row].sum() <= chosen.row_length for row in plan)
        assert None in drawn or all(plan)
        placed = [index for row in plan for index in row]
        left -= set(placed)
        known = [index for index in drawn if index is not None]
        assert sorted(pending) == sorted(left & set(known)) and len(known) == len(set(known))
    assert packing.plan(draw, pending, sizes, shape)[1] == [[]] * rows


def test_packing_is_dense(shared_data):
    from prefjax.data import pipeline

    data = pipeline.dataset(path=str(shared_data / "ukpconvarg1" / "strict.tsv.gz"), tokenizer="bpe:512", limit=1500)
    assert data.packing_efficiency > 0.9


@pytest.mark.parametrize(
    "option,hint",
    [
        ({"layout": "shard"}, "layout='shard' is unknown; did you mean 'shared'"),
        ({"fit": "bets"}, "fit='bets' is unknown; did you mean 'best'"),
        ({"rows": 0}, "rows=0: expected an integer of at least 1"),
        ({"row_length": 2.5}, "row_length=2.5: expected an integer"),
        ({"buckets": [256, 128, 512]}, r"buckets=\[256, 128, 512\]: expected ascending row lengths of at least 2"),
        ({"buckets": (512, 512)}, "expected ascending"),
        ({"buckets": (128, 1024)}, "buckets=.128, 1024.: expected .* the last one row_length=512"),
        ({"buckets": (128,)}, "the last one row_length=512"),
        ({"buckets": (1, 512)}, "of at least 2"),
        ({"buckets": 512}, "buckets=512: expected ascending row lengths"),
        ({"buckets": "128,512"}, "buckets='128,512': expected ascending row lengths"),
        ({"rows": 3, "layout": "separate"}, "rows=3 is not a multiple of the 2 rows"),
    ],
)
def test_bad_options(option, hint):
    with pytest.raises(ValueError, match=hint):
        packing.pack([example(0, 1, 1, 1)], **option)


@pytest.mark.parametrize(
    "examples,hint",
    [
        ([example(0, 0, 1)], "example 0: the prompt has no tokens"),
        ([example(3, 1, 1, 0)], "example 3: response 2 has no tokens"),
        ([example(0, 1, 1), example(1, 1)], "example 1 has no response"),
        ([example(0, 1, 1, margins=1.0), example(1, 1, 1)], "example 1 has no fields, example 0 has margins"),
        ([example(0, 1, 1, list_labels=[1, 2])], "field 'list_labels': expected one number a response"),
        ([example(0, 1, 1, margins=1.0), example(1, 1, 1, margins=[1.0])], "'margins': expected one number, got"),
        ([example(0, 30, 1)], "31 tokens does not fit a row of 16"),
    ],
)
def test_bad_examples(examples, hint):
    for buckets in ((), (8, 16)):
        with pytest.raises(ValueError, match=hint):
            packing.pack(examples, rows=2, row_length=16, buckets=buckets)


def test_more_responses_than_places():
    with pytest.raises(ValueError, match="example 0 has 2 responses; expected at most 1"):
        packing.pack([example(0, 1, 1, 1)], responses=1)

"""The benchmark: cases by name, useful arithmetic by hand, and a case measured in its own process."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import bench, bench_figure


def test_cases_are_tasks_with_options():
    assert bench.parse("dpo") == ("dpo", bench.Shape())
    assert bench.parse("dpo_1b:layers=2")[1] == dataclasses.replace(bench.parse("dpo_1b")[1], layers=2)
    assert bench.parse("sft:vocab=32:layout=packed") == ("sft", bench.Shape(vocab=32, layout="packed", responses=1))
    for case in (*bench.TABLE, *bench.PRESETS, *(case for cases in bench.GROWTH.values() for case in cases)):
        bench.parse(case)


@pytest.mark.parametrize(
    "case, message",
    [
        ("dpoo", "'dpoo' is unknown; did you mean 'dpo'"),
        ("dpo:vocabs=3", "'vocabs' is unknown; did you mean 'vocab'"),
        ("dpo:vocab=many", "expected a whole number"),
        ("dpo:layout=pack", "layout='pack' is unknown; did you mean 'packed'"),
        ("dpo:data=hhh", "data='hhh' is unknown; did you mean 'hh'"),
    ],
)
def test_unknown_cases_are_refused(case, message):
    with pytest.raises(ValueError, match=message):
        bench.parse(case)


@pytest.mark.parametrize("layout", ["shared", "separate"])
def test_useful_tokens_and_operations_by_hand(layout):
    shape = bench.parse(f"dpo:examples=3:prompt=2:response=3:hidden=4:intermediate=5:layers=2:vocab=7:layout={layout}")[
        1
    ]
    (batch,), lengths = bench.batches_of(shape)
    assert lengths == [[2, 3, 3]] * 3
    assert bench.useful_tokens(batch) == 3 * 2 * 5
    tokens, keys = (3 * 8, 3 * (1 + 2 + 2 * (3 + 4 + 5))) if layout == "shared" else (3 * 10, 6 * (1 + 2 + 3 + 4 + 5))
    body = 2 * (2 * (4 * 16 + 3 * 20) * tokens + 4 * 4 * keys)
    assert bench.useful_flops(shape, batch, 4, head=False) == 4 * body
    assert bench.useful_flops(shape, batch, 4, head=True) == 4 * (body + 2 * 4 * 7 * 3 * 6)


def test_packed_examples_differ_in_length_and_rows_hold_several():
    shape = bench.parse("dpo:examples=8:prompt=30:response=80:layout=packed:stored=1")[1]
    batches, lengths = bench.batches_of(shape)
    assert len({tuple(row) for row in lengths}) > 1 and batches[0]["example_mask"][0].sum() > 1
    assert batches[0]["ref_logps"].shape == batches[0]["response_mask"].shape
    assert bench.useful_tokens(batches[0]) > np.sum(batches[0]["segments"] > 0)  # a prompt counts once a response


def test_real_data_need_their_folder(monkeypatch):
    monkeypatch.delenv("PREFJAX_DATA", raising=False)
    with pytest.raises(ValueError, match="set PREFJAX_DATA"):
        bench.real_corpus("hh", 3)


def test_a_case_measured_in_its_own_process(tmp_path):
    case = "dpo:vocab=64:hidden=16:layers=1:heads=2:intermediate=16:examples=2:prompt=3:response=5"
    row = bench.measure(case, peer=None, steps=1, warmup=1, beside=f"{case}:lora=2")
    assert row["speed_ratio"] == pytest.approx(row["tokens_per_s"] / row["peer"]["tokens_per_s"])
    assert row["tokens_per_s"] == pytest.approx(2 * 2 * 8 / row["step_s"])
    assert row["peak_mb"] > 50 and row["compile_s"] > 0 and 0 < row["utilisation"] < 1
    table = bench_figure.markdown([row])
    assert case in table and "to peer's" in table
    bench_figure.plot([row], {}, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 1000
    json.dumps(row)


def test_growth_is_drawn_for_sizes_measured_twice(tmp_path):
    rows = [{"case": case, "tokens_per_s": 10.0 * i} for i, case in enumerate(["dpo", "dpo:layers=8", "sft"])]
    grown = bench.grown(rows)
    assert grown == {"layers": [(4, 0.0), (8, 10.0)]}
    bench_figure.plot(rows, grown, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 1000

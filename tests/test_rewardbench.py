"""RewardBench files on a run: both versions, any batch size, sections by published weights, errors by line."""

import json
import types

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from prefjax import mesh, rewardbench
from prefjax.data.gold import dataset as gold
from prefjax.data.sources import RowError
from prefjax.models.decoder import decoder

SUBSETS = (
    "mt-bench-easy",
    "mt-bench-easy",
    "alpacaeval-easy",
    "math-prm",
    "hep-cpp",
    "hep-cpp",
    "xstest-should-refuse",
)
WORDS = [(*words, subset) for words, subset in zip(("ab", "cd", "ef", "bc", "da", "fh", "cb"), SUBSETS, strict=True)]
ROWS = [
    {"id": i, "prompt": f"copy : {a} {b}", "chosen": f"{a} {b}", "rejected": f"{b} {a} {a}", "subset": subset}
    for i, (a, b, subset) in enumerate(WORDS)
]
SECOND = [
    {"id": "0", "prompt": "copy : a b", "chosen": ["a b"], "rejected": ["b a", "b", "a a b"], "subset": "Math"},
    {"id": "1", "prompt": "copy : c", "chosen": ["c"], "rejected": ["c"], "subset": "Math"},
    {"id": "tied:7", "prompt": "first : a b", "chosen": ["a", "[ a ]"], "rejected": ["b", "c"], "subset": "Ties"},
    {"id": "ref:7", "prompt": "first : c b", "chosen": ["c"], "rejected": ["b"], "subset": "Ties"},
]


@pytest.fixture(scope="module")
def run():
    """What `loop.load` gives, of a reward model that is also a policy with a reference."""
    data = gold.dataset(size=4, eval_size=0, rows=2, row_length=48)
    model = decoder(vocab_size=data.tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, outputs=1,
                    init_std=0.5)  # fmt: skip
    params, reference = jax.jit(lambda: tuple(model.init(jax.random.key(i)) for i in (0, 1)))()
    state = types.SimpleNamespace(params=params, carry={"reference": reference}, step=np.int32(3))
    config = types.SimpleNamespace(name="reward")
    return types.SimpleNamespace(
        config=config, dataset=data, model=model, state=state, key=jax.random.key(0), mesh=mesh.make_mesh({"data": 1})
    )


def test_version_1_from_parquet_in_any_batch(run, tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "bench.parquet")
    examples, version = rewardbench.read(str(tmp_path / "bench.parquet"))
    assert version == 1 and [e.subset for e in examples] == [row["subset"] for row in ROWS]
    found = rewardbench.scores(run, examples, rows=4)
    other = rewardbench.scores(run, examples, rows=3, row_length=40)
    np.testing.assert_allclose(np.array(found)[..., 0], np.array(other)[..., 0], atol=1e-5)
    made = rewardbench.report(examples, found, version=version)
    right = np.array([a[0] > b[0] for a, b in found], float)
    easy, alpaca, prm, cpp, refuse = right[:2].mean(), right[2], right[3], right[4:6].mean(), right[6]
    sections = {"Chat": (28 * easy + 100 * alpaca) / 128, "Safety": refuse, "Reasoning": (984 * prm + 164 * cpp) / 1148}
    assert made.results.sections == pytest.approx(sections)
    assert made.results.score == pytest.approx(np.mean(list(sections.values())))
    assert "section Reasoning" in rewardbench.table(made) and made.counts["hep-cpp"] == 2
    implicit = rewardbench.scores(run, examples, rows=4, reward="implicit")
    assert np.abs(np.array(implicit) - np.array(found)).max() > 0.01


def test_version_2_counts_ties_and_level_responses(run, tmp_path):
    file = tmp_path / "bench.jsonl"
    file.write_text("\n".join(map(json.dumps, SECOND)))
    examples, version = rewardbench.read(str(file))
    assert version == 2
    found = rewardbench.scores(run, examples, rows=4)
    made = rewardbench.report(examples, found, version=version)
    first = float(found[0][0][0] > found[0][1].max())
    assert made.results.subsets["Math"] == pytest.approx((first + 0.5) / 2)  # the second is level with its twin
    assert made.level >= 1 and made.ties is not None and made.results.subsets["Ties"] == made.ties["score"]
    assert made.results.score == pytest.approx((made.results.subsets["Math"] + made.ties["score"]) / 2)


def test_other_subsets_are_sections_of_their_own():
    examples = [rewardbench.Example(str(i), name, "p", ["a"], ["b"], "f:1") for i, name in enumerate("xxy")]
    found = [(np.array([v]), np.array([0.0])) for v in (1.0, 0.0, 1.0)]
    made = rewardbench.report(examples, found, version=1)
    assert made.results.sections == {"x": 0.5, "y": 1.0} and made.level == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "p", "chosen": "a", "rejected": "b", "subsets": "x"}], "did you mean 'subsets'"),
        ([{"prompt": "p", "chosen": 3, "rejected": "b", "subset": "x"}], "field 'chosen': expected text"),
    ],
)
def test_bad_rows_are_named(rows, message, tmp_path):
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(RowError, match=f"f.jsonl:1.*{message}"):
        rewardbench.read(str(tmp_path / "f.jsonl"))


def test_refusals(run, tmp_path):
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, [ROWS[0], SECOND[0]])))
    with pytest.raises(ValueError, match="version 1.*version 2"):
        rewardbench.read(str(tmp_path / "f.jsonl"))
    with pytest.raises(ValueError, match="did you mean 'implicit'"):
        rewardbench.scores(run, [], reward="implict")
    example = rewardbench.Example("tied", "Ties", "p", ["a", "b"], ["c"], "f:9")
    with pytest.raises(ValueError, match="f:9.*expected 'tied:<n>'"):
        rewardbench.report([example], [(np.ones(2), np.zeros(1))], version=2)

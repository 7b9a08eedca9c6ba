"""The gold world as a data set: every kind gives batches that decode to its records."""

import numpy as np
import pytest

from prefjax import config
from prefjax.data import records
from prefjax.data.gold import dataset as gold
from prefjax.data.gold import world

SMALL = {"size": 12, "eval_size": 6, "rows": 4, "row_length": 96}


def _responses(data, batch, row: int, slot: int) -> list[str]:
    inside = batch["segments"][row] == slot + 1
    found = [batch["tokens"][row][inside & (batch["branches"][row] == k)] for k in (1, 2)]
    return [data.tokenizer.decode([t for t in tokens if t != data.tokenizer.eos_id]) for tokens in found]


@pytest.mark.parametrize("kind", gold.KINDS)
def test_every_kind_of_the_world(kind):
    data = gold.dataset(kind=kind, **SMALL)
    made_kind, make = gold.KINDS[kind]
    assert data.kind == made_kind and data.kind in records.KINDS
    assert (len(data.training), len(data.held_out)) == (12, 6)
    made = make(size=12)
    assert [r["prompt"] for r in data.records[:12]] == [r["prompt"] for r in made]
    assert not {r["prompt"] for r in data.records[:12]} & {r["prompt"] for r in data.records[12:]}
    assert f"gold world {kind}, seed 0" in data.describe()


def test_cycles_are_pairs_in_whole_triples():
    data = gold.dataset(kind="cycles", world={"temperature": 0.05}, **SMALL)
    found = {}
    for batch in data.train_in_order():
        for row, slot in np.argwhere(batch["example_mask"]):
            found[int(batch["example_ids"][row, slot])] = _responses(data, batch, row, slot)
    made = world.cycles(size=12, temperature=0.05)
    assert found == {r["id"]: r["responses"] for r in made}
    for j in range(4):
        # Each of the three texts of a triple is in two of its pairs: no order fits the pairs.
        texts = [text for i in range(3) for text in found[3 * j + i]]
        assert len(set(texts)) == 3 and all(texts.count(text) == 2 for text in texts)
    held_out = [r["fields"]["triple"] for r in data.records[12:]]
    assert held_out == [4, 4, 4, 5, 5, 5]


def test_options_are_those_of_the_kind():
    with pytest.raises(ValueError, match="kind='cycle' is unknown; did you mean 'cycles'"):
        gold.dataset(kind="cycle", **SMALL)
    with pytest.raises(ValueError, match="world.annotators is no option of the gold world's cycles"):
        gold.dataset(kind="cycles", world={"annotators": ["terse"]}, **SMALL)
    with pytest.raises(ValueError, match="world.nois is no option of the gold world's pairs; did you mean 'noise'"):
        gold.dataset(kind="pairs", world={"nois": 0.1}, **SMALL)
    node = config.ref(gold.dataset, kind="cycles", world={"noise": 0.1}, **SMALL)
    assert config.build(node)().kind == "pairs"

"""The entry points: files and records to data sets, options as data, the description, real data end to end."""

import dataclasses
import json
import re

import numpy as np
import pytest

from prefjax import config
from prefjax.data import packing, pipeline, rewrite, tokenization
from prefjax.data.sources import RowError

SMALL = {"tokenizer": "bytes", "rows": 2, "row_length": 64, "eval_fraction": 0.25}


def records_of(count=12):
    return [
        {
            "id": i,
            "prompt": f"question {i}?",
            "responses": [f"good {i}", f"bad {i}"],
            "fields": {},
            "source": f"made:{i}",
        }
        for i in range(count)
    ]


def write(folder, *rows, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def texts(data, batches):
    return {
        e["id"]: (data.tokenizer.decode(e["prompt"]), [data.tokenizer.decode(r) for r in e["responses"]])
        for b in batches
        for e in packing.unpack(b)
    }


def test_records_to_batches_and_back():
    data = pipeline.from_records(records_of(), kind="pairs", **SMALL)
    held = texts(data, data.eval())
    seen = texts(data, data.train_in_order())
    assert len(held) == 3 and len(seen) == 9 and not set(held) & set(seen)
    eos = data.tokenizer.eos_token
    assert {**held, **seen} == {i: (f"question {i}?", [f"good {i}{eos}", f"bad {i}{eos}"]) for i in range(12)}
    assert [data.held_out_records[i] for i in sorted(held)] == [True] * 3
    batch = next(data.train(prefetch=0))
    assert batch["tokens"].shape == (2, 64) and set(texts(data, [batch])) <= set(seen)
    assert data.kind == "pairs" and data.counts.examples == 12 and data.records[3]["prompt"] == "question 3?"


def test_both_layouts_hold_the_same_examples():
    shared = pipeline.from_records(records_of(), kind="pairs", **SMALL)
    separate = pipeline.from_records(records_of(), kind="pairs", **SMALL, layout="separate")
    assert texts(shared, shared.eval()) == texts(separate, separate.eval())
    assert separate.layout.slots == 1 and next(separate.train(prefetch=0))["example_mask"].shape == (1, 1)


def whole_rows(data):
    return dataclasses.replace(data.layout, buckets=())


@pytest.mark.parametrize("buckets", [(), (36, 64)])
@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_batches_per_epoch_and_efficiency_are_counted(layout, buckets):
    found = [{**r, "prompt": r["prompt"] + " " * (r["id"] % 4 * 8)} for r in records_of(40)]
    data = pipeline.from_records(found, kind="pairs", **SMALL, layout=layout, buckets=buckets)
    iterator, batches = data.train(prefetch=0), []
    while len({i for b in batches for i in b["example_ids"].ravel() if i >= 0}) < len(data.training):
        batches.append(next(iterator))
    assert abs(data.batches_per_epoch - len(batches)) <= 2
    measured = sum((b["segments"] > 0).sum() for b in batches) / sum(b["segments"].size for b in batches)
    assert abs(measured - data.packing_efficiency) < 0.1
    lengths = [b["tokens"].shape[1] for b in batches]
    assert set(lengths) == set(buckets or [64])
    said = re.findall(r"(\d+) \((\d+)% of batches\)", data.describe())
    assert [int(length) for length, _ in said] == list(buckets)
    for length, share in said:
        assert abs(int(share) / 100 - np.mean(np.array(lengths) == int(length))) < 0.1
    if buckets and layout == "separate":
        assert data.packing_efficiency > 0.1 + dataclasses.replace(data, layout=whole_rows(data)).packing_efficiency


def test_long_epochs_are_estimated(monkeypatch):
    data = pipeline.from_records(records_of(60), kind="pairs", **SMALL)
    exact = data.batches_per_epoch
    monkeypatch.setattr(pipeline, "EXACT", 20)
    again = pipeline.from_records(records_of(60), kind="pairs", **SMALL)
    assert abs(again.batches_per_epoch - exact) <= 2


def test_seed_of_the_shuffle_and_of_the_split():
    one, two = (pipeline.from_records(records_of(), kind="pairs", seed=s, **SMALL) for s in (0, 1))
    assert (one.held_out_records != two.held_out_records).any()
    a, b, c = (
        next(it)["example_ids"].tolist()
        for it in (one.train(prefetch=0), one.train(5, prefetch=0), one.train(0, prefetch=0))
    )
    assert a == c != b


def test_held_out_records_of_their_own():
    data = pipeline.from_records(
        records_of()[:8], kind="pairs", eval_records=records_of()[8:], **{**SMALL, "eval_fraction": 0}
    )
    assert sorted(texts(data, data.eval())) == [8, 9, 10, 11]
    with pytest.raises(ValueError, match="eval_fraction=0.25 must be 0"):
        pipeline.from_records(records_of()[:8], kind="pairs", eval_records=records_of()[8:], **SMALL)


def test_held_out_file(tmp_path, capsys):
    path = write(tmp_path, *({"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(4)))
    other = write(tmp_path, {"prompt": "r", "chosen": "a", "rejected": "b"}, name="b.jsonl")
    data = pipeline.dataset(path=path, eval_path=other, **{**SMALL, "eval_fraction": 0})
    assert list(texts(data, data.eval()).values()) == [("r", ["a<|endoftext|>", "b<|endoftext|>"])]
    assert f"data: 4 pairs records from {path}, format pairs (detected), held out: 1 pairs" in capsys.readouterr().out
    kto = write(tmp_path, {"prompt": "r", "completion": "a", "label": True}, name="c.jsonl")
    with pytest.raises(ValueError, match="path holds 'pairs' records, eval_path 'unpaired'; expected one kind"):
        pipeline.dataset(path=path, eval_path=kto, **{**SMALL, "eval_fraction": 0})


def test_everything_left_out_is_counted_and_printed(tmp_path, capsys):
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [{**good, "prompt": f"q{i}"} for i in range(6)]
    rows += [{**good, "rejected": "a"}, {**good, "chosen": "<|endoftext|> x"}, {**good, "prompt": "x" * 200}]
    data = pipeline.dataset(path=write(tmp_path, *rows), on_error="skip", truncation="drop", **SMALL)
    assert data.counts.skipped == {"chosen equals rejected": 1, "end token inside a response": 1}
    assert data.counts.dropped == {"too long": 1} and data.counts.examples == 6
    assert f"data: {data.counts}\n" in capsys.readouterr().out
    assert str(data.counts) in data.describe()


def test_description_says_what_there_is(shared_data):
    path = str(shared_data / "ukpconvarg1" / "strict.tsv.gz")
    data = pipeline.dataset(path=path, tokenizer="bpe:512", row_length=256, limit=400, eval_fraction=0)
    text = data.describe()
    for part in (
        "format ukp_strict (detected)",
        "400 training and 0 held-out",
        "512 tokens",
        "8 rows of 256",
        "truncated",
    ):
        assert part in text
    assert "\n" not in text and len(data.eval()) == 0


def test_tokenizers_by_name(tmp_path, shared_data):
    trained = pipeline.from_records(records_of(), kind="pairs", **{**SMALL, "tokenizer": "bpe:270"})
    assert trained.tokenizer.vocab_size == 270
    again = pipeline.from_records(records_of(), kind="pairs", **{**SMALL, "tokenizer": "bpe:270"})
    assert again.tokenizer.fingerprint == trained.tokenizer.fingerprint and again.fingerprint == trained.fingerprint
    trained.tokenizer.save(tmp_path)
    loaded = pipeline.from_records(records_of(), kind="pairs", **{**SMALL, "tokenizer": str(tmp_path)})
    assert loaded.fingerprint == trained.fingerprint
    given = pipeline.from_records(records_of(), kind="pairs", **{**SMALL, "tokenizer": trained.tokenizer})
    assert given.tokenizer is trained.tokenizer
    gpt2 = pipeline.from_records(
        records_of(), kind="pairs", **{**SMALL, "tokenizer": str(shared_data / "tokenizer_gpt2")}
    )
    assert gpt2.tokenizer.vocab_size == 50257


def test_tokenizer_never_sees_held_out_texts():
    found = [{**r, "responses": [f"zebra{r['id']} " * 3, "b"]} for r in records_of(12)]
    options = {**SMALL, "tokenizer": "bpe:300", "row_length": 256}
    one = pipeline.from_records(found, kind="pairs", **options)
    changed = [
        {**r, "responses": ["something else", "b"]} if held else r
        for r, held in zip(found, one.held_out_records, strict=True)
    ]
    two = pipeline.from_records(changed, kind="pairs", **options)
    assert one.tokenizer.fingerprint == two.tokenizer.fingerprint and one.fingerprint != two.fingerprint


def test_chat_template_as_text_and_as_file(tmp_path):
    chats = [{**r, "prompt": [{"role": "user", "content": r["prompt"]}]} for r in records_of()]
    template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    (tmp_path / "chat.jinja").write_text(template)
    for given in (template, str(tmp_path / "chat.jinja")):
        data = pipeline.from_records(chats, kind="pairs", chat_template=given, **SMALL)
        assert texts(data, data.eval()).popitem()[1][0].startswith("<question")


def test_text_is_cut_in_windows(shared_data):
    data = pipeline.dataset(path=str(shared_data / "tinyshakespeare"), tokenizer="bytes", row_length=128, limit=300)
    assert data.kind == "text" and data.counts.truncated_responses == 0 and data.counts.examples > 300
    total = sum(len(r["responses"][0].encode()) + 1 for r in data.records)
    assert sum(int(b["branches"].sum()) for part in (data.eval(), data.train_in_order()) for b in part) == total


@pytest.mark.parametrize("kind,fields", [("unpaired", {"desirable": True}), ("sft", {}), ("prompts", {}), ("text", {})])
def test_other_kinds(kind, fields):
    responses = [] if kind == "prompts" else ["an answer"]
    prompt = "" if kind == "text" else "q"
    found = [{"id": i, "prompt": prompt, "responses": responses, "fields": fields} for i in range(6)]
    data = pipeline.from_records(found, kind=kind, split_by="id", **SMALL)
    batch = next(data.train(prefetch=0))
    assert batch["response_mask"].shape[2] == len(responses) and batch["example_mask"].any()
    assert set(fields) <= set(batch)


def test_lists_of_different_length():
    found = [
        {
            "id": i,
            "prompt": f"q{i}",
            "responses": list("abcd"[: 2 + i % 3]),
            "fields": {"list_labels": list(range(2 + i % 3))},
        }
        for i in range(9)
    ]
    data = pipeline.from_records(found, kind="lists", **SMALL)
    batch = next(iter(data.train_in_order()))
    assert batch["list_labels"].shape[2] == 4 and batch["response_mask"].sum(2).max() <= 4
    assert (batch["list_labels"][~batch["response_mask"]] == 0).all()


def test_options_are_data(tmp_path):
    path = write(tmp_path, *({"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(4)))
    node = config.ref(pipeline.dataset, path=path, **SMALL)
    assert json.loads(json.dumps(node.to_dict()))["truncation"] == "keep_end"
    assert len(config.build(node)().training) == 3
    with pytest.raises(ValueError, match="no option 'row_lenght'; did you mean 'row_length'"):
        config.ref(pipeline.dataset, path=path, row_lenght=3)


@pytest.mark.parametrize(
    "option,message",
    [
        ({"kind": "pair"}, "kind='pair' is unknown; did you mean 'pairs'"),
        ({"layout": "share"}, "layout='share' is unknown; did you mean 'shared'"),
        ({"truncation": "keep"}, "truncation='keep' is unknown"),
        ({"fit": "worst"}, "fit='worst' is unknown"),
        ({"on_error": "drop"}, "on_error='drop'"),
        ({"split_by": "prompts"}, "split_by='prompts' is unknown"),
        ({"tokenizer": "bpe:many"}, "tokenizer='bpe:many': expected bpe:<number"),
        ({"tokenizer": "bytes", "eos_token": "</s>"}, "eos_token: a tokenizer trained here"),
        ({"chat_template": "x"}, "chat_template is given, but no record is a conversation"),
        ({"kind": "text", "max_prompt_length": 4}, "max_prompt_length=4 has no meaning for kind 'text'"),
        ({"kind": "prompts", "max_response_length": 4}, "max_response_length=4 has no meaning for kind 'prompts'"),
        ({"slots": 0}, "slots=0: expected an integer"),
        ({"layout": "separate", "slots": 2}, "slots=2: the separate layout"),
        ({"layout": "separate", "rows": 3}, "rows=3 is not a multiple of the 2 rows"),
        ({"responses": 1}, "has 2 responses; expected at most 1"),
        ({"max_length": 65}, "max_length=65: expected at most row_length=64"),
        ({"truncation": "drop", "row_length": 4}, "no training example is left; .*12 too long"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        pipeline.from_records(records_of(), **{"kind": "pairs", **SMALL, **option})


def test_missing_tokenizer_file():
    with pytest.raises(FileNotFoundError, match="no such tokenizer"):
        pipeline.from_records(records_of(), kind="pairs", **{**SMALL, "tokenizer": "nowhere/tokenizer.json"})


def test_special_tokens_of_a_given_tokenizer():
    tokenizer = tokenization.train_bpe([], vocab_size=257)
    with pytest.raises(ValueError, match="eos_token: already decided by the Tokenizer"):
        pipeline.from_records(records_of(), kind="pairs", **{**SMALL, "tokenizer": tokenizer}, eos_token="x")


def test_bad_records():
    bad = {**records_of()[0], "responses": ["a", "a"]}
    with pytest.raises(RowError, match="made:0: chosen equals rejected"):
        pipeline.from_records([bad, *records_of()[1:]], kind="pairs", **SMALL)
    data = pipeline.from_records([bad, *records_of()[1:]], kind="pairs", on_error="skip", **SMALL)
    assert data.counts.skipped == {"chosen equals rejected": 1} and data.counts.examples == 11
    with pytest.raises(ValueError, match="records made:0 and made:0 have the same id 0"):
        pipeline.from_records(records_of(1) * 2, kind="pairs", **SMALL)
    with pytest.raises(
        RowError, match="made:1: fields differ from the first record's: expected none as in made:0, got margins"
    ):
        pipeline.from_records([records_of()[0], {**records_of()[1], "fields": {"margins": 1.0}}], kind="pairs", **SMALL)
    with pytest.raises(ValueError, match="no record is left; skipped {'chosen equals rejected': 1}"):
        pipeline.from_records([bad], kind="pairs", on_error="skip", **SMALL)


def test_real_pairs_resume_in_the_middle_of_an_epoch(shared_data):
    path = str(shared_data / "hh_rlhf_harmless_test" / "test.jsonl.gz")
    data = pipeline.dataset(path=path, tokenizer=str(shared_data / "tokenizer_gpt2"), on_error="skip", limit=400)
    whole = data.train()
    for _ in range(data.batches_per_epoch // 2):
        next(whole)
    again = data.train()
    again.set_state(json.loads(json.dumps(whole.get_state())))
    for _ in range(data.batches_per_epoch):
        a, b = next(whole), next(again)
        assert all((a[name] == b[name]).all() for name in a)
    assert whole.epoch >= 1
    whole.close()
    again.close()


def test_sharegpt_demo_end_to_end(shared_data):
    path = str(shared_data / "llamafactory_pref_demo" / "dpo_en_demo.json.gz")
    data = pipeline.dataset(path=path, tokenizer="bpe:512", row_length=1024, limit=60)
    prompt, (chosen, rejected) = texts(data, data.train_in_order()).popitem()[1]
    assert prompt.endswith("\n\nAssistant:") and chosen.startswith(" ") and chosen != rejected


def test_what_a_rewriting_or_a_conversion_leaves_out_is_counted():
    tied = records_of()
    for record, margin in zip(tied, [0.0, 0.2, 1.0] * 4, strict=True):
        record["fields"] = {"margins": margin}
    data = pipeline.from_records(tied, kind="pairs", rewrite=rewrite.decided, **SMALL)
    assert data.counts.skipped == {"left out by decided": 4} and data.counts.examples == 8
    assert "4 left out by decided" in data.describe()
    assert all(e["fields"]["margins"] > 0 for e in [*data.training, *data.held_out])
    lists = [
        {"id": i, "prompt": f"question {i}?", "responses": ["a", "b", "c"], "fields": {"list_labels": labels}}
        for i, labels in enumerate([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    ]
    data = pipeline.from_records(lists, kind="lists", use_as="pairs", **SMALL)
    assert data.counts.skipped == {"no pairs in it": 1} and data.counts.examples == 3

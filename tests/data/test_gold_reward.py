"""The gold reward: perfection is 1, each corruption costs its own attribute, and no string breaks it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.data.gold import evaluate, responses, reward, tasks, vocab, world

PROMPTS = [r["prompt"] for r in world.prompts(size=40, seed=5, tasks=vocab.NAMES)]


def _changed(first: dict, second: dict) -> set[str]:
    return {name for name in reward.ATTRIBUTES if abs(first[name] - second[name]) > 1e-12}


@pytest.mark.parametrize("courtesy", range(len(vocab.COURTESY)))
def test_a_perfect_response_scores_one_in_everything(courtesy):
    for prompt in PROMPTS:
        gold = reward.gold_reward(prompt, responses.perfect(prompt, courtesy=courtesy))
        assert [gold[name] for name in reward.ATTRIBUTES] == [1.0] * 4, prompt
        assert gold["exact"] and gold["total"] == pytest.approx(1.0)


@pytest.mark.parametrize("base", ["perfect", "unframed", "rude"])
def test_each_corruption_lowers_exactly_its_attribute(base):
    rng = np.random.default_rng(0)
    for prompt in PROMPTS:
        draft = responses.Draft(tuple(tasks.answer(prompt).split()), courtesy=vocab.COURTESY[1])
        draft = {
            "perfect": draft,
            "unframed": draft._replace(frame="none"),
            "rude": draft._replace(rude=vocab.RUDE[0], before=vocab.FILLER[1]),
        }[base]
        good = reward.gold_reward(prompt, responses.write(draft))
        corruptions = {
            "correctness": [draft._replace(content=responses.wrong_answer(rng, prompt, severity=s)) for s in (0.1, 1)],
            "brevity": [draft._replace(before=draft.before + f) for f in vocab.FILLER]
            + [draft._replace(after=f) for f in vocab.FILLER],
            "politeness": [draft._replace(courtesy=())]
            + [draft._replace(courtesy=(), rude=phrase) for phrase in vocab.RUDE],
        }
        if base != "unframed":
            corruptions["format"] = [draft._replace(frame=frame) for frame in ("open", "close", "none")]
        for name, drafts in corruptions.items():
            for bad in drafts:
                gold = reward.gold_reward(prompt, responses.write(bad))
                assert _changed(good, gold) == {name}, (prompt, responses.write(bad), name)
                assert gold[name] < good[name]
                assert gold["exact"] == (name != "correctness")


def test_the_attributes_by_hand():
    prompt = "copy : a b c"
    gold = reward.gold_reward(prompt, "gladly so basically [ a b d ] so basically")
    assert gold == {
        "correctness": pytest.approx(2 / 3),
        "brevity": pytest.approx(0.8**4),
        "format": 1.0,
        "politeness": 1.0,
        "exact": False,
        "total": pytest.approx(0.4 * 2 / 3 + 0.2 * 0.8**4 + 0.2 + 0.2),
    }
    assert reward.gold_reward(prompt, "[ a b c")["format"] == 0.5
    assert reward.gold_reward(prompt, "a b c")["format"] == 0.0
    assert reward.gold_reward(prompt, "[ a b c ] [ a b c ]")["format"] == 0.5
    assert reward.gold_reward(prompt, "[ ] a b c")["format"] == 0.5
    assert reward.gold_reward(prompt, "duh a b c")["politeness"] == 0.0
    assert reward.gold_reward(prompt, "duh gladly a b c")["politeness"] == 0.5
    assert reward.gold_reward(prompt, "a b c")["politeness"] == 0.5


def test_courtesy_counts_once_and_only_outside_the_frame():
    prompt = "copy : a b"
    once = reward.gold_reward(prompt, "gladly [ a b ]")
    twice = reward.gold_reward(prompt, "gladly gladly [ a b ]")
    assert _changed(once, twice) == {"brevity"} and twice["brevity"] == pytest.approx(0.8)
    inside = reward.gold_reward(prompt, "[ gladly a b ]")
    assert inside["politeness"] == 0.5 and inside["correctness"] == pytest.approx(2 / 3)


def test_more_words_never_pay():
    prompt = "add : 3 4"
    totals = [reward.gold_reward(prompt, "gladly [ 7 ]" + " so basically" * n)["total"] for n in range(8)]
    assert np.all(np.diff(totals) < 0)
    assert reward.gold_reward(prompt, "")["brevity"] == 0.0  # saying nothing is not brevity
    repeated = reward.gold_reward(prompt, "gladly [ 7 7 7 7 ]")
    assert repeated["correctness"] == 0.25 and repeated["brevity"] == pytest.approx(0.8**3)


def test_weights():
    prompt, response = "copy : a b", "a b so basically"
    gold = reward.gold_reward(prompt, response, weights={"brevity": -1.0})
    assert gold["total"] == pytest.approx(-(0.8**2))
    with pytest.raises(ValueError, match="no attribute 'politness'; did you mean 'politeness'"):
        reward.gold_reward(prompt, response, weights={"politness": 1.0})


def test_lists_are_the_same_one_by_one():
    texts = [responses.sample(np.random.default_rng(i), p) for i, p in enumerate(PROMPTS)]
    many = reward.gold_reward(PROMPTS, texts)
    for index, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        assert {name: values[index] for name, values in many.items()} == pytest.approx(
            reward.gold_reward(prompt, text), rel=1e-12
        )
    same = reward.gold_reward(PROMPTS[0], texts)
    assert same["total"].shape == (len(texts),)
    assert reward.gold_reward([], [])["total"].shape == (0,)
    with pytest.raises(ValueError, match="3 entries but prompt has 2"):
        reward.gold_reward(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="prompt is 2 of them"):
        reward.gold_reward(["a", "b"], "a")


_words = st.sampled_from([*vocab.vocabulary(), "zebra", "[[", "\t", "é"])
_texts = st.one_of(st.text(max_size=60), st.lists(_words, max_size=25).map(" ".join))


@settings(max_examples=300, deadline=None)
@given(prompt=st.one_of(_texts, st.sampled_from(PROMPTS)), response=_texts)
def test_any_strings_have_a_reward(prompt, response):
    gold = reward.gold_reward(prompt, response)
    for name in (*reward.ATTRIBUTES, "total"):
        assert 0 <= gold[name] <= 1 + 1e-12
    assert gold["exact"] == (gold["correctness"] == 1.0)
    assert reward.gold_reward(prompt, f"  {response}\n")["total"] == gold["total"]
    assert reward.gold_reward(prompt, response + " so basically")["brevity"] <= gold["brevity"]


@settings(max_examples=200, deadline=None)
@given(head=st.lists(_words, max_size=8), tail=st.lists(_words, max_size=8), prompt=st.sampled_from(PROMPTS))
def test_no_words_around_a_perfect_response_improve_it(head, tail, prompt):
    text = " ".join([*head, responses.perfect(prompt), *tail])
    assert reward.gold_reward(prompt, text)["total"] <= 1.0 + 1e-12


BETTER, WORSE = "gladly [ a b ]", "a b"


def test_win_rate_by_hand():
    prompts = ["copy : a b"] * 4
    found = evaluate.win_rate(prompts, [BETTER, BETTER, WORSE, WORSE], [WORSE, WORSE, BETTER, WORSE])
    assert found.value == (1 + 1 + 0 + 0.5) / 4 and found.count == 4
    z, p, n = 1.959963984540054, 0.625, 4
    centre, half = (p + z * z / 8) / (1 + z * z / 4), z * np.sqrt(p * (1 - p) / n + z * z / 64) / (1 + z * z / 4)
    assert (found.low, found.high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    # One weight alone can turn the verdict round.
    assert evaluate.win_rate(["copy : a b"], [BETTER], [WORSE], weights={"format": -1}).value == 0.0
    assert evaluate.win_rate(["copy : a b"], [BETTER], [WORSE], weights={"brevity": 1}).value == 0.5


def test_reward_gain_by_hand():
    prompts = ["copy : a b", "copy : a b", "copy : b a", "copy : b a"]
    # The better response has the frame (0.2) and the courtesy (0.2 / 2) that the worse one lacks.
    found = evaluate.reward_gain(prompts, [BETTER] * 4, [WORSE, WORSE, BETTER, BETTER])
    assert found.value == pytest.approx(0.3 / 2) and found.count == 4
    # Of two prompts drawn together with their repeats, the mean is 0, a half or all of the gain.
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(0.3))
    alone = evaluate.reward_gain(prompts, [BETTER] * 4, [WORSE] * 4)
    assert alone.excludes(0) and alone.low == pytest.approx(alone.high)
    assert evaluate.reward_gain(prompts, [BETTER] * 4, [WORSE] * 4, weights={"format": -1}).value == pytest.approx(-1)


@pytest.mark.parametrize("compare", [evaluate.win_rate, evaluate.reward_gain])
def test_comparisons_refuse(compare):
    with pytest.raises(ValueError, match="2, 1, 1 entries; expected the same number"):
        compare(["a", "b"], ["a"], ["a"])
    with pytest.raises(ValueError, match="at least one"):
        compare([], [], [])
    with pytest.raises(ValueError, match="did you mean 'brevity'"):
        compare(["a"], ["a"], ["a"], weights={"brevety": 1})


def test_exact_match():
    prompts = ["copy : a b", "copy : a b", "copy : a b", "infer : 1 > 2 , 3 > 4"]
    given_ = ["duh a b", "[ a b ]", "[ a c ]", "[ double dec inc dec inc ]"]
    np.testing.assert_array_equal(evaluate.exact_match(prompts, given_), [True, True, False, False])
    np.testing.assert_array_equal(evaluate.exact_match(prompts, given_, strict=True), [False, True, False, False])

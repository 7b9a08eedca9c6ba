"""Scores of a rollout: gold and verified rewards, composites, and failures that cost their own prompt alone."""

import functools
import time

import numpy as np
import pytest

from prefjax.data.gold import vocab
from prefjax.data.tokenization import wrap
from prefjax.generate.language import Samples
from prefjax.online import rollouts, scorers
from prefjax.online.rollouts import Rollout

PROMPTS = ["copy : a b", "add : 2 3", "upper : c"]
TEXTS = ["[ a b ]", "b a", "[ 5 ] gladly", "6", "C", ""]


@pytest.fixture(scope="module")
def rollout():
    tokenizer = wrap(vocab.tokenizer(), eos_token="<eos>", bos_token="<bos>", where="test")
    rows = [np.asarray([*tokenizer.encode(text), tokenizer.eos_id], np.int32) for text in TEXTS]
    lengths = np.asarray([len(row) for row in rows], np.int32)
    tokens = np.stack([np.pad(row, (0, 8 - len(row))) for row in rows])
    samples = Samples(
        tokens,
        lengths,
        np.zeros(tokens.shape, np.float32),
        np.ones(6, bool),
        np.repeat(np.arange(3, dtype=np.int32), 2),
    )
    prompts = [np.asarray(tokenizer.encode(p), np.int32) for p in PROMPTS]
    return Rollout(PROMPTS, prompts, samples, rollouts.texts_of(samples, tokenizer), rollouts.nobody(tokenizer))


def test_texts_come_back_without_the_end_token(rollout):
    assert rollout.texts == TEXTS
    assert rollout.of_prompt(1).texts == TEXTS[2:4] and rollout.of_prompt(1).prompts == PROMPTS[1:2]


def test_verified_and_gold_rewards(rollout):
    assert scorers.exact_match(rollout).tolist() == [1, 0, 1, 0, 1, 0]
    assert scorers.exact_match(rollout, strict=True).tolist() == [1, 0, 1, 0, 0, 0]
    gold = scorers.gold(rollout, weights={"politeness": 1.0})
    assert gold.tolist() == [0.5, 0.5, 1.0, 0.5, 0.5, 0.5]


def test_composites_and_transforms(rollout):
    parts = {
        "right": {"weight": 2.0, "score": scorers.exact_match},
        "brief": {"weight": 1.0, "score": functools.partial(scorers.brief, penalty=0.5)},
    }
    expected = 2 * scorers.exact_match(rollout) - 0.5 * rollout.samples.lengths
    np.testing.assert_allclose(scorers.weighted(rollout, parts=parts), expected)
    both = functools.partial(scorers.weighted, parts=parts)
    np.testing.assert_allclose(scorers.clipped(rollout, score=both, low=-1.0, high=0.0), np.clip(expected, -1, 0))


def _fails_on_add(part):
    if any(prompt.startswith("add") for prompt in part.prompts):
        raise KeyError("no sums today")
    return scorers.exact_match(part)


def _slow_on_add(part):
    if any(prompt.startswith("add") for prompt in part.prompts):
        time.sleep(5)
    return scorers.exact_match(part)


def _nan_on_add(part):
    return np.where([p.startswith("add") for p in part.repeated], np.nan, scorers.exact_match(part))


@pytest.mark.parametrize(
    ("scorer", "timeout", "reason"),
    [
        (_fails_on_add, None, "reward exception"),
        (_slow_on_add, 0.3, "timeout"),
        (_nan_on_add, None, "reward not finite"),
    ],
)
def test_a_failure_costs_its_own_prompt_alone(rollout, scorer, timeout, reason):
    values, failures = scorers.score(rollout, scorer, timeout=timeout)
    np.testing.assert_array_equal(values, [[1, 0], [np.nan, np.nan], [1, 0]])
    assert [(f.prompt, f.reason) for f in failures] == [(1, reason)]


def test_a_scorer_that_never_works_is_an_error(rollout):
    with pytest.raises(RuntimeError, match="no prompt of the round could be scored"):
        scorers.score(rollout, lambda part: np.zeros(3))

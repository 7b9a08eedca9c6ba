"""Reading the token layout by hand-written rows, and the repeated-prompt form as its oracle."""

import numpy as np
import pytest

from prefjax.views import layout

# Row 0 holds two examples: prompt 3 + responses 2, 1; prompt 1 + responses 1, 2. Row 1: prompt 2 + response 3, none.
SHARED = {
    "segments": np.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]]),
    "branches": np.array([[0, 0, 0, 1, 1, 2, 0, 1, 2, 2, 0], [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]]),
    "tokens": np.arange(22).reshape(2, 11),
    "positions": np.array([[0, 1, 2, 3, 4, 3, 0, 1, 1, 2, 0], [0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0]]),
    "response_mask": np.array([[[True, True], [True, True]], [[True, False], [False, False]]]),
    "example_mask": np.array([[True, True], [True, False]]),
}


def separate(batch):
    """The same examples with one response a row."""
    rows = []
    e, s, k = batch["response_mask"].shape
    keep = [(r, j) for r in range(e) for j in range(s) if batch["example_mask"][r, j]]
    width = batch["tokens"].shape[1]
    for r, j in keep:
        for branch in range(1, k + 1):
            mine = (batch["segments"][r] == j + 1) & np.isin(batch["branches"][r], [0, branch])
            row = {name: np.zeros(width, int) for name in layout.TOKEN_FIELDS}
            for name in layout.TOKEN_FIELDS:
                row[name][: mine.sum()] = batch[name][r][mine]
            row["segments"][: mine.sum()] = 1
            rows.append(row)
    out = {name: np.stack([row[name] for row in rows]) for name in layout.TOKEN_FIELDS}
    out["response_mask"] = np.stack([batch["response_mask"][r, j] for r, j in keep])[:, None]
    out["example_mask"] = np.ones((len(keep), 1), bool)
    return out


def test_first_response_token_is_predicted_from_the_prompts_end():
    expected = [0, 0, 1, 2, 3, 2, 6, 6, 6, 8]
    np.testing.assert_array_equal(layout.predictors(SHARED)[0][:10], expected)
    np.testing.assert_array_equal(layout.predictors(SHARED)[1][:5], [0, 0, 1, 2, 3])


def test_what_predicts_the_responses_is_their_prompts_ends_and_their_own_tokens():
    asked = layout.predicting(SHARED, layout.scored(SHARED))
    np.testing.assert_array_equal(np.flatnonzero(asked[0]), [2, 3, 6, 8])
    np.testing.assert_array_equal(np.flatnonzero(asked[1]), [1, 2, 3])


def test_sums_lengths_and_last_states_of_each_response():
    np.testing.assert_array_equal(layout.lengths(SHARED), [[2, 1], [1, 2], [3, 0], [0, 0]])
    sums = layout.response_sums(SHARED["tokens"].astype(np.float32), SHARED)
    np.testing.assert_array_equal(sums, [[3 + 4, 5], [7, 8 + 9], [13 + 14 + 15, 0], [0, 0]])
    hidden = SHARED["tokens"][..., None].astype(np.float32)
    np.testing.assert_array_equal(layout.last_states(hidden, SHARED)[..., 0], [[4, 5], [7, 9], [15, 0], [0, 0]])


def test_tokens_of_each_response_start_at_its_first():
    values, mask = layout.response_tokens(SHARED["tokens"].astype(np.float32), SHARED, 3)
    np.testing.assert_array_equal(values[0], [[3, 4, 0], [5, 0, 0]])
    np.testing.assert_array_equal(values[2], [[13, 14, 15], [0, 0, 0]])
    np.testing.assert_array_equal(mask.sum(-1), layout.lengths(SHARED))


@pytest.mark.parametrize(
    "read",
    [
        layout.lengths,
        lambda b: layout.response_sums(b["tokens"].astype(np.float32), b),
        lambda b: layout.last_states(b["tokens"][..., None].astype(np.float32), b),
        lambda b: layout.response_tokens(b["tokens"].astype(np.float32), b)[0],
        lambda b: layout.response_tokens(b["tokens"].astype(np.float32), b)[1],
    ],
)
def test_repeated_prompts_read_the_same(read):
    np.testing.assert_array_equal(read(SHARED)[:3], read(separate(SHARED)))


def test_fields_are_flattened_beside_the_examples():
    batch = {**SHARED, "margins": np.arange(4.0).reshape(2, 2)}
    out = layout.fields(batch)
    np.testing.assert_array_equal(out["margins"], [0, 1, 2, 3])
    np.testing.assert_array_equal(out["example_mask"], [True, True, True, False])
    assert "tokens" not in out

"""Sampling with the cache against plain forward passes, and its independence of batch, padding and buckets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax import mesh as meshes
from prefjax import plan
from prefjax.generate import batches, language, sampling
from prefjax.models.decoder import decoder

VOCAB, EOS = 23, 2
PROMPTS = [[5, 6, 7], [1], [9, 4, 4, 8, 3, 11, 12], [20, 21]]


@pytest.fixture(scope="module")
def model():
    return decoder(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, init_std=0.4)


@pytest.fixture(scope="module")
def params(model):
    return model.init(jax.random.key(0))


def _sample(model, params, prompts=PROMPTS, seed=3, **options):
    # One set of static options for most tests, so that they share a compiled function.
    options = {"max_new_tokens": 10, "eos_id": EOS, "num_samples": 2, **options}
    return language.sample(model, params, prompts, key=jax.random.key(seed), **options)


@pytest.fixture(scope="module")
def table(model, params):
    """tokens -> [T, V] log-probs by a causal forward pass, without cache or mask; what follows cannot be seen."""

    @jax.jit
    def forward(tokens):
        return jax.nn.log_softmax(
            model.hidden(params, tokens[None], None, None, None)[0] @ model.unembed(params).kernel
        )

    def padded(tokens):
        return np.asarray(forward(jnp.zeros(24, jnp.int32).at[: len(tokens)].set(jnp.asarray(tokens))))[: len(tokens)]

    return padded


def test_greedy_is_the_argmax_of_full_forward_passes(model, params, table):
    got = _sample(model, params, temperature=0.0, eos_id=None, max_new_tokens=5)
    for index, response in zip(got.prompt_index, got.responses(), strict=True):
        tokens = list(PROMPTS[index])
        for _ in range(5):
            tokens.append(int(np.argmax(table(tokens)[-1])))
        assert tokens[len(PROMPTS[index]) :] == response.tolist()
    assert not got.finished.any() and (got.lengths == 5).all()


def test_logps_equal_a_fresh_forward_pass(model, params, table):
    got = _sample(model, params, temperature=1.7)
    for index, response, logps in zip(got.prompt_index, got.responses(), got.logps, strict=True):
        start = len(PROMPTS[index]) - 1
        rows = table([*PROMPTS[index], *response])[start : start + len(response)]
        np.testing.assert_allclose(logps[: len(response)], rows[np.arange(len(response)), response], atol=1e-4)
    again = language.response_logps(model, params, [PROMPTS[i] for i in got.prompt_index], got.tokens, got.lengths)
    np.testing.assert_allclose(again, got.logps, atol=1e-4)


def test_stops_at_eos_and_pads(model, params):
    got = _sample(model, params, PROMPTS * 6, max_new_tokens=13, batch_size=4)
    assert got.tokens.shape == got.logps.shape == (48, 13)
    assert got.finished.any() and not got.finished.all()
    for response, finished in zip(got.responses(), got.finished, strict=True):
        assert (EOS in response.tolist()) == finished
        assert EOS not in response[:-1].tolist()
        assert finished or len(response) == 13
    assert (got.tokens[~got.mask] == 0).all() and (got.logps[~got.mask] == 0).all()
    assert (got.logps[got.mask] < 0).all()


def test_a_prompt_does_not_see_its_batch(model, params):
    whole = _sample(model, params)
    other = _sample(model, params, batch_size=2)
    np.testing.assert_array_equal(other.tokens, whole.tokens)
    np.testing.assert_allclose(other.logps, whole.logps, atol=1e-5)
    # A longer neighbour moves the prompts to a wider bucket; the id, not the place, picks the random stream.
    moved = _sample(model, params, [[3] * 40, PROMPTS[2]], prompt_ids=[77, 2], batch_size=2)
    np.testing.assert_array_equal(moved.tokens[2:], whole.tokens[4:6])
    np.testing.assert_allclose(moved.logps[2:], whole.logps[4:6], atol=1e-5)


def test_streams_differ_by_sample_prompt_and_key(model, params):
    same = [[5, 6]] * 4
    got = _sample(model, params, same, eos_id=None)
    assert len({tuple(row) for row in got.tokens.tolist()}) == 8
    assert not np.array_equal(_sample(model, params, same, eos_id=None, seed=4).tokens, got.tokens)
    # A longer limit continues the same responses.
    longer = _sample(model, params, same, eos_id=None, max_new_tokens=15)
    np.testing.assert_array_equal(longer.tokens[:, :10], got.tokens)


def test_samples_follow_the_cut_distribution(model, params, table):
    got = _sample(model, params, [[5, 6, 7]], num_samples=2000, max_new_tokens=1, top_k=6, top_p=0.9, min_p=0.02)
    logits = sampling.transform(table([5, 6, 7])[-1], k=6, p=0.9, relative=0.02)
    want = np.asarray(jax.nn.softmax(logits))
    assert 1 < (want > 0).sum() <= 6
    np.testing.assert_allclose(np.bincount(got.tokens[:, 0], minlength=VOCAB) / 2000, want, atol=0.045)
    assert (want[got.tokens[:, 0]] > 0).all()


def test_compiles_once_a_bucket_and_ends_when_all_are_done(model, params):
    traces, calls = [], []

    def decode(params, cache, tokens, positions, valid):
        traces.append(tokens.shape)
        jax.debug.callback(lambda: calls.append(1))
        return model.decode(params, cache, tokens, positions, valid)

    counting = dataclasses.replace(model, decode=decode)
    got = _sample(counting, params, PROMPTS[:3], max_new_tokens=90, temperature=3.0, top_p=0.99)
    first = list(traces)
    # One prefill of each prompt for both of its samples, and no step after the last token.
    assert first == [(4, 16), (8, 1)]
    jax.effects_barrier()
    assert got.finished.all() and len(calls) == got.lengths.max() < 90
    others = [[1, 2], [3] * 16, [4, 5, 6], [7]]
    _sample(counting, params, others, seed=8, max_new_tokens=70, temperature=0.0, top_p=0.4, eos_id=7)
    assert traces == first
    _sample(counting, params, [*others[:3], [1] * 17], max_new_tokens=96, temperature=0.8, top_p=0.9)
    assert traces == [*first, (4, 24), (8, 1)]


def test_rows_are_spread_over_devices_and_stay_there(model, params, monkeypatch):
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices, real or faked")
    grid, texts, jitted = meshes.make_mesh({"data": 2, "fsdp": 2}, jax.devices()[:4]), [], language._generate

    def watched(mesh):
        def run(*args, **static):
            program = jitted(mesh).lower(*args, **static).compile()
            texts.append(program.as_text())
            return program(*args)

        return run

    whole = _sample(model, params)
    monkeypatch.setattr(language, "_generate", watched)
    spread = _sample(model, params, mesh=grid)
    np.testing.assert_array_equal(spread.tokens, whole.tokens)
    np.testing.assert_allclose(spread.logps, whole.logps, atol=1e-5)
    # Whether all are done is all that the devices tell each other
    assert sum(plan.collective_bytes(texts[0]).values()) < 64


def test_given_texts_are_scored_on_a_mesh_that_cuts_rows(model, params):
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices, real or faked")
    grid = meshes.make_mesh({"data": 1, "sequence": 2, "tensor": 2}, jax.devices()[:4])
    tokens, lengths = np.arange(40).reshape(4, 10) % VOCAB, np.array([10, 3, 0, 7])
    alone, cut = (language.response_logps(model, params, PROMPTS, tokens, lengths, mesh=mesh) for mesh in (None, grid))
    assert ((alone < 0) == (np.arange(10) < lengths[:, None])).all()
    np.testing.assert_allclose(cut, alone, atol=1e-5)


def test_softcap_bias_and_learned_positions():
    model = decoder(
        vocab_size=VOCAB, hidden_size=32, num_layers=1, num_heads=2, init_std=0.5, tied=True, logit_softcap=3.0,
        positions="learned", max_positions=20, head_bias=False,
    )  # fmt: skip
    params = model.init(jax.random.key(1))
    got = _sample(model, params, [[4] * 12, [5]], max_new_tokens=8, eos_id=None, num_samples=1)
    again = language.response_logps(model, params, [[4] * 12, [5]], got.tokens, got.lengths)
    np.testing.assert_allclose(again, got.logps, atol=1e-4)
    with pytest.raises(ValueError, match="max_positions=20"):
        _sample(model, params, [[4] * 13], max_new_tokens=8)


def test_buckets():
    sizes = [batches.bucket(n) for n in range(1, 300)]
    assert sorted(set(sizes)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384]
    assert all(n <= size and (n <= 16 or size < 1.5 * n) for n, size in enumerate(sizes, 1))


def test_no_prompts(model, params):
    got = _sample(model, params, [])
    assert got.tokens.shape == (0, 10) and got.responses() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1], [2, VOCAB]]}, "prompt 1 holds a token outside the vocabulary, 0 to 22"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"prompt_ids": [1]}, "prompt_ids has 1 entries for 4 prompts"),
    ],
)
def test_errors_name_the_argument(model, params, options, message):
    with pytest.raises(ValueError, match=message):
        _sample(model, params, **options)

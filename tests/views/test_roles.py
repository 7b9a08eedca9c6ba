"""Views by role: contexts of responses, prompts' log-probs, exact KLs, step masks, pairs picked while training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax import train
from prefjax.data import derive, packing
from prefjax.models.decoder import decoder
from prefjax.objective import call
from prefjax.ops import sequences
from prefjax.ops.masked import Mean
from prefjax.ops.token_kls import token_kls
from prefjax.rewards import token_masks
from prefjax.views import judges, language, layout, learned, tokens

KEY = jax.random.key(0)
X, W, L = np.array([1, 5, 6]), np.array([7, 8, 2]), np.array([7, 9, 10, 2])


def example(prompt, *responses, **fields):
    made = [np.asarray(r, np.int32) for r in responses]
    return {"id": 0, "prompt": np.asarray(prompt, np.int32), "responses": made, "fields": fields}


def batch_of(*examples, layout="shared", **options):
    numbered = [{**e, "id": i} for i, e in enumerate(examples)]
    return packing.pack(numbered, layout=layout, rows=6 if layout == "separate" else 1, row_length=64, **options)[0]


def read(view, names, params, carry, batch, **options):
    """Some of a view's arrays, compiled."""
    key = (view, tuple(names), str(options.get("parts")), str(jax.tree.map(np.shape, batch)))
    if key not in COMPILED:
        view = functools.partial(view, **options)

        def arrays(params, carry, batch):
            named = view(params, carry, batch, KEY)
            return {name: named[name] for name in names}

        COMPILED[key] = jax.jit(arrays)
    return COMPILED[key](params, carry, batch)


COMPILED = {}


@pytest.fixture(scope="module")
def model():
    return decoder(vocab_size=12, hidden_size=8, num_layers=1, num_heads=2, init_std=0.5)


@pytest.fixture(scope="module")
def params(model):
    return model.init(jax.random.key(1))


@pytest.fixture(scope="module")
def carry(model):
    return {"reference": model.init(jax.random.key(2))}


@pytest.fixture(scope="module")
def alone(model, params):
    """(prompt, response) -> log-prob of the response, the only one of its row."""

    @jax.jit
    def logps(batch):
        return language.responses(params, {}, batch, KEY, model=model)["logps"][0]

    def fn(prompt, response):
        return float(logps(batch_of(example(prompt, response))))

    return fn


def test_a_response_with_context_is_the_response_to_prompt_and_context(model, params, alone):
    (made,) = derive.revisions([example(X, W, L)])
    names = ("chosen", "rejected", "improved", "worsened", "kept_chosen", "kept_rejected")
    parts = {name: k for k, name in enumerate(names)}
    wanted = [*(f"{name}_logps" for name in names), "improved_lengths", "worsened_mask"]
    want = [(X, W), (X, L), ([*X, *L], W), ([*X, *W], L), ([*X, *W], W), ([*X, *L], L)]
    for how in ("shared", "separate"):
        named = read(language.pairs, wanted, params, {}, batch_of(made, layout=how), model=model, parts=parts)
        found = [float(named[f"{name}_logps"][0]) for name in names]
        np.testing.assert_allclose(found, [alone(*one) for one in want], atol=2e-5)
        assert int(named["improved_lengths"][0]) == len(W) and int(named["worsened_mask"][0].sum()) == len(L)


def test_prompts_and_contexts_have_log_probs(model, params, alone):
    (made, _) = derive.joint([example(X, W, L), example([1, 4], [3, 2], [11, 2])])
    want = [alone(X[:1], X[1:]), alone(X[:1], [4])]
    wanted = ["chosen_prompt_logps", "rejected_prompt_logps", "rejected_logps"]
    for how in ("shared", "separate"):
        named = read(language.pairs, wanted, params, {}, batch_of(made, layout=how), model=model)
        found = [float(named[f"{side}_prompt_logps"][0]) for side in ("chosen", "rejected")]
        np.testing.assert_allclose(found, want, atol=2e-5)
        np.testing.assert_allclose(named["rejected_logps"][0], alone([1, 4], [11, 2]), atol=2e-5)
    plain = read(language.pairs, wanted, params, {}, batch_of(example(X, W, L)), model=model)
    np.testing.assert_allclose(plain["chosen_prompt_logps"][0], alone(X[:1], X[1:]), atol=2e-5)


def test_one_pass_serves_responses_and_prompts(model, params, monkeypatch):
    passes, states = [], tokens.row_states
    monkeypatch.setattr(tokens, "row_states", lambda *args: passes.append(len(args)) or states(*args))
    named = language.pairs(params, {}, batch_of(example(X, W, L)), jax.random.key(0), model=model)
    call(lambda chosen_logps, chosen_prompt_logps: chosen_logps + chosen_prompt_logps, named)
    assert passes == [3]  # of all tokens, though the responses' log-probs are the first argument
    named = language.pairs(params, {}, batch_of(example(X, W, L)), jax.random.key(0), model=model)
    call(lambda chosen_logps, rejected_logps: chosen_logps - rejected_logps, named)
    assert passes == [3, 4]  # of what predicts the responses


def test_token_kls_in_chunks_are_exact():
    rng = np.random.default_rng(0)
    hidden, ref_hidden = (jnp.asarray(rng.normal(size=(7, 4))) for _ in range(2))
    kernel, ref_kernel = (jnp.asarray(rng.normal(size=(4, 9))) for _ in range(2))
    where = jnp.arange(7) != 3
    p, q = (
        np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        for z in (np.asarray(hidden @ kernel, float), np.asarray(ref_hidden @ ref_kernel, float))
    )
    want = np.where(where, (q * np.log(q / p)).sum(-1), 0)
    values = {}
    for chunk in (7, 2):
        total = jax.value_and_grad(
            lambda h, k, chunk=chunk: jnp.sum(token_kls(h, ref_hidden, k, ref_kernel, chunk=chunk, where=where) ** 2),
            argnums=(0, 1),
        )
        np.testing.assert_allclose(
            token_kls(hidden, ref_hidden, kernel, ref_kernel, chunk=chunk, where=where), want, rtol=1e-4, atol=1e-6
        )
        values[chunk] = jax.jit(total)(hidden, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), values[7], values[2])
    np.testing.assert_allclose(values[2][1][0][3], 0)
    with pytest.raises(ValueError, match="differ in tokens or vocabulary"):
        token_kls(hidden, ref_hidden, kernel, ref_kernel[:, :5])


def test_kls_along_the_responses(model, params, carry):
    batch = batch_of(example(X, W, L), example([1, 3], [4, 2], [5, 6, 2]))
    wanted = ["rejected_kls", "chosen_token_kls", "chosen_kls", "chosen_token_baselines"]
    named = read(language.pairs, wanted, params, carry, batch, model=model)
    hidden = [model.hidden(p, *(batch[n] for n in layout.TOKEN_FIELDS)) for p in (params, carry["reference"])]
    heads = [model.unembed(p).kernel for p in (params, carry["reference"])]
    states = [jnp.take_along_axis(h, layout.predictors(batch)[..., None], axis=1) for h in hidden]
    rows = sequences.token_kls(states[0] @ heads[0], states[1] @ heads[1])
    rows = jnp.where(layout.scored(batch), rows, 0)
    np.testing.assert_allclose(named["rejected_kls"], layout.response_sums(rows, batch)[:, 1], rtol=1e-4)
    np.testing.assert_allclose(named["chosen_token_kls"].sum(-1), named["chosen_kls"], rtol=1e-5)
    baselines = named["chosen_token_baselines"][0, : len(W)]
    probs = jax.nn.softmax(states[0] @ heads[0])[0, len(X) : len(X) + len(W)]
    np.testing.assert_allclose(baselines, jnp.log(jnp.sum(probs**2, -1)), rtol=1e-4)


def test_steps_part_where_the_tokens_do_and_fields_go_by_role(model, params):
    batch = batch_of(example(X, W, L, visits=[3.0, 1.0], margins=0.5))
    named = language.pairs(
        params,
        {"mean": Mean(jnp.array(3.0), jnp.array(2.0))},
        batch,
        KEY,
        model=model,
        stacks={"margin_rewards": ("visits", "margins")},
        constants={"margin_weights": (0.5, 0.25)},
    )
    np.testing.assert_array_equal(named["chosen_step_mask"][0, :4], [False, True, True, False])
    np.testing.assert_array_equal(named["rejected_step_mask"][0, :4], [False, True, True, True])
    assert (float(named["chosen_visits"][0]), float(named["rejected_visits"][0])) == (3, 1)
    np.testing.assert_allclose(named["rejected_margin_rewards"][0], [1.0, 0.5])
    np.testing.assert_allclose(named["margin_weights"], [0.5, 0.25])
    assert float(named["mean"]) == 1.5
    with pytest.raises(ValueError, match="is made of absent; the batch has"):
        language.pairs(params, {}, batch, KEY, model=model, stacks={"x": ("absent",)})


def test_the_curriculum_goes_from_the_worst_to_the_second_best(model, params, carry):
    made = example(X, [7, 2], [8, 2], [9, 2], list_labels=[2.0, 0.0, 1.0])
    batch = batch_of(made, example(X, [7, 2], [8, 2], [9, 2], list_labels=[1.0, 1.0, 1.0]))
    whole = read(language.lists, ["list_logps"], params, carry, batch, model=model)["list_logps"][0]
    wanted = ["chosen_logps", "rejected_logps", "example_mask"]
    for step, worse in ((0, 1), (4, 1), (5, 2), (50, 2)):
        at = {**carry, "step": jnp.array(step)}
        named = read(judges.curriculum, wanted, params, at, batch, model=model, every=5)
        found = [float(named[f"{side}_logps"][0]) for side in ("chosen", "rejected")]
        np.testing.assert_allclose(found, [whole[0], whole[worse]], rtol=1e-5)
    np.testing.assert_array_equal(named["example_mask"][:2], [True, False])  # equal labels make no pair
    wanted = ["consistency", "chosen_logps", "ref_chosen_logps", "rejected_logps", "ref_rejected_logps"]
    own = read(judges.self_ranked, wanted, params, {**carry, "previous": params}, batch, model=model)
    assert float(own["consistency"][0]) == 1.0
    lead = own["chosen_logps"] - own["ref_chosen_logps"] - own["rejected_logps"] + own["ref_rejected_logps"]
    assert (lead[:2] > 0).all()


def test_running_mean_is_followed_from_nothing():
    carry = train.running({}, name="shift")
    metrics = {"r": Mean(jnp.array(6.0), jnp.array(4.0))}
    carry = train.running_mean(carry, {}, {"metrics": metrics}, name="shift", metric="r")
    carry = train.running_mean(carry, {}, {"metrics": metrics}, name="shift", metric="r")
    assert (float(carry["shift"].value), float(carry["shift"].weight)) == (1.5, 8.0)


def test_sparse_masks_read_every_layer_of_the_reference():
    examples = example(X, W, L), example(X[:2], L, W)
    model = decoder(vocab_size=12, hidden_size=8, num_layers=2, num_heads=2, init_std=0.5)
    params, reference = (model.init(jax.random.key(seed)) for seed in (0, 1))
    heads = {"reward_mask": token_masks.init(KEY, model.config.num_layers, model.config.hidden_size, scale=5.0)}
    names = ("chosen_reward_weights", "rejected_kl_weights")
    for given in ({"learned": heads}, {}):
        arrays = functools.partial(
            read, learned.sparse_pairs, names, params | given, {"reference": reference}, model=model
        )
        packed, apart = (arrays(batch=batch_of(*examples, layout=kind)) for kind in ("shared", "separate"))
        size = len(W)
        for name in names:
            np.testing.assert_allclose(packed[name][:2, :size], apart[name][:2, :size], atol=1e-5)
        row = jnp.asarray(np.concatenate([X, W]))[None]
        _, early = model.hidden(reference, row, exits=range(1, model.config.num_layers + 1))
        states = jnp.moveaxis(early, 0, 1)[:, :, len(X) - 1 : -1]
        mask = token_masks.sparse_mask(heads["reward_mask"], states) if given else token_masks.activation_mask(states)
        np.testing.assert_allclose(packed[names[0]][0, :size], mask[0], atol=1e-5)
        assert packed[names[0]][0, size:].sum() == 0
    with pytest.raises(ValueError, match="needs carry"):
        learned.sparse_pairs(params, {}, batch_of(*examples), KEY, model=model)

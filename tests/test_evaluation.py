"""Held-out numbers do not depend on batches or padding; gold comparisons are what their definitions say."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from prefjax import evaluation, mesh, recipe, train
from prefjax.config import ref
from prefjax.data.gold import dataset as gold_dataset
from prefjax.data.gold import reward as gold_reward
from prefjax.losses.preference import paired
from prefjax.metrics import preference
from prefjax.models.decoder import decoder
from prefjax.objective import compose
from prefjax.report import run as report_run
from prefjax.views import Named, language

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def data():
    return gold_dataset.dataset(size=8, eval_size=21, rows=4, row_length=96)


@pytest.fixture(scope="module")
def model(data):
    size = data.tokenizer.vocab_size
    return decoder(vocab_size=size, hidden_size=16, num_layers=1, num_heads=2, outputs=1, init_std=0.3)


@pytest.fixture(scope="module")
def params(model):
    return model.init(jax.random.key(1))


@pytest.fixture(scope="module")
def reference(model):
    return model.init(jax.random.key(2))


@pytest.fixture(scope="module")
def view(model):
    return functools.partial(language.pairs, model=model)


@pytest.fixture(scope="module")
def scores(data, view, params, reference):
    return evaluation.pair_scores(view, params, {"reference": reference}, data.eval(), KEY)


def test_scores_and_means_do_not_depend_on_the_batch(data, view, params, reference, scores):
    other = gold_dataset.dataset(size=8, eval_size=21, rows=2, row_length=64, slots=1)
    again = evaluation.pair_scores(view, params, {"reference": reference}, other.eval(), KEY)
    assert len(scores.margins) == 21 and len(set(scores.example_ids)) == 21
    np.testing.assert_array_equal(again.example_ids, scores.example_ids)
    for name in ("margins", "chosen_change", "rejected_change"):
        np.testing.assert_allclose(getattr(again, name), getattr(scores, name), atol=2e-4)
    objective = compose(
        view, functools.partial(paired.dpo, beta=0.1), metrics={"wins": lambda chosen_logps: chosen_logps > -40}
    )
    found = [evaluation.means(objective, params, {"reference": reference}, made.eval(), KEY) for made in (data, other)]
    for name in ("loss", "wins"):
        assert float(found[0][name].weight) == float(found[1][name].weight) == 21
        np.testing.assert_allclose(found[0][name].value, found[1][name].value, rtol=1e-4)
    want = np.mean(np.logaddexp(0, -0.1 * scores.margins))
    np.testing.assert_allclose(found[0]["loss"].value, want, rtol=1e-4)
    assert scores.accuracy.value == np.mean(scores.margins > 0)


def test_margin_by_what_the_view_gives(data, model, params, scores):
    named = {"chosen_logps": jnp.array([1.0, 2.0]), "rejected_logps": jnp.array([0.0, 5.0])}
    assert evaluation.pair_arrays(named)["margins"].tolist() == [1.0, -3.0]
    assert set(evaluation.pair_arrays(named)) == {"margins"}
    halved = evaluation.pair_arrays(named, lambda chosen_logps: chosen_logps / 2)
    assert halved["margins"].tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="the view gives logps"):
        evaluation.pair_arrays(Named({"logps": jnp.zeros(2)}))
    with pytest.raises(ValueError, match=r"shape \[2, 3\]"):
        evaluation.pair_arrays({"chosen_scores": jnp.zeros((2, 3)), "rejected_scores": jnp.zeros((2, 3))})
    scored = functools.partial(language.scored_pairs, model=model)
    found = evaluation.pair_scores(scored, params, {}, data.eval(), KEY)
    assert (
        found.chosen_change is None and found.margins.shape == (21,) and not np.allclose(found.margins, scores.margins)
    )
    np.testing.assert_allclose(scores.margins, scores.chosen_change - scores.rejected_change, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no held-out batches"):
        evaluation.pair_scores(scored, params, {}, [], KEY)


def test_response_kl_is_unbiased_and_ignores_padding():
    rng = np.random.default_rng(0)
    policy, ref = (np.log(rng.dirichlet(np.ones(5))) for _ in range(2))
    tokens = rng.choice(5, p=np.exp(policy), size=(20_000, 3))
    where = np.broadcast_to(np.array([True, True, False]), tokens.shape)
    logps, ref_logps = policy[tokens], np.where(where, ref[tokens], np.nan)
    k1, k3 = evaluation.response_kl(logps, ref_logps, where)
    want = 2 * np.sum(np.exp(policy) * (policy - ref))
    np.testing.assert_allclose([k1.mean(), k3.mean()], want, rtol=0.05)
    assert k3.min() >= 0 > k1.min()
    assert max(evaluation.response_kl(logps, logps, where)[1]) == 0


def _run(data, model, params, reference):
    state = types.SimpleNamespace(params=params, carry={"reference": reference})
    return types.SimpleNamespace(model=model, dataset=data, state=state, mesh=None)


def test_gold_comparison(data, model, params, reference):
    run = _run(data, model, params, reference)
    options = {"prompts": 8, "max_new_tokens": 8, "num_samples": 2}
    found = evaluation.gold(run, batch_size=8, **options)
    assert len(found.prompts) == 8 and all(len(texts) == 2 for texts in found.after)
    for p, prompt in enumerate(found.prompts):
        for s in range(2):
            gold = gold_reward.gold_reward(prompt, found.after[p][s])["total"]
            assert found.after_reward[p, s] == pytest.approx(gold)
            assert "<eos>" not in found.after[p][s]
            assert found.after_lengths[p, s] - len(found.after[p][s].split()) in (0, 1)
    # The two parameter sets are unrelated, so they are far apart, and k3 agrees on that.
    assert found.kl.value > 1 and found.kl_k3.value > 1
    wins = np.sign(found.after_reward.mean(1) - found.before_reward.mean(1))
    assert found.win_rate.value == pytest.approx(np.mean((wins + 1) / 2), abs=1e-6)
    run.mesh = mesh.make_mesh({"data": 2}, devices=jax.devices()[:2])  # two devices share the prompts of a call
    again = evaluation.gold(run, batch_size=4, **options)
    assert again.after == found.after and again.before == found.before
    np.testing.assert_allclose(again.log_ratio, found.log_ratio, atol=1e-3)
    with pytest.raises(ValueError, match="reference=True"):
        run.state.carry = {}
        evaluation.gold(run)


def test_a_policy_equal_to_its_reference_has_no_kl_and_wins_half(data, model, params):
    found = evaluation.gold(
        _run(data, model, params, params), prompts=8, max_new_tokens=8, temperature=0.0, num_samples=2, batch_size=8
    )
    assert found.win_rate.value == 0.5 and found.before == found.after and found.gain.value == 0
    np.testing.assert_allclose(found.log_ratio, 0, atol=1e-4)
    # The greedy responses are compared, but KL is measured on samples.
    assert not np.array_equal(found.log_ratio_reward, found.after_reward)


def test_a_stage_of_a_report_takes_the_margins_of_its_objective(data, model, params, reference, scores, tmp_path):
    loss = ref(paired.dpo, beta=0.3)
    term = recipe.term(language.pairs, loss, metrics=ref(preference.paired, beta=0.3))
    run = types.SimpleNamespace(
        model=model,
        dataset=data,
        state=train.State(params, (), {"reference": reference}, jnp.zeros((), jnp.int32)),
        config=ConfigDict({"name": "dpo", "objective": {"dpo": term}}),
        workdir=tmp_path,
        mesh=mesh.make_mesh({"data": 1}, devices=jax.devices()[:1]),
        key=KEY,
    )
    found = report_run.stage(run)
    np.testing.assert_allclose(found.margins, 0.3 * scores.margins, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.chosen_change, scores.chosen_change, atol=1e-4)
    assert list(found.baselines) == ["length only", "bag of words"]
    assert {estimate.count for estimate in (found.accuracy, *found.baselines.values())} == {21}


def test_held_out_prompts_are_distinct_and_tokenised_as_in_training(data):
    texts, tokens = evaluation.held_out_prompts(data)
    assert len(texts) == len(set(texts)) <= 21
    assert [data.tokenizer.decode(ids) for ids in tokens] == texts
    assert evaluation.held_out_prompts(data, 3)[0] == texts[:3]
    trained = {record["prompt"] for record in data.records[:8]}
    assert not trained & set(texts)

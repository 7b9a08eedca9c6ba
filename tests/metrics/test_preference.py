"""Metrics against arithmetic, and through `compose`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import reward
from prefjax.losses.preference import paired, reference_free, unpaired
from prefjax.metrics import preference as metrics
from prefjax.objective import compose
from prefjax.views import Named

PAIRS = {
    "chosen_logps": np.array([-10.0, -12.0, -7.0, 0.0]),
    "rejected_logps": np.array([-11.0, -9.0, -7.0, 0.0]),
    "ref_chosen_logps": np.array([-12.0, -11.0, -6.0, 0.0]),
    "ref_rejected_logps": np.array([-11.0, -10.0, -6.0, 0.0]),
    "chosen_lengths": np.array([5, 4, 7, 0]),
    "rejected_lengths": np.array([11, 3, 7, 0]),
    "example_mask": np.array([True, True, True, False]),
}
SINGLES = {
    "logps": np.array([-3.0, -5.0, -8.0, -1.0]),
    "ref_logps": np.array([-4.0, -5.5, -6.0, -9.0]),
    "desirable": np.array([True, True, False, False]),
    "kl_logps": np.array([-7.0, -8.0, -9.0, -100.0]),
    "ref_kl_logps": np.array([-8.0, -8.5, -9.0, 0.0]),
    "example_mask": np.array([True, True, True, False]),
}


def measure(named, loss, given):
    def view(params, carry, batch, key):
        return Named(named)

    _, means = compose(view, loss, metrics=given)({}, {}, {}, jax.random.key(0))
    return {name: float(mean.value) for name, mean in means.items()}


def test_pairs():
    got = measure(PAIRS, paired.dpo, metrics.paired(beta=0.5))
    # Log-ratios 2, -1, -1 of chosen and 0, 1, -1 of rejected; the last row is an empty slot, the third one a tie.
    assert got == pytest.approx(
        {
            "rewards/chosen": 0.5 * (2 - 1 - 1) / 3,
            "rewards/rejected": 0.5 * (0 + 1 - 1) / 3,
            "rewards/margins": 0.5 * (2 - 2 + 0) / 3,
            "rewards/accuracies": 1 / 3,
            "logps/chosen": -29 / 3,
            "logps/rejected": -27 / 3,
            "lengths/chosen": 16 / 3,
            "lengths/rejected": 21 / 3,
        },
        abs=1e-6,
    )


def test_reference_free_pairs():
    got = measure(PAIRS, reference_free.simpo, metrics.SIMPO_METRICS)
    # -10/5 against -11/11, -12/4 against -9/3 (a tie), -1 against -1 (a tie).
    assert got["rewards/margins"] == pytest.approx(2.0 * (-2 + 1) / 3)
    assert got["rewards/accuracies"] == 0
    assert float(metrics.ranking_accuracies(jnp.array([-1.0]), jnp.array([-2.0]))[0]) == 1


def test_unpaired_classes_have_denominators_of_their_own():
    got = measure(SINGLES, unpaired.kto, metrics.KTO_METRICS)
    assert got == pytest.approx(
        {
            "rewards/chosen": 0.1 * (1 + 0.5) / 2,
            "rewards/rejected": 0.1 * -2,
            "logps/chosen": -4.0,
            "logps/rejected": -8.0,
            "kl": (1 + 0.5 + 0) / 3,
        },
        abs=1e-6,
    )


def test_kto_baseline_is_clipped():
    assert float(metrics.kto_baseline(jnp.array([-3.0]), jnp.array([-1.0])).value) == 0


def test_an_empty_class_gives_zero():
    assert float(metrics.desirable_rewards(jnp.ones(2), jnp.zeros(2), jnp.zeros(2, bool)).value) == 0


def test_reward_model():
    named = {
        "chosen_scores": np.array([1.0, 0.0, 2.0]),
        "rejected_scores": np.array([0.0, 0.0, 5.0]),
        "example_mask": np.ones(3, bool),
    }
    got = measure(named, reward.bradley_terry, metrics.REWARD_METRICS)
    assert got == pytest.approx({"accuracy": 1 / 3, "margin": -2 / 3, "mean_reward": 8 / 6})


def test_kl_estimates_agree_with_the_exact_divergence():
    logits, ref_logits = jax.random.normal(jax.random.key(0), (2, 5))
    policy, ref = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
    exact = float(jnp.sum(jnp.exp(policy) * (policy - ref)))
    # The expectation under the policy, term by term: both estimators are unbiased.
    assert float(jnp.sum(jnp.exp(policy) * metrics.kl(policy, ref))) == pytest.approx(exact, rel=1e-5)
    each = metrics.token_kl(policy[:, None], ref[:, None])
    assert float(jnp.sum(jnp.exp(policy) * each)) == pytest.approx(exact, rel=1e-5)
    assert np.all(np.asarray(each) >= 0)


def test_token_kl_leaves_padding_out():
    token_logps, ref = jnp.array([[-1.0, -2.0, -50.0]]), jnp.array([[-1.5, -2.0, 0.0]])
    got = metrics.token_kl(token_logps, ref, token_mask=jnp.array([[True, True, False]]))
    assert float(got[0]) == pytest.approx(np.exp(-0.5) - 1 + 0.5, rel=1e-5)


def test_margins_per_token_of_log_ratios():
    found = measure(PAIRS, paired.dpo, metrics.length_normalized(beta=3.0))
    # log-ratios 2, -1, -1 over 5, 4, 7 tokens against 0, 1, -1 over 11, 3, 7
    margins = 3.0 * np.array([2 / 5 - 0 / 11, -1 / 4 - 1 / 3, -1 / 7 + 1 / 7])
    np.testing.assert_allclose(found["rewards/margins"], margins.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["rewards/accuracies"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(found["rewards/chosen"], 3.0 * np.mean([2.0, -1.0, -1.0]), atol=1e-6)

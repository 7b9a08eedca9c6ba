"""RPO and HyPO: what their second terms hold on to, where DPO drifts off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import paired, regularized
from prefjax.theory import coverage, tabular
from prefjax.theory import preference as closed
from prefjax.theory.checker import check_gradient, check_identity
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid

compile_losses(globals())

# Log-ratios 1 and -1.5.
PAIR = [np.array([x]) for x in (-10.0, -14.0, -11.0, -12.5)]


def online(rng):
    ref = -rng.uniform(5, 60, draws.B)
    policy = ref + rng.normal(0, 1, draws.B)
    return draws.pairs(rng) | {"online_logps": policy, "ref_online_logps": ref}


def test_rpo_is_the_paper():
    got = regularized.rpo(*PAIR, baseline_logps=np.array([-8.0]), beta=0.3, eta=0.2)
    np.testing.assert_allclose(got, [-log_sigmoid(0.75) + 0.2 * 0.3 * 8], rtol=1e-6)


def test_rpo_per_token_is_trl():
    """TRL's rpo_alpha weighs the mean over tokens: alpha = eta beta."""
    got = regularized.rpo(*PAIR, chosen_lengths=np.array([4]), beta=0.3, eta=2.0, normalize="tokens")
    np.testing.assert_allclose(got, [-log_sigmoid(0.75) + 0.6 * 10 / 4], rtol=1e-6)


@pytest.mark.parametrize("given, missing", [({}, "chosen_lengths"), ({"baseline_logps": PAIR[0]}, "baseline_lengths")])
def test_rpo_lengths_are_needed(given, missing):
    with pytest.raises(ValueError, match=missing):
        regularized.rpo(*PAIR, **given, normalize="tokens")


def test_hypo_is_its_equation():
    """Log-ratio 0.5 of the online response; reused samples pay the larger of two costs."""
    online_logps, ref, old = (np.array([x]) for x in (-6.0, -6.5, -6.4))
    dpo = -log_sigmoid(0.75)
    got = regularized.hypo(*PAIR, online_logps, ref, beta=0.3, kl_weight=0.1)
    np.testing.assert_allclose(got, [dpo + 0.1 * 0.5 * -6], rtol=1e-6)
    got = regularized.hypo(*PAIR, online_logps, ref, old_online_logps=old, beta=0.3, kl_weight=0.1, clip=0.2)
    np.testing.assert_allclose(got, [dpo + 0.1 * max(np.exp(0.4) * 0.1, 1.2 * 0.1)], rtol=1e-6)


def test_rpo_never_lets_go_of_the_baseline():
    """Its pull on the chosen response is at least eta beta, where DPO's vanishes."""
    loss = functools.partial(regularized.rpo, beta=0.3, eta=0.2)

    def gradient(**a):
        return coverage.rpo_chosen_gradient(closed.log_ratio_margins(**a), beta=0.3, eta=0.2)

    check_gradient("rpo", loss, {"chosen_logps": gradient}, draws.pairs).require()
    assert np.all(-coverage.rpo_chosen_gradient(np.array([-50.0, 0.0, 500.0]), beta=0.3, eta=0.2) >= 0.06 - 1e-9)


def test_dpo_overoptimises_and_rpo_does_not(x64):
    """The paper's claim in three arms: DPO moves nearly everything to the arm that no data speak of."""
    arms = coverage.overoptimisation_arms()
    dpo = jnp.exp(coverage.train_on_pair(functools.partial(paired.dpo, beta=1.0), arms))
    rpo = jnp.exp(coverage.train_on_pair(functools.partial(regularized.rpo, beta=1.0, eta=0.2), arms))
    assert dpo[2] > 0.99 and dpo[0] < 0.01
    assert rpo[0] > 0.95


@pytest.mark.parametrize("reused", [False, True])
def test_hypo_gradient_is_that_of_the_kl(reused, x64):
    """Summed over all responses with their probabilities, in the logits of a softmax."""
    logits, ref = jax.random.normal(jax.random.key(0), (2, 6))
    ref, zero = jax.nn.log_softmax(ref), jnp.zeros(6)
    probs = jax.nn.softmax(logits)

    def surrogate(x):
        logps = jax.nn.log_softmax(x)
        old = jax.nn.log_softmax(logits) if reused else None
        return jnp.sum(
            probs * regularized.hypo(zero, zero, zero, zero, logps, ref, old_online_logps=old, kl_weight=1.0)
        )

    exact = jax.grad(lambda x: tabular.kl(jax.nn.log_softmax(x), ref))(logits)
    np.testing.assert_allclose(jax.grad(surrogate)(logits), exact, atol=1e-12)


def test_partial_coverage_separates_dpo_from_hypo(x64):
    """Along the ray DPO's loss is constant, the KL grows to log 1/ref(unseen), and their sum has one minimum."""
    ref, seen = jnp.array([0.2, 0.3, 0.5]), jnp.array([0.5, 0.1])
    scales = jnp.linspace(1e-6, 1.6, 400)
    probs = jax.vmap(lambda s: coverage.coverage_ray(seen, s))(scales)
    logps = jnp.log(probs)
    columns = (logps[:, 0], logps[:, 1], jnp.log(jnp.full(400, ref[0])), jnp.log(jnp.full(400, ref[1])))
    loss = paired.dpo(*columns)
    assert np.ptp(loss) < 1e-12
    kl = jax.vmap(lambda s: coverage.ray_kl(seen, ref, s))(scales)
    np.testing.assert_allclose(kl, [tabular.kl(p, jnp.log(ref)) for p in logps], atol=1e-12)
    np.testing.assert_allclose(kl[0], -jnp.log(ref[2]), rtol=1e-4)
    best = coverage.ray_minimiser(seen, ref)
    slope = jax.grad(lambda s: coverage.ray_kl(seen, ref, s))
    assert abs(slope(best)) < 1e-12 and slope(0.9 * best) < 0 < slope(1.1 * best)
    np.testing.assert_allclose(scales[jnp.argmin(loss + 0.1 * kl)], best, atol=0.005)


def test_edge_rpo_without_a_baseline_is_dpo():
    check_identity("rpo(0)", functools.partial(regularized.rpo, eta=0.0), paired.dpo, draws.pairs).require()


def test_edge_hypo_without_kl_is_dpo():
    def dpo(**a):
        return paired.dpo(**{name: a[name] for name in draws.PAIR})

    check_identity("hypo(0)", functools.partial(regularized.hypo, kl_weight=0.0), dpo, online).require()

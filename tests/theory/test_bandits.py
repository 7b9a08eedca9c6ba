"""Mode seeking against mode covering, and offline against on-policy data, in bandits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.theory import bandits, preference, rewards_best_of_n, tabular
from prefjax.theory.checker import check_gradient

BINS = jnp.arange(12.0)
REF = jax.nn.log_softmax(-jnp.square(BINS - 3) / 4)


def tables(rng):
    return {"logits": rng.normal(size=6), "target": np.log(rng.dirichlet(np.ones(6)))}


@pytest.mark.parametrize("forward", [True, False])
def test_gradients_in_the_logits(forward):
    closed = bandits.forward_kl_gradient if forward else bandits.reverse_kl_gradient

    def divergence(logits, target):
        logps = jax.nn.log_softmax(logits)
        return tabular.kl(target, logps) if forward else tabular.kl(logps, target)

    gradients = {"logits": lambda logits, target: closed(jax.nn.log_softmax(logits), target)}
    check_gradient("KL", divergence, gradients, tables).require()


def test_policy_gradient_on_policy_is_that_of_rlhf(x64):
    world = tabular.random_world(jax.random.key(0), 1, 5)
    logits = jax.random.normal(jax.random.key(1), (5,))
    objective = bandits.policy_gradient(world.rewards[0], world.ref_logps[0], beta=0.3)
    got = jax.grad(lambda x: objective(jax.nn.log_softmax(x), jax.nn.log_softmax(logits)))(logits)
    exact = jax.grad(lambda x: -tabular.rlhf_value(world, jax.nn.log_softmax(x)[None], beta=0.3))(logits)
    np.testing.assert_allclose(got, exact, atol=1e-12)


def test_best_of_n_adds_up_and_keeps_its_bound(x64):
    rewards = jax.random.normal(jax.random.key(0), (8,))
    logps = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (8,)))
    for n in (1, 2, 8):
        best = bandits.best_of_n(logps, rewards, n)
        np.testing.assert_allclose(jnp.sum(jnp.exp(best)), 1, rtol=1e-12)
        assert tabular.kl(best, logps) <= rewards_best_of_n.best_of_n_kl(n) + 1e-12
    np.testing.assert_allclose(bandits.best_of_n(logps, rewards, 1), logps, atol=1e-12)


@functools.partial(jax.jit, static_argnums=0)
def masses(peak):
    """Mass at the reward's peak after 300 steps: imitating the better of two offline, and two on-policy methods."""
    rewards = -jnp.abs(BINS - peak)
    methods = {
        "offline": (bandits.imitate_best(rewards), 0),
        "on policy": (bandits.imitate_best(rewards), 1),
        "policy gradient": (bandits.policy_gradient(rewards, REF, beta=0.1), 1),
    }
    return {
        name: jnp.exp(bandits.trajectory(objective, REF, rate=1.0, steps=300, resample_every=every)[-1, peak])
        for name, (objective, every) in methods.items()
    }


def test_a_rare_peak_needs_on_policy_data():
    """The peak's bin has 3% of the reference; offline imitation stops at what the better of two shows."""
    rare, common = masses(6), masses(3)
    assert rare["offline"] < 0.1
    assert min(rare["policy gradient"], rare["on policy"]) > rare["offline"] + 0.5
    gaps = [m["policy gradient"] - m["offline"] for m in (rare, common)]
    assert gaps[0] > gaps[1] + 0.1


def test_the_optimum_is_reached(x64):
    rewards = jax.random.normal(jax.random.key(0), (5,))
    ref = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (5,)))
    best = preference.optimal_policy(ref, rewards, beta=0.5)
    path = bandits.trajectory(
        bandits.policy_gradient(rewards, ref, beta=0.5), ref, rate=1.0, steps=2000, resample_every=1
    )
    distances = jax.vmap(lambda p: tabular.kl(p, best))(path)
    assert distances[-1] < 1e-6 < distances[0]


@pytest.mark.parametrize("every", [0, 1, 3])
def test_samples_are_reused_between_draws(every, x64):
    """The sampler is the policy at the last multiple of `every`, the start for 0: against a plain loop."""
    rewards, ref = jnp.arange(4.0), jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    objective = bandits.imitate_best(rewards, 3)
    got = bandits.trajectory(objective, ref, rate=0.5, steps=7, resample_every=every)
    logits, path = np.array(ref), [np.array(ref)]
    for step in range(7):
        if every == 0:
            sampler = path[0]
        else:
            sampler = path[step - step % every]
        target = np.exp(bandits.best_of_n(jnp.asarray(sampler), rewards, 3))
        logits = logits - 0.5 * (np.exp(path[-1]) - target)  # cross-entropy's gradient in the logits
        path.append(logits - np.log(np.exp(logits).sum()))
    np.testing.assert_allclose(got, np.stack(path), atol=1e-10)

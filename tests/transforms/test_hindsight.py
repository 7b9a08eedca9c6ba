"""Foresight against hindsight in the consultancy: what the labels reward, and where training on them ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.theory import bandits, consultancy, tabular
from prefjax.transforms import hindsight

REF = (0.5, 0.3, 0.2)


@functools.cache
def world():
    return consultancy.random_consultancy(jax.random.key(0), 200)


@functools.partial(jax.jit, static_argnums=1)
def relabelled(key, rollouts, confusion=0.0):
    return hindsight.relabel_hindsight(consultancy.simulate(key, world(), rollouts, confusion=confusion))


def test_relabelling():
    beliefs = np.log([[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(
        hindsight.relabel_foresight(np.array([[4.0, 0.0], [1.0, -1.0]]), beliefs), [1.0, 0.0], atol=1e-6
    )
    got = hindsight.relabel_hindsight(np.array([[1.0, 3.0, 99.0]]), where=np.array([[1, 1, 0]], bool))
    np.testing.assert_allclose(got, [2.0])
    pairs = hindsight.hindsight_pairs(np.array([[0.0, 2.0, 2.0]]))
    assert pairs.chosen[0, :2].tolist() == [1, 2] and pairs.valid.tolist() == [[True, True, False]]


def test_encounters():
    """An item that fits sells itself; of one that does not, only honesty keeps the customer from buying."""
    two = consultancy.Consultancy(jnp.array([[True, True], [False, True]]), jnp.array([[True, False], [True, True]]))
    np.testing.assert_allclose(consultancy.beliefs(two), [[1, 1, 1], [0, 0.6, 1]], rtol=1e-6)
    np.testing.assert_allclose(consultancy.foresight_rewards(two), [[1, 1, 1], [0, 0.2, 1]], atol=1e-6)
    assert np.all(consultancy.true_utilities(two)[0] > 0.9)
    honest, evasive, deceptive = consultancy.true_utilities(two)[1]
    assert 0 >= honest > evasive > deceptive and deceptive < -0.9


def test_foresight_rewards_deception_and_hindsight_honesty():
    """The claim, with the library's DPO and policy gradient, for the world's and for a confused simulator."""
    beta, ref = 0.1, jnp.log(jnp.array(REF))
    truth = jnp.mean(consultancy.true_utilities(world()), axis=0)
    before = float(jnp.array(REF) @ truth)
    labels = {
        "world": relabelled(jax.random.key(1), 64),
        "own": relabelled(jax.random.key(2), 64, confusion=0.2),
    }
    labels["foresight"] = consultancy.foresight_rewards(world())

    @jax.jit
    def train(rewards):
        table = tabular.World(jnp.ones(1), ref[None], rewards[None])
        dpo = bandits.contrastive(rewards, ref)
        dpo = tabular.train(lambda p: dpo(p[0], jnp.log(jnp.full(3, 1 / 3))), table.ref_logps, rate=200.0, steps=600)[0]
        gradient = bandits.policy_gradient(rewards, ref, beta=beta)
        return dpo, bandits.trajectory(gradient, ref, rate=2.0, steps=600, resample_every=1)[-1]

    for name, rewards in labels.items():
        dpo, gradient = train(jnp.mean(rewards, axis=0))
        exact = consultancy.converged_policy(ref, rewards, beta=beta)
        np.testing.assert_allclose(np.exp(dpo), np.exp(exact), atol=0.01)  # Bradley-Terry labels, beta = 0.1
        np.testing.assert_allclose(np.exp(gradient), np.exp(exact), atol=0.01)
        best = consultancy.DECEPTIVE if name == "foresight" else consultancy.HONEST
        for policy in (dpo, gradient):
            assert np.argmax(policy) == best, name
            after = float(jnp.exp(policy) @ truth)
            assert after < before - 0.05 if name == "foresight" else after > before + 0.05


def test_hindsight_error_shrinks_as_the_root():
    truth = consultancy.true_utilities(world())

    def error(rollouts):
        found = relabelled(jax.random.key(rollouts), rollouts)
        return float(jnp.sqrt(jnp.mean(jnp.square(found - truth))))

    assert 0.8 * 4 < error(8) / error(128) < 1.25 * 4

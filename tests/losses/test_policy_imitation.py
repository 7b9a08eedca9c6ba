"""SuperHF: the loss, which responses are kept, and what imitating the best of n does."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import language, policy_imitation
from prefjax.theory import bandits, tabular
from prefjax.theory.checker import check_identity
from prefjax.transforms import filtering


def test_superhf_is_the_paper():
    logps, kls = np.array([[-1.0, -3.0, -9.0]]), np.array([[0.2, 0.4, 9.0]])
    got = policy_imitation.superhf(logps, kls, where=np.array([[1, 1, 0]], bool), kl_coef=0.5)
    np.testing.assert_allclose(got, [2.0 + 0.5 * 0.3], rtol=1e-6)


def test_edge_superhf_without_pull_is_supervised():
    def draw(rng):
        mask = np.arange(5) < rng.integers(1, 6, (4, 1))
        return {"token_logps": -rng.uniform(0.1, 3, (4, 5)), "where": mask, "token_kls": rng.uniform(0, 1, (4, 5))}

    def supervised(token_logps, where, token_kls):
        return language.sft(token_logps, where=where) / jnp.sum(where, axis=1)

    plain = functools.partial(policy_imitation.superhf, kl_coef=0.0)
    check_identity("kl_coef = 0", plain, supervised, draw, draws=5).require()


def test_keep_best():
    got = filtering.keep_best(np.array([[1.0, 5.0, 5.0, 2.0], [7.0, 9.0, 8.0, 0.0]]), k=2)
    np.testing.assert_array_equal(got.indices, [[1, 2], [1, 2]])
    where = np.array([[1, 0, 0, 0], [1, 0, 1, 1]], bool)
    got = filtering.keep_best(np.array([[1.0, 5.0, 5.0, 2.0], [7.0, 9.0, 8.0, 0.0]]), k=2, where=where)
    np.testing.assert_array_equal(got.valid, [[True, False], [True, True]])
    assert got.indices[0, 0] == 0 and got.indices[1].tolist() == [2, 0]
    with pytest.raises(ValueError, match="k=5"):
        filtering.keep_best(np.zeros((1, 4)), k=5)


def test_expected_gradient_is_that_of_the_best_of_n(x64):
    """The claim: over all n-tuples the filtered gradient is sum_y [F(y)^n - F(y-)^n] grad log pi(y), ties included."""
    logits, rewards, n = jnp.array([0.3, -0.4, 1.0, 0.1]), np.array([2.0, 0.5, 0.5, 1.0]), 3
    draws = np.array(list(itertools.product(range(4), repeat=n)))
    kept = np.asarray(filtering.keep_best(rewards[draws], k=1).indices)[:, 0]
    imitated = draws[np.arange(len(draws)), kept]

    def loss(x):
        logps = jax.nn.log_softmax(x)
        chances = jax.lax.stop_gradient(jnp.prod(jnp.exp(logps)[draws], axis=1))
        return jnp.sum(chances * policy_imitation.superhf(logps[imitated][:, None], jnp.zeros((len(draws), 1))))

    probs = np.asarray(jax.nn.softmax(logits))
    upto = np.array([probs[rewards <= r].sum() for r in rewards])
    below = np.array([probs[rewards < r].sum() for r in rewards])
    # A level's mass goes to its responses in proportion to pi: the first of equal ones is drawn first.
    level = upto - below
    target = (upto**n - below**n) * probs / level
    np.testing.assert_allclose(-jax.jit(jax.grad(loss))(logits), target - probs, atol=1e-12)
    distinct = jnp.array([2.0, 0.5, 0.7, 1.0])
    closed = np.exp(bandits.best_of_n(jnp.log(probs), distinct, n))
    np.testing.assert_allclose(closed[[0, 3]], target[[0, 3]], rtol=1e-10)
    np.testing.assert_allclose(closed[1:3].sum(), target[1:3].sum(), rtol=1e-10)


@jax.jit
def paths(kl_coef):
    """[steps, Y] log-probs of iterated SuperHF with n = 4 on six responses."""
    rewards, ref = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), jax.nn.log_softmax(-jnp.arange(6.0) / 2)

    def objective(logps, sampler):
        kls = jnp.broadcast_to(tabular.kl(logps, ref), (6, 1))
        losses = policy_imitation.superhf(logps[:, None], kls, kl_coef=kl_coef)
        return jnp.sum(jnp.exp(bandits.best_of_n(sampler, rewards, 4)) * losses)

    path = bandits.trajectory(objective, ref, rate=0.1, steps=150, resample_every=1)
    return jnp.exp(path) @ rewards, jax.vmap(lambda p: tabular.kl(p, ref))(path)


def test_the_pull_trades_reward_for_kl():
    """The claim: without it the reward only rises; with it the KL is lower at every step; a strong one keeps pi_0."""
    (free, free_kl), (pulled, pulled_kl), (_, held_kl) = (paths(c) for c in (0.0, 0.35, 9.0))
    assert np.all(np.diff(free) > -1e-5) and free[-1] > free[0] + 2
    assert np.all(pulled_kl[1:] < free_kl[1:] + 1e-7) and pulled_kl[-1] < 0.95 * free_kl[-1]
    assert np.max(held_kl) < 0.05 and free[-1] > pulled[-1]

"""Where policy gradients end, by exact enumeration; PPO against DPO on few and noisy pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import policy
from prefjax.losses.preference import paired
from prefjax.ops import returns
from prefjax.theory import policy as closed
from prefjax.theory import tabular

BETA = 0.5


@functools.cache
def world():
    with jax.enable_x64(True):
        made = tabular.random_world(jax.random.key(0), 1, 5)
        return made.ref_logps[0], made.rewards[0], tabular.rlhf_optimum(made, beta=BETA)[0]


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_penalised_policy_gradient_ends_where_the_estimator_says(estimator, x64):
    """k2 in the loss: ref exp(r / beta) / Z. k3, GRPO's: beta ref / (lambda - r), another policy."""
    ref, rewards, gibbs = world()
    heavy = closed.k3_optimum(ref, rewards, beta=BETA)
    np.testing.assert_allclose(jnp.sum(jnp.exp(heavy)), 1, rtol=1e-12)
    scale = np.exp(ref - heavy) * BETA + rewards
    np.testing.assert_allclose(scale, np.full(5, scale[0]), rtol=1e-9)  # lambda, the same for every response
    loss = functools.partial(closed.penalised_loss, ref_logps=ref, rewards=rewards, beta=BETA, estimator=estimator)
    found = tabular.train(lambda logps: loss(logps[0]), ref[None], rate=2.0, steps=1500)[0]
    target, other = (gibbs, heavy) if estimator == "k2" else (heavy, gibbs)
    np.testing.assert_allclose(found, target, atol=1e-6)
    assert np.max(np.abs(found - other)) > 0.1


def test_ppo_ends_at_the_optimum_of_rlhf(x64):
    ref, rewards, gibbs = world()
    found = closed.ppo_rounds(ref, ref, rewards, beta=BETA, rate=2.0, rounds=800)
    np.testing.assert_allclose(found, gibbs, atol=1e-6)


def test_token_rewards_give_the_gradient_of_rlhf(x64):
    """Over all two-token responses: KL-shaped rewards, GAE with lam = 1 and any critic, REINFORCE on tokens."""
    size = 3
    first, second, ref_first, ref_second = (
        jax.random.normal(key, shape)
        for key, shape in zip(jax.random.split(jax.random.key(1), 4), [(size,), (size, size)] * 2, strict=True)
    )
    i, j = (x.ravel() for x in np.meshgrid(np.arange(size), np.arange(size), indexing="ij"))
    rewards = jax.random.normal(jax.random.key(2), (size * size,))
    values = jax.random.normal(jax.random.key(3), (1 + size,))  # of the start, and after each first token

    def token_logps(first, second):
        return jnp.stack([jax.nn.log_softmax(first)[i], jax.nn.log_softmax(second)[i, j]], axis=1)

    ref = token_logps(ref_first, ref_second)

    def exact(params):
        logps = token_logps(*params).sum(1)
        return jnp.exp(logps) @ (rewards - BETA * (logps - ref.sum(1)))

    def surrogate(params):
        logps = token_logps(*params)
        chances = jax.lax.stop_gradient(jnp.exp(logps.sum(1)))
        shaped = returns.shaped_rewards(rewards, logps, ref, kl_coef=BETA)
        critic = jnp.stack([jnp.full(size * size, values[0]), values[1 + i]], axis=1)
        advantages = returns.gae(shaped, critic, gamma=1.0, lam=1.0).advantages
        return -jnp.sum(chances * policy.reinforce(logps, advantages))

    for got, expected in zip(*(jax.jit(jax.grad(f))((first, second)) for f in (surrogate, exact)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_ppo_beats_dpo_on_few_noisy_pairs():
    """The claim: one state, pairs from a poor reference that covers few responses, a fifth of the labels flipped."""
    size, beta = 10, 0.1
    rewards = jnp.linspace(0, 1, size)
    ref = jax.nn.log_softmax(-6.0 * rewards)
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = jax.random.categorical(keys[0], ref, shape=(2, 200))
    wins = jax.random.bernoulli(keys[1], jax.nn.sigmoid(4 * (rewards[drawn[0]] - rewards[drawn[1]])))
    wins = wins ^ jax.random.bernoulli(keys[2], 0.2, wins.shape)
    chosen, rejected = jnp.where(wins, drawn[0], drawn[1]), jnp.where(wins, drawn[1], drawn[0])

    def dpo(logps):
        logps = logps[0]
        return jnp.mean(paired.dpo(logps[chosen], logps[rejected], ref[chosen], ref[rejected], beta=beta))

    offline = tabular.train(dpo, ref[None], rate=20.0, steps=500)[0]
    online = closed.ppo_rounds(ref, ref, rewards, beta=beta, rate=2.0, rounds=400)
    reward = {name: float(jnp.exp(p) @ rewards) for name, p in (("ref", ref), ("dpo", offline), ("ppo", online))}
    assert len(np.unique(drawn)) < size  # some response was never seen
    assert reward["ref"] < reward["dpo"] < reward["ppo"] - 0.1

"""Online iterative DPO: fresh pairs of the best and the worst response find what offline pairs do not show."""

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses.preference import paired
from prefjax.theory import rewards_best_of_n
from prefjax.transforms import selection

ARMS, PAIRS, ROUNDS, SAMPLES, BETA = 8, 96, 3, 8, 0.1
REWARDS = jnp.linspace(0.0, 2.0, ARMS)
# The better an arm, the rarer; the best one has 0.2%.
REF = jax.nn.log_softmax(-0.9 * jnp.arange(ARMS))


def dpo(wins):
    """Log-probs of the policy that DPO makes of counts [Y, Y] of i preferred to j, with the reference REF."""

    def loss(logits):
        logps = jax.nn.log_softmax(logits)
        i, j = (x.ravel() for x in jnp.meshgrid(jnp.arange(ARMS), jnp.arange(ARMS), indexing="ij"))
        return jnp.sum(wins.ravel() * paired.dpo(logps[i], logps[j], REF[i], REF[j], beta=BETA)) / jnp.sum(wins)

    return jax.nn.log_softmax(jax.lax.fori_loop(0, 200, lambda _, x: x - 20 * jax.grad(loss)(x), REF))


def counts(chosen, rejected, valid):
    return jnp.zeros((ARMS, ARMS)).at[chosen, rejected].add(valid)


def offline(key):
    """Pairs of two samples of the reference."""
    arms = jax.random.categorical(key, REF, shape=(PAIRS, 2))
    found = selection.best_and_worst(REWARDS[arms])
    chosen, rejected = (jnp.take_along_axis(arms, i[:, None], 1)[:, 0] for i in (found.chosen, found.rejected))
    return dpo(counts(chosen, rejected, found.valid))


def online(key):
    """A third of the pairs a round, best against worst of n, half of them from a tempered policy; all history."""
    policy, wins = REF, jnp.zeros((ARMS, ARMS))
    for k in jax.random.split(key, ROUNDS):
        logits = jnp.stack([policy, 0.5 * policy])[jnp.arange(SAMPLES) % 2]
        arms = jax.random.categorical(k, logits, shape=(PAIRS // ROUNDS, SAMPLES))
        found = selection.best_and_worst(REWARDS[arms])
        chosen, rejected = (jnp.take_along_axis(arms, i[:, None], 1)[:, 0] for i in (found.chosen, found.rejected))
        wins = wins + counts(chosen, rejected, found.valid)
        policy = dpo(wins)
    return policy


def test_three_rounds_beat_as_many_offline_pairs():
    keys = jax.random.split(jax.random.key(0), 10)
    value = [jnp.mean(jnp.exp(jax.jit(jax.vmap(how))(keys)) @ REWARDS) for how in (offline, online)]
    assert value[1] > value[0] + 0.1 and value[0] > jnp.exp(REF) @ REWARDS


def test_best_of_n_bound():
    np.testing.assert_allclose(rewards_best_of_n.best_of_n_kl(8), np.log(8) - 7 / 8, rtol=1e-6)


def test_swapped_averages_are_antisymmetric():
    """P(first preferred) averaged over both orders of presentation, whatever the judge's bias to the first place."""
    logits = jax.random.normal(jax.random.key(0), (2, 50, 2)) + jnp.array([1.0, 0.0])
    p = selection.swap_averaged(logits[0], logits[1])
    np.testing.assert_allclose(p + selection.swap_averaged(logits[1], logits[0]), 1, rtol=1e-6)
    # By hand: 'A' in the first order, 'B' in the swapped one.
    a, b = jax.nn.softmax(logits[0, 0])[0], jax.nn.softmax(logits[1, 0])[1]
    np.testing.assert_allclose(p[0], (a + b) / 2, rtol=1e-6)

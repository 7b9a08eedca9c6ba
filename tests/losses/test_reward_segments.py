"""Preferences between segments: return, regret and CPL, on a small tabular world."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import segments
from prefjax.losses.preference import paired
from prefjax.rewards import successors
from prefjax.theory import checker, rewards_regret
from tests.compiled import compile_losses

compile_losses(globals())

pytestmark = pytest.mark.usefixtures("x64")


def corridor(step_reward, goal_reward=1.0, length=4):
    """States 0 .. length in a row, the last terminal; actions: left, right; deterministic."""
    transitions = np.zeros((length + 1, 2, length + 1))
    rewards = np.full((length + 1, 2), step_reward)
    for s in range(length):
        transitions[s, 0, max(s - 1, 0)] = transitions[s, 1, s + 1] = 1
    rewards[length - 1, 1] += goal_reward
    transitions[length, :, length] = 1
    terminal = np.arange(length + 1) == length
    return jnp.asarray(transitions), jnp.asarray(rewards), jnp.asarray(terminal)


def walk(transitions, start, actions):
    states = [start]
    for a in actions:
        states.append(int(np.argmax(transitions[states[-1], a])))
    return states


def draw(rng):
    return {f"{side}_token_logps": -rng.uniform(0.1, 3, (6, 4)) for side in ("chosen", "rejected")}


def test_golden():
    rng = np.random.default_rng(0)
    chosen, rejected = -rng.uniform(0.1, 3, (2, 6, 4))
    mask, gamma = rng.random((6, 4)) < 0.7, 0.9
    discount = gamma ** np.arange(4)
    a_w, a_l = 0.1 * (chosen * discount * mask).sum(1), 0.1 * (rejected * discount).sum(1)
    loss = segments.cpl(chosen, rejected, chosen_mask=mask, gamma=gamma)
    np.testing.assert_allclose(loss, -np.log(np.exp(a_w) / (np.exp(a_w) + np.exp(0.5 * a_l))))
    p = rng.uniform(size=6)
    soft = p * np.log1p(np.exp(a_l - a_w)) + (1 - p) * np.log1p(np.exp(a_w - a_l))
    np.testing.assert_allclose(
        segments.cpl(chosen, rejected, chosen_mask=mask, gamma=gamma, bias=1.0, preference_probs=p), soft
    )
    returns = np.array([3.0, 1, 1, 2, 0, 5])
    advantage = 0.1 * chosen.sum(1)
    pairs = [(i, j) for i in range(6) for j in range(6) if returns[i] > returns[j]]
    expected = np.mean([np.log1p(np.exp(0.5 * advantage[j] - advantage[i])) for i, j in pairs])
    np.testing.assert_allclose(jnp.mean(segments.cpl_ranked(chosen, returns)), expected)
    lead = chosen.sum(1) - rejected.sum(1)
    np.testing.assert_allclose(segments.partial_return(chosen, rejected), np.log1p(np.exp(-lead)))
    np.testing.assert_allclose(segments.regret_preference(chosen, rejected), np.log1p(np.exp(-lead)))


def test_edge_one_step_cpl_is_dpo():
    """Claims: with one step, alpha = beta, bias 1 and a reference CPL is DPO; bias 1 is logistic regression."""

    names = ("chosen_token_logps", "rejected_token_logps", "ref_chosen_token_logps", "ref_rejected_token_logps")
    checker.check_identity(
        "one-step CPL is DPO",
        lambda **a: segments.cpl(**{n: x[:, :1] for n, x in a.items()}, alpha=0.3, bias=1.0),
        lambda **a: paired.dpo(*(a[name][:, 0] for name in names), beta=0.3),
        lambda rng: {name: -rng.uniform(0.1, 3, (6, 4)) for name in names},
        draws=5,
    ).require()
    checker.check_identity(
        "bias 1 is logistic regression on the advantages",
        lambda **a: segments.cpl(**a, bias=1.0),
        lambda chosen_token_logps, rejected_token_logps: segments.regret_preference(
            0.1 * chosen_token_logps, 0.1 * rejected_token_logps
        ),
        draw,
        draws=5,
    ).require()


def test_bias_breaks_the_shift_invariance():
    """Claim: likelier segments, both alike, leave the loss at bias 1 and lower it below 1."""
    arrays = draw(np.random.default_rng(1))
    shifted = {name: x + 0.5 for name, x in arrays.items()}
    np.testing.assert_allclose(segments.cpl(**shifted, bias=1.0), segments.cpl(**arrays, bias=1.0))
    assert np.all(segments.cpl(**shifted, bias=0.5) < segments.cpl(**arrays, bias=0.5))


def test_soft_optimal_policy_minimises_cpl():
    """Claim: under regret preferences of a max-ent world the population loss is smallest at its optimal policy."""
    rng = np.random.default_rng(2)
    size, alpha = 4, 0.7
    transitions = rng.dirichlet(np.ones(size), size=(size, 2))
    transitions[-1] = np.eye(size)[-1]
    terminal = np.arange(size) == size - 1
    values, q = rewards_regret.optimal_values(
        jnp.asarray(transitions), jnp.asarray(rng.normal(size=(size, 2))), jnp.asarray(terminal),
        gamma=0.9, temperature=alpha, sweeps=400,
    )  # fmt: skip
    log_policy = rewards_regret.soft_optimal_log_policy(values, q, temperature=alpha)
    np.testing.assert_allclose(jnp.exp(log_policy[:-1]).sum(1), 1)
    steps = list(itertools.product(range(size - 1), range(2)))
    segs = np.array(list(itertools.product(steps, steps)))  # two steps, each a state and an action
    i, j = np.triu_indices(len(segs), 1)

    def loss(log_policy, probs):
        steps = log_policy[segs[..., 0], segs[..., 1]]
        return jnp.mean(segments.cpl(steps[i], steps[j], preference_probs=probs, alpha=alpha, bias=1.0))

    regret = rewards_regret.segment_regret(values, q, segs[..., 0], segs[..., 1])
    probs = jax.nn.sigmoid(regret[j] - regret[i])
    value, gradient = jax.value_and_grad(lambda logits: loss(jax.nn.log_softmax(logits), probs))(log_policy)
    np.testing.assert_allclose(gradient, 0, atol=1e-10)
    np.testing.assert_allclose(value, jnp.mean(-probs * jnp.log(probs) - (1 - probs) * jnp.log1p(-probs)))
    for _ in range(5):
        other = jax.nn.log_softmax(log_policy + 0.3 * rng.normal(size=log_policy.shape))
        assert loss(other, probs) > value


def test_regret_deterministic_equals_advantages():
    """Claim: with deterministic transitions regret_d is -sum A*; an optimal segment has regret 0 and never loses."""
    transitions, rewards, terminal = corridor(-0.1)
    values, q = rewards_regret.optimal_values(transitions, rewards, terminal)
    np.testing.assert_allclose(values, [0.6, 0.7, 0.8, 0.9, 0.0], atol=1e-12)
    segs = [(start, actions) for start in range(2) for actions in itertools.product(range(2), repeat=2)]
    states = np.array([walk(transitions, s, a) for s, a in segs])
    actions = np.array([a for _, a in segs])
    by_advantage = rewards_regret.segment_regret(values, q, states[:, :-1], actions)
    earned = rewards[states[:, :-1], actions]
    ends = values[states[:, 0]], values[states[:, -1]]
    np.testing.assert_allclose(rewards_regret.deterministic_regret(earned, *ends), by_advantage, atol=1e-12)
    assert np.all(by_advantage >= -1e-12)
    best = [k for k, (_, a) in enumerate(segs) if a == (1, 1)]
    np.testing.assert_allclose(by_advantage[np.array(best)], 0, atol=1e-12)
    advantages = -(values[states[:, :-1]] - q[states[:, :-1], actions])
    for k in best:
        rival = advantages
        loss = segments.regret_preference(jnp.broadcast_to(advantages[k], rival.shape), rival)
        assert np.all(np.exp(-loss) >= 0.5 - 1e-12)
        same = segments.deterministic_regret_preference(
            jnp.broadcast_to(earned[k], earned.shape), earned,
            jnp.full(len(segs), ends[0][k]), jnp.full(len(segs), ends[1][k]), *ends,
        )  # fmt: skip
        np.testing.assert_allclose(same, loss, atol=1e-12)


def test_partial_return_cannot_tell_a_constant():
    """Claim: a constant on every reward changes the optimal policy and P_reg, but not P_sum."""
    worlds = [corridor(-0.1), corridor(-0.1 + 0.5)]
    near, far = (2, (1, 1)), (2, (0, 0))
    p_sum, p_reg, policies = [], [], []
    for transitions, rewards, terminal in worlds:
        # A discount keeps the values finite when loitering pays.
        values, q = rewards_regret.optimal_values(transitions, rewards, terminal, gamma=0.9, sweeps=500)
        policies.append(np.argmax(q[:4], axis=1))
        rows = [(walk(transitions, s, a)[:-1], list(a)) for s, a in (near, far)]
        earned = [rewards[jnp.array(s), jnp.array(a)][None] for s, a in rows]
        advantage = [(q[jnp.array(s), jnp.array(a)] - values[jnp.array(s)])[None] for s, a in rows]
        p_sum.append(float(jnp.exp(-segments.partial_return(*earned))[0]))
        p_reg.append(float(jnp.exp(-segments.regret_preference(*advantage))[0]))
    np.testing.assert_allclose(p_sum[0], p_sum[1])
    assert np.all(policies[0] == 1) and np.any(policies[1] == 0)
    assert p_reg[0] > 0.5 > p_reg[1]


def test_successor_values_bound_and_recover_the_best_policy():
    psi = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    for w in ([2.0, 1.0], [-1.0, 0.5], [0.3, 0.31]):
        w = jnp.array(w)
        exact = jnp.max(psi @ w)
        assert successors.successor_values(psi, w, temperature=0.5) <= exact
        np.testing.assert_allclose(successors.successor_values(psi, w), exact, atol=1e-3)

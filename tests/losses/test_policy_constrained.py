"""Constrained RLHF: multipliers that hold each reward at its threshold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax import train
from prefjax.losses import policy, policy_constrained
from prefjax.ops.masked import Mean
from prefjax.optim import multipliers
from prefjax.theory import constrained, tabular
from prefjax.theory.checker import check_identity
from prefjax.weights import constraints
from tests.compiled import compile_losses

compile_losses(globals())

TASK, OTHER = (1.0, 0.5, 0.0), (0.0, 0.5, 1.0)  # three arms, in conflict


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_mixing_is_the_paper():
    task, others, mu = np.array([1.0, -2.0]), np.array([[3.0, 0.5]]), np.array([0.7])
    got = constraints.mixed_advantages(task, others, mu)
    np.testing.assert_allclose(got, (1 - sigmoid(0.7)) * task + sigmoid(0.7) * others[0], rtol=1e-6)
    got = constraints.mixed_advantages(task, others, mu, form="linear")
    np.testing.assert_allclose(got, task + 0.7 * others[0], rtol=1e-6)
    two = constraints.mixed_advantages(task, np.array([[3.0, 0.5], [1.0, 1.0]]), np.array([0.7, -1.0]), form="tanh")
    a, b = np.tanh([0.7, -1.0])
    np.testing.assert_allclose(two, (2 - a - b) * task + a * others[0] + b, rtol=1e-5)
    with pytest.raises(ValueError, match="constraint_advantages"):
        constraints.mixed_advantages(task, others[0], mu)


def test_edge_without_multiplier_it_is_ppo():
    """sigma(mu) -> 0 is PPO on the task, exactly."""

    def draw(rng):
        return {name: -rng.uniform(0.1, 2, (4, 3)) for name in ("logps", "old", "task", "other")}

    def mixed(logps, old, task, other):
        advantages = constraints.mixed_advantages(task, other[None], jnp.array([-1e4]))
        return policy.ppo_clip(logps, old, advantages)

    check_identity("PPO", mixed, lambda logps, old, task, other: policy.ppo_clip(logps, old, task), draw).require()


def test_multipliers_follow_the_shortfall():
    """L = sigma(mu) (R - theta); mu moves with the sign of theta - R; the carried step is the loss's gradient step."""
    found, mu, theta = np.array([[0.2, 0.9], [0.4, 0.7]]), np.array([0.3, -0.4]), np.array([0.5, 0.5])
    got = policy_constrained.lagrange(found, mu, theta)
    np.testing.assert_allclose(got, ((found - theta) * sigmoid(mu)).sum(1), rtol=1e-5)
    slope = jax.grad(lambda m: jnp.mean(policy_constrained.lagrange(found, m, theta)))(mu)
    state = multipliers.dual_step(multipliers.init(mu), found.mean(0), theta, rate=0.1)
    np.testing.assert_allclose(state.values, mu - 0.1 * np.asarray(slope), rtol=1e-5)
    assert np.array_equal(np.sign(state.values - mu), np.sign(theta - found.mean(0)))
    again = multipliers.dual_step(state, found.mean(0), theta, rate=0.1, momentum=0.9)
    second = jax.grad(lambda m: jnp.mean(policy_constrained.lagrange(found, m, theta)))(state.values)
    np.testing.assert_allclose(again.values, state.values - 0.1 * (0.9 * slope + second), rtol=1e-5)


def test_refresh_in_a_step():
    """The multipliers live in the carry of a step, and only `refresh` moves them."""

    def objective(params, carry, batch, key):
        value = Mean.of(jnp.square(params - batch))
        return value, {"kindness": Mean.of(batch), "unseen": Mean(jnp.float32(0), jnp.float32(0))}

    refresh = functools.partial(
        multipliers.refresh, metrics=("kindness", "unseen"), thresholds=(1.0, 5.0), rate=0.1, form="linear"
    )
    tx = optax.sgd(0.1)
    state = train.init_state(jnp.float32(0), tx, {"multipliers": multipliers.init([0.0, 0.0])})
    state, _ = train.make_step(objective, tx, refresh)(state, jnp.array([0.2, 0.6]), jax.random.key(0))
    np.testing.assert_allclose(state.carry["multipliers"].values, [0.1 * (1 - 0.4), 0], rtol=1e-6)
    with pytest.raises(ValueError, match="1 metrics, 2 thresholds and 2 multipliers"):
        multipliers.refresh(state.carry, None, {"metrics": {}}, metrics=("kindness",), thresholds=(1.0, 5.0))
    aux = {"metrics": {"kindness": Mean(1.0, 1.0), "unseen": Mean(0.0, 0.0)}}
    with pytest.raises(ValueError, match="metric='kindnes' is unknown; did you mean 'kindness'"):
        multipliers.refresh(state.carry, None, aux, metrics=("kindnes", "unseen"), thresholds=(1.0, 5.0))
    with pytest.raises(ValueError, match="name='multiplier' is unknown; did you mean 'multipliers'"):
        refresh(state.carry, None, aux, name="multiplier")


@functools.partial(jax.jit, static_argnames=("steps", "form", "learned"))
def play(threshold, start, *, beta=0.05, steps=8000, form="sigmoid", learned=True):
    """Mean policy over the second half, last policy and last multiplier, all arms' gradients exact."""

    task, other = jnp.array(TASK), jnp.array(OTHER)

    def step(state, _):
        logits, held = state
        logps = jax.nn.log_softmax(logits)
        chances = jnp.exp(logps)

        def centred(r):
            return (r - chances @ r)[:, None]

        advantages = constraints.mixed_advantages(
            centred(task - beta * logps), centred(other)[None], held.values, form=form
        )

        def loss(x):
            x = jax.nn.log_softmax(x)[:, None]
            return jnp.sum(chances * policy.ppo_clip(x, logps[:, None], advantages))

        logits = logits - 0.5 * jax.grad(loss)(logits)
        moved = multipliers.dual_step(held, (chances @ other)[None], jnp.asarray(threshold), form=form)
        held = moved if learned else held
        return (logits, held), chances

    (logits, held), path = jax.lax.scan(step, (jnp.zeros(3), multipliers.init([start])), length=steps)
    return jnp.mean(path[steps // 2 :], axis=0), jax.nn.softmax(logits), held.values[0]


def test_the_threshold_is_met_or_does_not_matter():
    """The claim: active, E[R_con] = theta within 2%; inactive, the weight goes to its floor. Fixed weights miss."""
    mean, _, _ = play(0.6, 0.0)
    assert abs(mean @ np.array(OTHER) - 0.6) < 0.02 * 0.6
    _, last, multiplier = play(-0.5, 0.0)
    assert sigmoid(multiplier) < 0.05 and last @ np.array(TASK) > 0.95
    for start in (-2.0, -0.5, 0.5, 2.0):
        _, last, _ = play(0.6, start, learned=False)
        assert abs(last @ np.array(OTHER) - 0.6) > 0.05


def test_with_a_pull_it_ends_at_the_kkt_point(x64):
    """The linear form with KL to the uniform policy: the constrained optimum, and its multiplier."""
    ref = jnp.log(jnp.full(3, 1 / 3))
    best = constrained.constrained_optimum(ref, jnp.array(TASK), jnp.array(OTHER), 0.6, beta=0.5)
    np.testing.assert_allclose(jnp.exp(best.logps) @ jnp.array(OTHER), 0.6, rtol=1e-9)
    assert best.multiplier > 0
    _, last, multiplier = play(0.6, 0.0, beta=0.5, form="linear")
    np.testing.assert_allclose(last, jnp.exp(best.logps), atol=1e-4)
    np.testing.assert_allclose(multiplier, best.multiplier, rtol=1e-3)
    free = constrained.constrained_optimum(ref, jnp.array(TASK), jnp.array(OTHER), 0.1, beta=0.5)
    plain = tabular.rlhf_optimum(tabular.World(jnp.ones(1), ref[None], jnp.array([TASK])), beta=0.5)[0]
    assert free.multiplier == 0
    np.testing.assert_allclose(free.logps, plain, atol=1e-12)


def test_all_ppo_holds_rewards_below():
    """Negated advantages, returns and thresholds: (1 - w) A_all - w A_con, and w rises above the threshold."""
    both, other, mu = np.array([1.0, -2.0]), np.array([[3.0, 0.5]]), np.array([0.7])
    got = constraints.mixed_advantages(both, -other, mu)
    np.testing.assert_allclose(got, (1 - sigmoid(0.7)) * both - sigmoid(0.7) * other[0], rtol=1e-6)
    held = multipliers.init(mu)
    assert multipliers.dual_step(held, -np.array([0.9]), -np.array([0.6])).values > held.values
    assert multipliers.dual_step(multipliers.init([0.0]), np.array([0.9]), 0.6, form="linear").values == 0

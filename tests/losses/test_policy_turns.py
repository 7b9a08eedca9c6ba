"""SCoRe: shaping, what stage I may move, and correction learned instead of collapse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses import policy, policy_terms, policy_turns
from prefjax.rewards import policy as rewards
from prefjax.theory import self_correction as world
from prefjax.theory.checker import check_identity

BASE = world.Correction(0.0, -3.0, 3.0)  # a base model that is right half the time and keeps its answer


def test_shaping():
    """The claim's table, alpha = 10: corrected, spoilt, copies; alpha = 0 shapes nothing."""
    got = rewards.score_rewards(world.FIRST, world.SECOND)
    np.testing.assert_allclose(got.second - world.SECOND, [0, 10, -10, 0])
    np.testing.assert_allclose(got.first, world.FIRST)
    np.testing.assert_allclose(rewards.score_rewards(world.FIRST, world.SECOND, alpha=0.0).second, world.SECOND)


def test_stages_are_the_paper():
    logps, ref = np.array([[-1.0, -2.0, -0.5, -7.0]]), np.array([[-1.5, -2.0, -1.0, 0.0]])
    advantages, second = np.array([[9.0, 9.0, 2.0, 9.0]]), np.array([[0, 0, 1, 1]], bool)
    where = np.array([[1, 1, 1, 0]], bool)
    got = policy_turns.score_stage_one(logps, ref, advantages, second, where=where, beta=0.1)
    np.testing.assert_allclose(got, [0.5 * 2 + 0.1 * 0.5**2 / 2], rtol=1e-6)
    got = policy_turns.score_stage_two(logps, ref, advantages, where=where, beta=0.01)
    np.testing.assert_allclose(got, [9 + 18 + 1 + 0.01 * (0.5**2 + 0.5**2) / 2], rtol=1e-6)


def test_edge_stage_two_without_pull_is_reinforce():
    def draw(rng):
        return {name: -rng.uniform(0.1, 3, (4, 5)) for name in ("token_logps", "ref_token_logps", "advantages")}

    check_identity(
        "stage II, beta = 0",
        functools.partial(policy_turns.score_stage_two, beta=0.0),
        lambda token_logps, ref_token_logps, advantages: policy.reinforce(token_logps, advantages),
        draw,
        draws=5,
    ).require()
    check_identity(
        "stage II without advantages",
        lambda token_logps, ref_token_logps, advantages: policy_turns.score_stage_two(
            token_logps, ref_token_logps, 0 * advantages, beta=0.3
        ),
        lambda token_logps, ref_token_logps, advantages: (
            0.3 * policy_terms.kl_penalty(token_logps, ref_token_logps, estimator="k2")
        ),
        draw,
        draws=5,
    ).require()


def test_stage_one_leaves_the_first_attempt_to_the_pull(x64):
    """Exactly no gradient at pi = ref; elsewhere beta times that of KL(pi || ref)."""
    slope = jax.jit(jax.grad(world.stage_one))
    assert slope(BASE, BASE, beta=0.1).first == 0
    moved = world.Correction(0.7, -1.0, 2.0)

    def kl(logit):
        p, q = jax.nn.sigmoid(logit), jax.nn.sigmoid(BASE.first)
        return p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))

    np.testing.assert_allclose(slope(moved, BASE, beta=0.1).first, 0.1 * jax.grad(kl)(0.7), atol=1e-12)
    # The second attempt gets the gradient of its accuracy, P(wrong first) sigma'(fix).
    fix = jax.nn.sigmoid(0.7 * -1) * jax.nn.sigmoid(-1.0) * jax.nn.sigmoid(1.0)
    np.testing.assert_allclose(slope(moved, BASE, beta=0.1).fix, -fix, atol=1e-12)


@functools.partial(jax.jit, static_argnames=("warm_up", "steps"))
def trained(alpha, *, warm_up, steps=300):
    second = rewards.score_rewards(jnp.asarray(world.FIRST), jnp.asarray(world.SECOND), alpha=alpha).second

    def descend(loss, start, count):
        def step(_, x):
            return jax.tree.map(lambda x, g: x - 0.5 * g, x, jax.grad(loss)(x))

        return jax.lax.fori_loop(0, count, step, start)

    start = world.Correction(*(jnp.float32(x) for x in BASE))
    if warm_up:
        start = descend(lambda x: world.stage_one(x, BASE, beta=0.1), start, warm_up)
    return start, descend(lambda x: world.stage_two(x, start, second, beta=0.01), start, steps - warm_up)


def test_shaping_after_stage_one_teaches_correction():
    """The claim: rewarded plainly the policy learns a good first answer and keeps it; SCoRe learns to correct."""
    _, plain = trained(0.0, warm_up=0)
    middle, score = trained(10.0, warm_up=100)
    plain, middle, score = (world.accuracies(x) for x in (plain, middle, score))
    assert abs(plain["second"] - plain["first"]) < 0.05 and plain["first"] > 0.9
    assert plain["fix"] < 0.5 and score["fix"] > plain["fix"] + 0.3
    assert abs(middle["first"] - 0.5) < 0.01  # stage I kept the first attempt where it was
    assert middle["second"] > middle["first"] + 0.1

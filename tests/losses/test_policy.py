"""Policy losses by tokens, the critic's, entropy and KL: equations, where the gradient goes, special cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax import objective
from prefjax.losses import policy, policy_terms
from prefjax.theory import tabular
from prefjax.theory.checker import check_gradient, check_identity
from prefjax.views import Named
from tests.compiled import compile_losses

compile_losses(globals())

MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
# Ratios 1.5, 0.5, 1.1, 4 and 1.25, 0.7; advantages of both signs.
OLD = np.full((2, 4), -2.0)
RHO = np.array([[1.5, 0.5, 1.1, 4.0], [1.25, 0.7, 9.0, 9.0]])
LOGPS = OLD + np.log(RHO)
ADVANTAGES = np.array([[2.0, -1.0, 1.0, -3.0], [-2.0, 0.5, 7.0, 7.0]])


def tokens(rng):
    return {
        "token_logps": -rng.uniform(0.1, 3, (4, 6)),
        "old_token_logps": -rng.uniform(0.1, 3, (4, 6)),
        "advantages": rng.normal(size=(4, 6)),
        "where": rng.random((4, 6)) < 0.7,
    }


def test_ppo_is_the_paper():
    """Gains min(rho A, clip(rho) A), written out; masked tokens do not count."""
    gains = np.array([[1.2 * 2, 0.8 * -1, 1.1, 4 * -3], [1.25 * -2, 0.7 * 0.5, 0, 0]])
    got = policy.ppo_clip(LOGPS, OLD, ADVANTAGES, where=MASK)
    np.testing.assert_allclose(got, -gains.sum(1), rtol=1e-5)
    np.testing.assert_allclose(policy.grpo(LOGPS, OLD, ADVANTAGES, where=MASK), -gains.sum(1) / [4, 2], rtol=1e-5)
    got = policy.dr_grpo(LOGPS, OLD, ADVANTAGES, where=MASK, max_tokens=8.0)
    np.testing.assert_allclose(got, -gains.sum(1) / 8, rtol=1e-5)
    gains[0, 0] = 1.28 * 2  # the higher upper clip
    np.testing.assert_allclose(policy.dapo(LOGPS, OLD, ADVANTAGES, where=MASK), -gains.sum(1), rtol=1e-5)
    gains[0, 0], gains[0, 3] = 1.2 * 2, 3 * -3  # a bad token's gain is held at 3 A
    np.testing.assert_allclose(policy.ppo_dual_clip(LOGPS, OLD, ADVANTAGES, where=MASK), -gains.sum(1), rtol=1e-5)


def test_where_ppo_moves():
    """A token that has left the range the way its advantage pushes has no gradient; back into it, a full one."""
    for loss, moved in (
        (policy.ppo_clip, [[0, 0, 1, 1], [1, 1, 0, 0]]),
        (policy.ppo_dual_clip, [[0, 0, 1, 0], [1, 1, 0, 0]]),
    ):
        got = jax.grad(lambda x, loss=loss: jnp.sum(loss(x, OLD, ADVANTAGES, where=MASK)))(LOGPS)
        np.testing.assert_allclose(got, -RHO * ADVANTAGES * np.array(moved), rtol=1e-5)


def test_on_policy_ppo_is_the_policy_gradient():
    """The claim of the PPO row: at pi = pi_old the gradient is -A d log pi, REINFORCE's; so are CISPO's and GRPO's."""

    def on_policy(loss, **options):
        def call(token_logps, advantages, where, **_):
            return loss(token_logps, jax.lax.stop_gradient(token_logps), advantages, where=where, **options)

        return call

    def closed(token_logps, advantages, where, **_):
        return -jnp.where(where, advantages, 0)

    for loss in (policy.ppo_clip, policy.ppo_dual_clip, policy.dapo, policy.cispo):
        check_gradient(loss.__name__, on_policy(loss), {"token_logps": closed}, tokens, draws=5).require()

    def reinforce(token_logps, advantages, where, **_):
        return policy.reinforce(token_logps, advantages, where=where)

    check_gradient("reinforce", reinforce, {"token_logps": closed}, tokens, draws=5).require()


def test_cispo_moves_every_token():
    got = jax.grad(lambda x: jnp.sum(policy.cispo(x, OLD, ADVANTAGES, where=MASK, clip_high=0.3)))(LOGPS)
    weights = np.minimum(RHO, 1.3)  # no lower bound
    np.testing.assert_allclose(got, np.where(MASK, -weights * ADVANTAGES, 0), rtol=1e-5)
    bounded = jax.grad(lambda x: jnp.sum(policy.cispo(x, OLD, ADVANTAGES, where=MASK, clip_low=0.2)))(LOGPS)
    np.testing.assert_allclose(bounded[0, 1], 0.8, rtol=1e-5)


def test_sum_over_the_batchs_tokens():
    """DAPO composed with count="lengths" is one mean over all tokens, GRPO a mean of means."""
    named = Named(
        {
            "token_logps": jnp.asarray(LOGPS),
            "old_token_logps": jnp.asarray(OLD),
            "advantages": jnp.asarray(ADVANTAGES),
            "token_mask": jnp.asarray(MASK),
            "lengths": jnp.asarray(MASK.sum(1)),
            "example_mask": jnp.array([True, True]),
        }
    )
    gains = np.where(MASK, np.minimum(RHO * ADVANTAGES, np.clip(RHO, 0.8, 1.28) * ADVANTAGES), 0)
    key = jax.random.key(0)
    got = objective.compose(lambda *_: named, policy.dapo, count="lengths").on(named, key)[0].value
    np.testing.assert_allclose(got, -gains.sum() / 6, rtol=1e-5)
    same = functools.partial(policy.grpo, clip_high=0.28)
    got = objective.compose(lambda *_: named, same).on(named, key)[0].value
    np.testing.assert_allclose(got, -np.mean(gains.sum(1) / [4, 2]), rtol=1e-5)


def test_edge_dual_clip_of_a_far_bound_is_ppo():
    def far(token_logps, old_token_logps, advantages, where):
        return policy.ppo_dual_clip(token_logps, old_token_logps, advantages, where=where, clip_negative=1e6)

    def plain(token_logps, old_token_logps, advantages, where):
        return policy.ppo_clip(token_logps, old_token_logps, advantages, where=where)

    check_identity("dual clip without a bound", far, plain, tokens, draws=5).require()


def test_value_loss_is_the_paper():
    values, goals = np.array([[1.0, 1.0, 3.0, 5.0]]), np.array([[2.0, 0.0, 3.5, 4.0]])
    old = np.array([[0.5, 1.1, 3.0, 4.0]])
    near = np.array([[0.7, 1.0, 3.0, 4.2]])
    mask = np.array([[1, 1, 1, 0]], bool)
    expected = np.maximum((values - goals) ** 2, (near - goals) ** 2)[0, :3].sum() / 2
    got = policy_terms.value_clip(values, goals, old_values=old, where=mask, clip=0.2)
    np.testing.assert_allclose(got, [expected], rtol=1e-6)
    np.testing.assert_allclose(
        policy_terms.value_clip(values, goals, reduce="mean"), [(1 + 1 + 0.25 + 1) / 8], rtol=1e-6
    )
    # 0.5 is the step that brought the value nearer to its goal than the clip allows: no gradient; 1 to 0 is within.
    slope = jax.grad(lambda v: jnp.sum(policy_terms.value_clip(v, goals, old_values=old, where=mask)))(values)
    np.testing.assert_allclose(slope, [[0, 1, -0.5, 0]], atol=1e-6)


def test_entropy_bonus():
    got = policy_terms.entropy_bonus(np.array([[1.0, 2.0, 4.0]]), where=np.array([[1, 0, 1]], bool))
    np.testing.assert_allclose(got, [-5.0])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_what_the_kl_estimators_differentiate(estimator, x64):
    """Over all tokens: k1 and k3 have the right mean; expected gradients are 0, KL(pi || ref)'s and KL(ref || pi)'s."""
    logits, ref = jax.random.normal(jax.random.key(0), (2, 5))
    ref = jax.nn.log_softmax(ref)

    def expected(x, sampler):
        estimates = policy_terms.kl_penalty(jax.nn.log_softmax(x)[:, None], ref[:, None], estimator=estimator)
        return jnp.sum(sampler * estimates)

    @jax.jit
    def slopes(x):
        value, slope = jax.value_and_grad(expected)(x, jax.lax.stop_gradient(jax.nn.softmax(x)))
        forward, forward_slope = jax.value_and_grad(lambda x: tabular.kl(jax.nn.log_softmax(x), ref))(x)
        backward_slope = jax.grad(lambda x: tabular.kl(ref, jax.nn.log_softmax(x)))(x)
        return value, slope, forward, forward_slope, backward_slope

    value, slope, right, forward, backward = slopes(logits)
    meant = {"k1": 0 * forward, "k2": forward, "k3": backward}[estimator]
    np.testing.assert_allclose(slope, meant, atol=1e-12)
    assert bool(abs(value - right) < 1e-12) == (estimator != "k2")

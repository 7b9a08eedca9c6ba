"""f-DPG: the score function's expected gradient is that of the divergence, for every f."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import policy_divergence
from prefjax.ops import divergences
from prefjax.theory import tabular
from prefjax.weights import policy_divergence as targets
from tests.compiled import compile_losses

compile_losses(globals())

NAMES = ["jensen_shannon", "reverse_kl", "forward_kl", "total_variation", "chi_square", "hellinger"]


def policy_and_target(seed=0, size=6):
    logits, target = jax.random.normal(jax.random.key(seed), (2, size))
    return logits, target


def surrogate_gradient(logits, target, sampler, **options):
    """Exact expectation over responses of `sampler` of the loss's gradient in the logits."""

    def loss(x):
        logps = jax.nn.log_softmax(x)
        return jnp.sum(jnp.exp(sampler) * policy_divergence.f_dpg(logps, target, **options))

    return jax.grad(loss)(logits)


def test_golden():
    """JS: f' = log(2 t / (1 + t)); t = pi Z / P, w = pi / q."""
    logp, target, proposal = np.array([-2.0]), np.array([-1.0]), np.array([-2.5])
    t = np.exp(-2 + 1 + 0.3)
    expected = np.exp(0.5) * (np.log(2 * t / (1 + t)) - 0.1) * -2
    got = policy_divergence.f_dpg(logp, target, proposal_logps=proposal, log_partition=0.3, baseline=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("proposal", [False, True])
def test_expected_gradient_is_the_divergences(name, proposal, x64):
    """On policy with any baseline, and off policy with importance weights."""
    logits, target = policy_and_target()
    log_partition = jax.nn.logsumexp(target)

    def divergence(x):
        t = jax.nn.log_softmax(x) - (target - log_partition)
        return jnp.sum(jnp.exp(target - log_partition) * getattr(divergences, name).f(t))

    q = jax.nn.log_softmax(jnp.arange(6.0) / 3) if proposal else None
    options = dict(divergence=name, log_partition=log_partition, proposal_logps=q)
    sampler = jax.nn.log_softmax(logits) if q is None else q
    exact = jax.grad(divergence)(logits)
    for baseline in (0.0, 0.7):
        got = surrogate_gradient(logits, target, sampler, baseline=baseline, **options)
        np.testing.assert_allclose(got, exact, atol=1e-12)


def test_reverse_kl_to_the_rlhf_target_is_rlhf(x64):
    """Its gradient is -1 / beta times that of E[r] - beta KL(pi || ref); Z does not matter."""
    world = tabular.random_world(jax.random.key(1), 1, 6)
    logits = jax.random.normal(jax.random.key(2), (6,))
    target = targets.rlhf_target(world.ref_logps[0], world.rewards[0], beta=0.4)
    rlhf = jax.grad(lambda x: tabular.rlhf_value(world, jax.nn.log_softmax(x)[None], beta=0.4))(logits)
    got = surrogate_gradient(logits, target, jax.nn.log_softmax(logits), divergence="reverse_kl", log_partition=5.0)
    np.testing.assert_allclose(got, -rlhf / 0.4, atol=1e-12)


def test_forward_kl_is_distributional_policy_gradient(x64):
    """DPG descends along -(P / Z - pi) in the logits: cross-entropy with the target."""
    logits, target = policy_and_target(3)
    got = surrogate_gradient(
        logits, target, jax.nn.log_softmax(logits), divergence="forward_kl", log_partition=jax.nn.logsumexp(target)
    )
    np.testing.assert_allclose(got, jax.nn.softmax(logits) - jax.nn.softmax(target), atol=1e-12)


def test_partition_by_importance_sampling(x64):
    _, target = policy_and_target(4)
    q = jax.nn.log_softmax(jnp.arange(6.0) / 3)
    draws = jax.random.categorical(jax.random.key(0), q, shape=(20_000,))
    mask = jnp.arange(20_000) % 2 == 0
    got = targets.log_partition(target[draws], q[draws], example_mask=mask)
    np.testing.assert_allclose(got, jax.nn.logsumexp(target), atol=0.05)
    np.testing.assert_allclose(
        targets.log_partition(target, q * 0 - jnp.log(6.0)), jax.nn.logsumexp(target), rtol=1e-12
    )


def test_targets_and_baseline():
    np.testing.assert_allclose(targets.gdc_target(jnp.zeros(2), jnp.eye(2), jnp.array([1.0, -2.0])), [1.0, -2.0])
    mask = jnp.array([True, True, False])
    got = targets.moving_baseline(1.0, jnp.array([2.0, 4.0, 100.0]), example_mask=mask, decay=0.9)
    np.testing.assert_allclose(got, 0.9 + 0.1 * 3, rtol=1e-6)
    assert targets.moving_baseline(1.0, jnp.ones(3), example_mask=mask & ~mask) == 1  # nothing seen, nothing moved


def test_only_the_policy_gets_a_gradient():
    slope = jax.grad(lambda t: jnp.sum(policy_divergence.f_dpg(jnp.array([-1.0]), t)))(jnp.array([-2.0]))
    assert not np.any(slope)

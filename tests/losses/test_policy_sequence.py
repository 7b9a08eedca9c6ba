"""GSPO, contrastive policy gradient and direct coverage optimisation."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import policy, policy_sequence
from prefjax.losses.preference import paired
from prefjax.metrics import passing
from prefjax.theory import tabular
from prefjax.theory.checker import check_gradient, check_identity
from prefjax.weights import policy as weights
from tests.compiled import compile_losses

compile_losses(globals())

B, K = 6, 4
PAIR = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")


def pairs(rng):
    arrays = {name: -rng.uniform(1, 12, B) for name in PAIR}
    return arrays | {name: rng.normal(size=B) for name in ("chosen_scores", "rejected_scores")}


def tokens(rng):
    mask = np.arange(5) < rng.integers(1, 6, (B, 1))
    logps = -rng.uniform(0.1, 3, (B, 5))
    advantages = np.broadcast_to(rng.normal(size=(B, 1)), (B, 5))
    return {
        "token_logps": logps,
        "old_token_logps": logps + rng.normal(0, 0.05, (B, 5)),
        "advantages": advantages,
        "where": mask,
    }


def test_gspo_is_the_paper():
    logps, old = np.array([[-1.0, -2.0, -9.0]]), np.array([[-1.1, -2.3, -1.0]])
    mask, ratio = np.array([[1, 1, 0]], bool), np.exp((0.1 + 0.3) / 2)
    for advantage, gain in ((2.0, 1.1 * 2), (-2.0, ratio * -2)):
        got = policy_sequence.gspo(logps, old, np.full((1, 3), advantage), where=mask, clip_low=0.1, clip_high=0.1)
        np.testing.assert_allclose(got, [-gain], rtol=1e-5)


def test_edge_gspo_token_with_one_advantage_is_gspo():
    options = dict(clip_low=0.02, clip_high=0.03)

    def of(loss):
        return lambda where, **a: loss(**a, where=where, **options)

    check_identity("values", of(policy_sequence.gspo_token), of(policy_sequence.gspo), tokens, draws=5).require()

    def slope(loss):
        return lambda token_logps, **a: jax.grad(lambda x: jnp.sum(of(loss)(token_logps=x, **a)))(token_logps)

    check_identity(
        "gradients", slope(policy_sequence.gspo_token), slope(policy_sequence.gspo), tokens, draws=5
    ).require()


def test_edge_gspo_of_one_token_is_grpo():
    def one(loss):
        return lambda **a: loss(**{name: x[:, :1] for name, x in a.items()}, clip_low=0.1, clip_high=0.1)

    check_identity("one token", one(policy_sequence.gspo), one(policy.grpo), tokens, draws=5).require()


def test_gspo_token_moves_each_token_by_its_own_advantage():
    logps = -jnp.ones((1, 3))
    advantages = jnp.array([[1.0, -2.0, 0.0]])
    got = jax.grad(lambda x: jnp.sum(policy_sequence.gspo_token(x, logps, advantages)))(logps)
    np.testing.assert_allclose(got, -advantages / 3, rtol=1e-6)


def test_copg_is_the_paper():
    # R_b: 2 - 0.5 (-10 + 11) = 1.5 and 1 - 0.5 (-14 + 12) = 2
    got = policy_sequence.copg(*np.array([[-10.0], [-14.0], [-11.0], [-12.0], [2.0], [1.0]]), beta=0.5)
    np.testing.assert_allclose(got, [0.5**2 / (2 * 0.5)], rtol=1e-6)


def test_copg_gradient_is_contrastive():
    """-grad L = (R_b(y) - R_b(y')) (grad log pi(y) - grad log pi(y'))."""

    def gap(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_scores, rejected_scores):
        ratios = chosen_logps - ref_chosen_logps - (rejected_logps - ref_rejected_logps)
        return chosen_scores - rejected_scores - 0.3 * ratios

    def loss(**arrays):
        return policy_sequence.copg(**arrays, beta=0.3)

    closed = {"chosen_logps": lambda **a: -gap(**a), "rejected_logps": lambda **a: gap(**a)}
    check_gradient("contrastive", loss, closed, pairs, draws=10).require()


def test_edge_copg_with_one_gap_is_ipo():
    """R(y_w) - R(y_l) = c everywhere: beta / 2 times IPO with beta' = beta / (2 c)."""
    beta, gap = 0.3, 1.7

    def copg(chosen_scores, **arrays):
        return policy_sequence.copg(
            **arrays | {"rejected_scores": chosen_scores - gap}, chosen_scores=chosen_scores, beta=beta
        )

    def ipo(chosen_scores, rejected_scores, **arrays):
        return beta / 2 * paired.ipo(**arrays, beta=beta / (2 * gap))

    check_identity("IPO", copg, ipo, pairs, draws=10).require()


def test_copg_on_policy_is_twice_the_policy_gradient(x64):
    """Over all pairs of a finite world drawn from pi itself: -grad L = 2 grad(E[R] - beta KL)."""
    world = tabular.random_world(jax.random.key(0), 1, 5)
    logits = jax.random.normal(jax.random.key(1), (5,))
    i, j = (x.ravel() for x in np.meshgrid(np.arange(5), np.arange(5)))
    ref, rewards = world.ref_logps[0], world.rewards[0]

    def loss(x, sampler):
        logps = jax.nn.log_softmax(x)
        values = policy_sequence.copg(logps[i], logps[j], ref[i], ref[j], rewards[i], rewards[j], beta=0.4)
        return jnp.sum(sampler[i] * sampler[j] * values)

    got = jax.grad(loss)(logits, jax.nn.softmax(logits))
    exact = jax.grad(lambda x: tabular.rlhf_value(world, jax.nn.log_softmax(x)[None], beta=0.4))(logits)
    np.testing.assert_allclose(-got, 2 * exact, atol=1e-12)


def test_copg_off_policy_reaches_the_optimum(x64):
    """Pairs from a sampler that has nothing to do with pi: the minimum is 0, at ref exp(R / beta) / Z."""
    world = tabular.random_world(jax.random.key(2), 1, 4)
    i, j = np.array(list(itertools.combinations(range(4), 2))).T
    shares = jax.nn.softmax(jax.random.normal(jax.random.key(3), (len(i),)))
    ref, rewards = world.ref_logps[0], world.rewards[0]

    def loss(logps):
        logps = logps[0]
        return shares @ policy_sequence.copg(logps[i], logps[j], ref[i], ref[j], rewards[i], rewards[j], beta=0.4)

    best = tabular.rlhf_optimum(world, beta=0.4)
    found = tabular.minimise(loss, world.ref_logps, steps=10)
    np.testing.assert_allclose(found, best, atol=1e-8)
    assert loss(best) < 1e-20 < loss(world.ref_logps)


def test_copg_of_a_group_is_the_mean_over_its_pairs():
    rng = np.random.default_rng(0)
    logps, ref, rewards = -rng.uniform(1, 9, (3, K)), -rng.uniform(1, 9, (3, K)), rng.normal(size=(3, K))
    where = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 0]], bool)
    got = policy_sequence.copg_group(logps, ref, rewards, where=where, beta=0.3)
    for b in range(3):
        regularised = rewards[b] - 0.3 * (logps[b] - ref[b])
        gaps = [regularised[i] - regularised[j] for i, j in itertools.combinations(np.flatnonzero(where[b]), 2)]
        np.testing.assert_allclose(got[b], np.mean(np.square(gaps)) / 0.6 if gaps else 0, rtol=1e-5)


def test_dco_is_the_paper(x64):
    """Value, and gradient = F times that of cross-entropy, for p from exp(-25) to nearly 1."""
    grid = np.array(list(itertools.product((-1e-9, -0.01, -0.9, -1.1, -4.0, -12.0, -25.0), (1.0, 2.0, 64.0, 1e4))))
    logps, n = grid.astype(np.longdouble).T
    p = np.exp(logps)
    missed = np.exp(n * np.log1p(-p))
    covered = -np.expm1(n * np.log1p(-p))
    factor = n * p * missed / (1 - p) / covered

    @jax.jit
    def found(x, n):
        slope = jax.grad(lambda x: jnp.sum(policy_sequence.dco(x, samples=n)))(x)
        return policy_sequence.dco(x, samples=n), slope, weights.dco_factor(x, samples=n)

    value, slope, weight = found(*jnp.asarray(grid).T)
    np.testing.assert_allclose(value, -np.log(covered).astype(float), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(-slope, factor.astype(float), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(weight, factor.astype(float), rtol=1e-6, atol=1e-9)


def test_edge_dco_of_one_sample_is_cross_entropy():
    logps = np.array([-1e4, -100.0, -20.0, -3.0, -1.0, -0.5, -1e-3])
    np.testing.assert_allclose(policy_sequence.dco(logps, samples=1.0), -logps, rtol=1e-5)
    np.testing.assert_allclose(weights.dco_factor(logps, samples=1.0), np.ones(7), rtol=1e-5)
    np.testing.assert_allclose(policy_sequence.dco(logps[:3], samples=64.0), -logps[:3] - np.log(64), rtol=1e-5)


def test_the_factor_falls_from_one_to_nothing():
    p = jnp.array([1e-6, 1e-4, 1e-2, 1 / 64, 0.05, 0.2, 0.5, 1.0])
    factor = weights.dco_factor(jnp.log(p), samples=64.0)
    assert np.all(np.diff(factor) < 0)
    assert factor[0] > 0.999 and factor[-3] < 2e-4 and factor[-1] == 0
    np.testing.assert_array_equal(weights.dco_live(jnp.log(p), samples=64.0), p < 0.15)
    got = jax.grad(lambda x: jnp.sum(policy_sequence.dco_estimated(x, p, samples=64.0)))(jnp.zeros(8))
    np.testing.assert_allclose(got, -factor, rtol=1e-5)


def test_the_estimate_weighs_thoughts_as_dco_weighs_answers(x64):
    """With p the chance of the right answer, the mean over thoughts that reach it is DCO's own gradient."""
    right = np.array([True, False, True, False, False])
    logits, samples = jnp.array([0.3, 1.5, -0.4, 0.2, 1.1]), 8.0
    pi = np.asarray(jax.nn.softmax(logits))
    p = pi[right].sum()

    def estimated(x):
        rates = jnp.full(right.sum(), p)
        losses = policy_sequence.dco_estimated(jax.nn.log_softmax(x)[right], rates, samples=samples)
        return jnp.sum(pi[right] / p * losses)

    def exact(x):
        chance = jax.nn.logsumexp(jax.nn.log_softmax(x)[right])
        return jnp.sum(policy_sequence.dco(chance[None], samples=samples))

    found, expected = jax.jit(lambda x: (jax.grad(estimated)(x), jax.grad(exact)(x)))(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_pass_at_k():
    """Unbiased by enumeration: the mean over binomial counts of the estimate is the coverage."""
    p, n, k = 0.23, 6, 3
    counts = np.arange(n + 1)
    chances = np.array([math.comb(n, c) for c in counts])
    chances = chances * p**counts * (1 - p) ** (n - counts)
    np.testing.assert_allclose(chances @ np.asarray(passing.pass_at_k(counts, n, k=k)), 1 - (1 - p) ** k, rtol=1e-5)
    np.testing.assert_allclose(
        passing.coverage(np.array([0.0, p, 1.0]), samples=k), [0, 1 - (1 - p) ** 3, 1], rtol=1e-6
    )
    assert chances @ (1 - (1 - counts / n) ** k) < 1 - (1 - p) ** k - 0.01
    with pytest.raises(ValueError, match="k=0"):
        passing.pass_at_k(counts, n, k=0)


@jax.jit
def pass_rates(samples):
    """[steps] pass@64 and pass@1 of tables trained on one noisy label a question, from a spread-out start."""
    questions, answers = 60, 32
    truth_key, noise_key, flip_key, start_key = jax.random.split(jax.random.key(0), 4)
    truth = jax.random.randint(truth_key, (questions,), 0, answers)
    wrong = jax.random.randint(noise_key, (questions,), 0, answers)
    labels = jnp.where(jax.random.bernoulli(flip_key, 0.4, (questions,)), wrong, truth)
    rows = jnp.arange(questions)

    def loss(logits):
        return jnp.sum(policy_sequence.dco(jax.nn.log_softmax(logits)[rows, labels], samples=samples))

    def step(logits, _):
        logits = logits - 0.5 * jax.grad(loss)(logits)
        right = jax.nn.softmax(logits)[rows, truth]
        return logits, (jnp.mean(passing.coverage(right, samples=64.0)), jnp.mean(right))

    return jax.lax.scan(step, 0.5 * jax.random.normal(start_key, (questions, answers)), length=2000)[1]


def test_confidence_is_limited():
    """The claim: longer cross-entropy loses pass@64, coverage optimisation keeps it; for one try cross-entropy wins."""
    (many_ce, one_ce), (many_dco, one_dco) = pass_rates(1.0), pass_rates(64.0)
    assert many_ce[-1] < np.max(many_ce) - 0.2
    assert many_dco[-1] > np.max(many_dco) - 0.03
    assert many_dco[-1] > many_ce[-1] + 0.1
    assert one_ce[-1] > one_dco[-1] + 0.1

"""MODPO, MM-DPO and critique reward models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import language, reward, reward_critique
from prefjax.losses.preference import hinge, multi_objective, paired
from prefjax.theory import preference as closed
from prefjax.theory import tabular
from prefjax.theory.checker import check_gradient, check_identity
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid, sigmoid

compile_losses(globals())

# Log-ratios 1 and -1.5.
PAIR = [np.array([x]) for x in (-10.0, -14.0, -11.0, -12.5)]


def frozen(rng):
    rewards = {f"{side}_margin_rewards": rng.normal(size=(draws.B, 2)) for side in ("chosen", "rejected")}
    return draws.pairs(rng) | rewards | {"margin_weights": rng.uniform(size=2)}


def strengths(rng):
    return draws.pairs(rng) | {"margins": rng.uniform(0, 3, draws.B)}


def only_pair(loss, **options):
    return lambda **a: loss(**{name: a[name] for name in draws.PAIR}, **options)


@pytest.mark.parametrize("link", ["sigmoid", "hinge"])
def test_modpo_is_the_authors_code(link):
    h = (0.2 * 2.5 - (0.3 * (1 - 0.5) + 0.1 * (-2 - 1))) / 0.6
    got = multi_objective.modpo(
        *PAIR, np.array([[1.0, -2.0]]), np.array([[0.5, 1.0]]), np.array([0.3, 0.1]),
        beta=0.2, objective_weight=0.6, link=link,
    )  # fmt: skip
    np.testing.assert_allclose(got, [-log_sigmoid(h) if link == "sigmoid" else max(0, 1 - h)], rtol=1e-6)


def test_modpo_minimum_is_morlhf(x64):
    """Pairs of r_0 and the frozen r_1 give ref exp((w_0 r_0 + w_1 r_1) / beta) / Z."""
    world = tabular.random_world(jax.random.key(0), 1, 5)
    other = jax.random.normal(jax.random.key(1), (5,))
    i, j = (x.ravel() for x in jnp.meshgrid(jnp.arange(5), jnp.arange(5), indexing="ij"))

    def loss(*arrays):
        rewards = other[i][:, None], other[j][:, None]
        return multi_objective.modpo(*arrays, *rewards, jnp.array([0.7]), beta=0.5, objective_weight=0.3)

    def value(logits):
        return tabular.population_loss(world, jax.nn.log_softmax(logits), loss)

    # The loss is convex in the margins: where the gradient vanishes is its minimum.
    best = closed.optimal_policy(world.ref_logps, 0.3 * world.rewards + 0.7 * other, beta=0.5)
    slope = jax.jit(jax.grad(value))
    assert np.abs(slope(best)).max() < 1e-12
    assert np.abs(slope(world.ref_logps)).max() > 1e-3


def test_edge_modpo_with_one_objective_is_dpo():
    """w = (1, 0, ...), or frozen rewards equal on both responses; with "hinge" it is SLiC's hinge on ratios."""

    def alone(link, **a):
        a["margin_weights"] = jnp.zeros(2)
        return multi_objective.modpo(**a, objective_weight=1.0, link=link)

    def constant(**a):
        a["rejected_margin_rewards"] = a["chosen_margin_rewards"]
        return multi_objective.modpo(**a, objective_weight=1.0)

    for left in (functools.partial(alone, "sigmoid"), constant):
        check_identity("modpo", left, only_pair(paired.dpo), frozen).require()
    check_identity("modpo", functools.partial(alone, "hinge"), only_pair(hinge.slic, beta=0.1), frozen).require()


def test_mm_dpo_is_its_equation():
    b = 0.2 * (1 + 0.4 * (1 - np.exp(-0.5 * 1.5)))
    got = multi_objective.mm_dpo(*PAIR, np.array([1.5]), beta=0.2, boost=0.4, rate=0.5)
    np.testing.assert_allclose(got, [-log_sigmoid(b * 2.5)], rtol=1e-6)


def test_mm_dpo_gradient_and_the_shape_of_its_beta(x64):
    """At equal log-ratios the pull is beta(m) / 2, which grows from beta towards 1.5 beta, ever more slowly."""

    def scale(m):
        return 0.1 * (1 + 0.5 * (1 - jnp.exp(-0.5 * m)))

    def gradient(margins, **a):
        h, b = closed.log_ratio_margins(**a), scale(margins)
        return -b * jax.nn.sigmoid(-b * h)

    check_gradient("mm_dpo", multi_objective.mm_dpo, {"chosen_logps": gradient}, strengths).require()
    zero, m = jnp.zeros(41), jnp.linspace(0, 20, 41)
    pull = -2 * jax.grad(lambda x: jnp.sum(multi_objective.mm_dpo(x, zero, zero, zero, m)))(zero)
    np.testing.assert_allclose(pull, scale(m), rtol=1e-12)
    assert pull[0] == 0.1 and pull[-1] < 0.15 and np.all(np.diff(pull) > 0) and np.all(np.diff(pull, 2) < 0)


def test_edge_mm_dpo_is_dpo_at_both_ends():
    def at(m, **a):
        return multi_objective.mm_dpo(**{name: a[name] for name in draws.PAIR}, margins=jnp.full(draws.B, m))

    for m, beta in ((0.0, 0.1), (1e4, 0.15)):
        check_identity("mm_dpo", functools.partial(at, m), only_pair(paired.dpo, beta=beta), draws.pairs).require()
    flat = functools.partial(multi_objective.mm_dpo, boost=0.0)
    check_identity("mm_dpo", flat, only_pair(paired.dpo), strengths).require()


def test_critique_reward_is_its_equation():
    logps = np.array([[-0.5, -1.0, -9.0]]), np.array([[-2.0, -9.0, -9.0]])
    masks = dict(chosen_mask=np.array([[True, True, False]]), rejected_mask=np.array([[True, False, False]]))
    got = reward_critique.critique_reward(np.array([0.7]), np.array([0.2]), *logps, **masks, critique_weight=0.5)
    np.testing.assert_allclose(got, [-np.log(sigmoid(0.5)) + 0.5 * 3.5], rtol=1e-6)


def test_edge_critique_reward_is_bradley_terry_and_two_language_models():
    def arrays(rng):
        tokens = draws.tokens(rng)
        scores = {f"{side}_scores": rng.normal(size=draws.B) for side in ("chosen", "rejected")}
        names = [f"{side}_{what}" for side in ("chosen", "rejected") for what in ("token_logps", "mask")]
        return scores | {name: tokens[name] for name in names}

    def parts(chosen_scores, rejected_scores, **a):
        sft = [language.sft(a[f"{s}_token_logps"], where=a[f"{s}_mask"]) for s in ("chosen", "rejected")]
        return reward.bradley_terry(chosen_scores, rejected_scores) + sft[0] + sft[1]

    check_identity("critique", reward_critique.critique_reward, parts, arrays).require()

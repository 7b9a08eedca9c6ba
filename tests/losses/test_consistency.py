"""CREAM and SCIR: pairs count as far as the model agrees with itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import consistency, graded, paired
from prefjax.theory import preference as closed
from prefjax.theory.checker import check_identity
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid, sigmoid

compile_losses(globals())

# Log-ratios 1 and -1.5.
PAIR = [np.array([x]) for x in (-10.0, -14.0, -11.0, -12.5)]
WEIGHTS = dict(consistency_weight=0.0, confidence_weight=0.0)


def judged(rng):
    return draws.pairs(rng) | {"internal_logits": rng.normal(0, 2, (draws.B, 3))}


def test_cream_is_the_authors_code():
    got = consistency.cream(*PAIR, np.array([0.7]), beta=0.2)
    np.testing.assert_allclose(got, [-0.7 * log_sigmoid(0.5) - 0.3 * log_sigmoid(-0.5)], rtol=1e-6)


@pytest.mark.parametrize("c", [0.5, 0.7, 0.9])
def test_cream_minimum_and_gradient_at_zero(c, x64):
    """At z = logit(C), and 1/2 - C at z = 0."""
    zero = jnp.zeros(1)
    slope = jax.grad(lambda z: consistency.cream(z[None], zero, zero, zero, jnp.array([c]), beta=1.0)[0])
    assert abs(slope(closed.logit(jnp.asarray(c)))) < 1e-12
    np.testing.assert_allclose(slope(jnp.array(0.0)), 0.5 - c, atol=1e-12)


def test_scir_is_its_equation():
    """Two judges, 0.8 and -0.3 (they disagree), then 0.8 and 0.3 (they agree on the first)."""

    def kl(p, q):
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    for other, fit in ((-0.3, 0.0), (0.3, -log_sigmoid(0.5))):
        p, q = sigmoid(0.8), sigmoid(other)
        entropy = np.mean([-x * np.log(x) - (1 - x) * np.log(1 - x) for x in (p, q)])
        got = consistency.scir(
            *PAIR, np.array([[0.8, other]]), beta=0.2, consistency_weight=0.5, confidence_weight=0.25
        )
        np.testing.assert_allclose(got, [fit + 0.5 * (kl(p, q) + kl(q, p)) + 0.25 * entropy], rtol=1e-6)


def test_disagreement_teaches_no_preference(x64):
    arrays = {n: jnp.asarray(x) for n, x in judged(np.random.default_rng(0)).items()}
    agree = np.abs(np.sign(arrays["internal_logits"]).sum(axis=1)) == 3
    slope = jax.grad(lambda x: jnp.sum(consistency.scir(**{**arrays, "chosen_logps": x})))(arrays["chosen_logps"])
    assert agree.any() and not agree.all()
    np.testing.assert_array_equal(slope != 0, agree)
    # The pair is taken in the judges' order.
    assert np.all(np.sign(slope[agree]) == -np.sign(arrays["internal_logits"][agree, 0]))


def test_inconsistency_is_zero_only_between_equal_judges():
    zero = jnp.zeros(3)
    logits = jnp.array([[1.5, 1.5, 1.5], [1.5, 1.5, 1.4], [-3.0, -3.0, -3.0]])
    without = functools.partial(consistency.scir, confidence_weight=0.0)
    gap = without(zero, zero, zero, zero, logits) - without(zero, zero, zero, zero, logits, consistency_weight=0.0)
    np.testing.assert_allclose(gap[jnp.array([0, 2])], 0, atol=1e-7)
    assert gap[1] > 1e-4


def test_a_threshold_asks_for_confidence():
    logits = jnp.array([[2.0, 0.5], [2.0, 2.0]])
    pair = [np.repeat(x, 2) for x in PAIR]
    values = consistency.scir(*pair, logits, **WEIGHTS, threshold=0.8)
    assert values[0] == 0 and values[1] > 0


def test_edge_cream_is_conservative_dpo():
    for c in (1.0, 0.8, 0.5):

        def cream(c=c, **a):
            return consistency.cream(**a, consistency=jnp.full(draws.B, c))

        cdpo = functools.partial(paired.dpo, label_smoothing=1 - c)
        check_identity("cream", cream, cdpo, draws.pairs).require()


def test_edge_cream_is_soft_dpo():
    def arrays(rng):
        return draws.pairs(rng) | {"p": rng.uniform(size=draws.B)}

    def cream(p, **a):
        return consistency.cream(**a, consistency=p)

    def soft(p, **a):
        return graded.soft_dpo(**a, preference_probs=p)

    check_identity("cream", cream, soft, arrays).require()


def test_edge_scir_with_one_judge_of_the_data_is_dpo():
    def one(**a):
        return consistency.scir(**a, internal_logits=jnp.ones((draws.B, 1)), **WEIGHTS)

    check_identity("scir", one, paired.dpo, draws.pairs).require()

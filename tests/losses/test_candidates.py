"""AFT: alignment of scores, and the constraint that keeps bad ones from falling for ever."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses.preference import candidates
from prefjax.theory import candidates as theory
from prefjax.theory.checker import check_gradient, check_identity
from tests.compiled import compile_losses
from tests.losses import draws

compile_losses(globals())


def lists(rng):
    """Scores are averages over tokens; labels are grades with ties."""
    lengths = rng.integers(1, 9, (draws.B, draws.K)).astype(float)
    logps = -rng.uniform(0.1, 3, (draws.B, draws.K)) * lengths
    return {
        "list_logps": logps,
        "list_labels": rng.integers(0, 3, (draws.B, draws.K)).astype(float),
        "list_lengths": lengths,
    }


def written(s, labels, beta, form):
    """The equation as loops."""
    total = 1.0
    for i in range(len(s)):
        for j in range(len(s)):
            if labels[i] > labels[j]:
                total += np.exp(s[j] - s[i])
                if form == "boundary":
                    lowest = min(s[k] for k in range(len(s)) if labels[k] > labels[j])
                    total += np.exp(2 * lowest - 2 * beta - s[i] - s[j])
    return np.log(total)


def test_aft_is_the_equation():
    arrays = lists(np.random.default_rng(0))
    scores = arrays["list_logps"] / arrays["list_lengths"]
    for form in ("boundary", "detach", "align"):
        expected = [written(s, v, 0.3, form) for s, v in zip(scores, arrays["list_labels"], strict=True)]
        np.testing.assert_allclose(candidates.aft(**arrays, form=form, beta=0.3), expected, rtol=1e-5)
    none = {name: x[:0] for name, x in arrays.items()}
    assert candidates.aft(**none).shape == (0,)


def bad_gradient(good, bad, form, beta=0.3):
    """d loss / d bad score, of one good and one bad candidate of one token."""

    def loss(bad):
        logps = jnp.stack([jnp.asarray(good), bad])[None]
        return candidates.aft(logps, jnp.array([[1.0, 0.0]]), list_lengths=jnp.ones((1, 2)), form=form, beta=beta)[0]

    return float(jax.grad(loss)(jnp.asarray(bad)))


def test_a_bad_score_is_held_at_the_boundary():
    """Down above s* - beta, up below it, still at it; without the constraint always down."""
    edge = float(theory.aft_boundary(-1.0, beta=0.3))
    assert edge == np.float32(-1.3)
    np.testing.assert_allclose(bad_gradient(-1.0, edge, "boundary"), 0, atol=1e-7)
    for distance in (0.01, 0.5, 5.0):
        assert bad_gradient(-1.0, edge + distance, "boundary") > 0 > bad_gradient(-1.0, edge - distance, "boundary")
        assert bad_gradient(-1.0, edge - distance, "align") > 0


def test_gradient_of_a_pair():
    def loss(good, bad):
        logps = jnp.stack([good, bad], axis=1)
        labels = jnp.broadcast_to(jnp.array([1.0, 0.0]), logps.shape)
        return candidates.aft(logps, labels, list_lengths=jnp.ones(logps.shape), beta=0.3)

    check_gradient(
        "boundary",
        loss,
        {"bad": functools.partial(theory.aft_gradient, beta=0.3)},
        lambda rng: {"good": -rng.uniform(0.1, 3, draws.B), "bad": -rng.uniform(0.1, 3, draws.B)},
    ).require()


def test_detached_bad_scores_get_no_gradient():
    arrays = lists(np.random.default_rng(1))
    arrays["list_labels"] = (arrays["list_labels"] > 0).astype(float)

    def gradient(form):
        return jax.grad(lambda x: jnp.sum(candidates.aft(**{**arrays, "list_logps": x}, form=form)))(
            arrays["list_logps"]
        )

    bad = arrays["list_labels"] == 0
    assert not np.any(gradient("detach")[bad])
    mixed = bad & np.any(~bad, axis=1, keepdims=True)
    assert np.all(gradient("align")[mixed] > 0)


def test_training_lowers_bad_scores_to_the_boundary_and_without_it_for_ever():
    """Gradient descent on the scores of bad candidates; the good ones stay at -1 and -1.2."""
    labels = jnp.array([[1.0, 1.0, 0.0, 0.0]])

    def trained(form, steps):
        def loss(bad):
            logps = jnp.concatenate([jnp.array([-1.0, -1.2]), bad])[None]
            return candidates.aft(logps, labels, list_lengths=jnp.ones((1, 4)), form=form, beta=0.2)[0]

        start = jnp.array([-0.8, -3.0])
        return np.asarray(jax.jit(lambda x: jax.lax.fori_loop(0, steps, lambda _, x: x - jax.grad(loss)(x), x))(start))

    np.testing.assert_allclose(trained("boundary", 200), -1.2 - 0.2, atol=1e-3)
    early, late = trained("align", 20), trained("align", 200)
    assert np.all(late < early) and np.all(late < -3)


def test_edge_one_pair_is_bradley_terry_on_averages():
    def left(good, bad):
        logps = jnp.stack([good, bad], axis=1)
        labels = jnp.broadcast_to(jnp.array([1.0, 0.0]), logps.shape)
        return candidates.aft(logps, labels, list_lengths=jnp.full(logps.shape, 4.0), form="align")

    check_identity(
        "softplus",
        left,
        lambda good, bad: jax.nn.softplus((bad - good) / 4),
        lambda rng: {"good": -rng.uniform(1, 9, draws.B), "bad": -rng.uniform(1, 9, draws.B)},
    ).require()


def test_edge_a_loose_boundary_is_align():
    loose = functools.partial(candidates.aft, beta=30.0)
    check_identity("beta -> inf", loose, functools.partial(candidates.aft, form="align"), lists).require()


def test_the_boundary_itself_is_stopped():
    """The good score is pulled up by both terms; with s* let through the second would let go of it, and push down."""
    good, bad, beta = -1.0, -2.0, 0.3

    def loss(good):
        logps = jnp.stack([good, jnp.asarray(bad)])[None]
        return candidates.aft(logps, jnp.array([[1.0, 0.0]]), list_lengths=jnp.ones((1, 2)), beta=beta)[0]

    pull = np.exp(bad - good) + np.exp(2 * good - 2 * beta - good - bad)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(good)), -pull / (1 + pull), rtol=1e-5)

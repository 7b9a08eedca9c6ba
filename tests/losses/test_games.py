"""Losses of the preference game: golden values, where their minima are, and what they are with hard labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses.preference import games, graded, paired
from prefjax.theory import games as theory
from prefjax.theory import tabular
from prefjax.theory.checker import check_gradient, check_identity
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid, sigmoid

compile_losses(globals())

# Log-ratios 1 and -1.5.
PAIR = [np.array([x]) for x in (-10.0, -14.0, -11.0, -12.5)]
RATES = [np.array([x]) for x in (0.8, 0.3)]
REVISIONS = ("improved", "worsened", "kept_chosen", "kept_rejected")


def with_rates(rng):
    rates = {f"{side}_win_rates": rng.uniform(size=draws.B) for side in ("chosen", "rejected")}
    return draws.pairs(rng) | rates


def revisions(rng):
    arrays = draws.pairs(rng)
    for name in REVISIONS:
        arrays[f"ref_{name}_logps"] = -rng.uniform(5, 60, draws.B)
        arrays[f"{name}_logps"] = arrays[f"ref_{name}_logps"] + rng.normal(0, 3, draws.B)
    return arrays


def test_dno_is_the_paper():
    q = sigmoid(0.8 - 0.3)
    expected = -q * log_sigmoid(0.2 * 2.5) - (1 - q) * log_sigmoid(-0.2 * 2.5)
    np.testing.assert_allclose(games.dno(*PAIR, *RATES, eta=0.2), [expected], rtol=1e-6)


def test_online_ipo_is_the_authors_code():
    np.testing.assert_allclose(games.online_ipo(*PAIR, *RATES, beta=0.4), [(2.5 - 0.5 / 0.4) ** 2], rtol=1e-6)


def test_srpo_is_its_equations():
    """a(w|l) = 1, a(l|w) = -2, a(w|w) = 0.5, a(l|l) = 0.25; b(w) = 1, b(l) = -1.5; beta = 0.3, alpha = 0.25."""
    ratios = dict(zip(REVISIONS, (1.0, -2.0, 0.5, 0.25), strict=True))
    arrays = {f"{name}_logps": np.array([u - 7]) for name, u in ratios.items()}
    arrays |= {f"ref_{name}_logps": np.array([-7.0]) for name in ratios}
    own = (0.5 - 0.3 * (1 - 0.25)) ** 2 + (0.5 - 0.3 * (0.5 + 2)) ** 2
    joint = (1 - 0.3 * (1 + 2 + 1 + 1.5)) ** 2 / 4
    got = games.srpo(*PAIR, **arrays, beta=0.3, alpha=0.25)
    np.testing.assert_allclose(got, [0.25 * own + 0.75 * joint], rtol=1e-6)


def test_dno_gradient():
    def closed(**a):
        u1, u2 = draws.ratios(**a)
        lead = a["chosen_win_rates"] - a["rejected_win_rates"]
        return 0.3 * (jax.nn.sigmoid(0.3 * (u1 - u2)) - jax.nn.sigmoid(lead))

    loss = functools.partial(games.dno, eta=0.3)
    gradients = {"chosen_logps": closed, "rejected_logps": lambda **a: -closed(**a)}
    check_gradient("dno", loss, gradients, with_rates).require()


def on_all_pairs(loss, logps, ref_logps, rates):
    """The mean of a loss over all ordered pairs of responses."""
    i, j = (x.ravel() for x in jnp.meshgrid(jnp.arange(len(logps)), jnp.arange(len(logps)), indexing="ij"))
    return jnp.mean(loss(logps[i], logps[j], ref_logps[i], ref_logps[j], rates[i], rates[j]))


def game(seed, size=6):
    keys = jax.random.split(jax.random.key(seed), 2)
    return jax.nn.log_softmax(jax.random.normal(keys[0], (size,))), theory.random_preferences(keys[1], size)


def test_dno_minimum_is_the_exact_iterate(x64):
    """The gradient in the logits vanishes at pi_t exp(r / eta) / Z, and nowhere near."""
    last, preferences = game(0)
    rates = theory.win_rates(last, preferences)
    loss = functools.partial(games.dno, eta=0.7)
    slope = jax.grad(lambda logits: on_all_pairs(loss, jax.nn.log_softmax(logits), last, rates))
    assert np.abs(slope(theory.dno_step(last, preferences, eta=0.7))).max() < 1e-12
    assert np.abs(slope(last)).max() > 1e-3


def test_online_ipo_is_zero_at_the_equilibrium(x64):
    ref, preferences = game(1)
    equilibrium = theory.regularised_equilibrium(ref, preferences, beta=0.1)
    rates = theory.win_rates(equilibrium, preferences)
    loss = functools.partial(games.online_ipo, beta=0.1)
    assert on_all_pairs(loss, equilibrium, ref, rates) < 1e-20
    assert on_all_pairs(loss, ref, ref, rates) > 0.1


def srpo_on(preferences, ref, sampler, alpha, beta):
    """The exact expectation of srpo over pairs (i, j) drawn by `sampler`, as a function of the two tables of logits."""
    size = len(ref)
    i, j = (x.ravel() for x in jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij"))
    weights = (sampler[:, None] * sampler[None, :] * preferences).ravel()

    def expected(logits, revision_logits):
        logps = jax.nn.log_softmax(logits)
        revised = jax.nn.log_softmax(revision_logits, axis=0)
        plain = (logps[i], logps[j], ref[i], ref[j])
        losses = games.srpo(
            *plain, revised[i, j], revised[j, i], revised[i, i], revised[j, j], ref[i], ref[j], ref[i], ref[j],
            alpha=alpha, beta=beta,
        )  # fmt: skip
        return jnp.sum(weights * losses)

    return expected


def test_srpo_minimum_does_not_depend_on_the_sampler(x64):
    """With labels drawn from the true preferences it is the game's solution for any sampler; IPO's optimum moves."""
    ref, preferences = game(2, 4)
    best = theory.srpo_policies(ref, preferences, beta=0.6)
    uniform, skewed = jnp.full(4, 0.25), jnp.array([0.7, 0.1, 0.1, 0.1])
    for alpha in (0.0, 0.5, 1.0):
        for sampler in (uniform, skewed):
            slopes = jax.grad(srpo_on(preferences, ref, sampler, alpha, 0.6), argnums=(0, 1))
            for slope in slopes(best.logps, best.revision_logps):
                assert np.abs(slope).max() < 1e-12
            assert max(float(np.abs(s).max()) for s in slopes(ref, best.revision_logps + jnp.eye(4))) > 1e-3
    world = tabular.random_world(jax.random.key(0), 1, 4)
    one, other = (tabular.ipo_optimum(world, beta=0.1, pair_probs=s) for s in (uniform, skewed))
    assert np.abs(one - other).max() > 0.05


def test_edge_dno_is_soft_dpo_with_the_sigmoid_of_the_lead():
    def soft(chosen_win_rates, rejected_win_rates, **a):
        return graded.soft_dpo(**a, preference_probs=jax.nn.sigmoid(chosen_win_rates - rejected_win_rates), beta=0.3)

    check_identity("dno", functools.partial(games.dno, eta=0.3), soft, with_rates).require()


def test_edge_dno_with_hard_labels_is_dpo():
    """In the order of win rates, with the last iterate as the reference."""

    def ordered(chosen_win_rates, rejected_win_rates, **a):
        straight = paired.dpo(**a, beta=0.3)
        swapped = paired.dpo(*(a[n] for n in np.array(draws.PAIR)[[1, 0, 3, 2]]), beta=0.3)
        return jnp.where(chosen_win_rates > rejected_win_rates, straight, swapped)

    hard = functools.partial(games.dno, eta=0.3, labels="hard")
    check_identity("hard dno", hard, ordered, with_rates).require()


def test_edge_online_ipo_with_a_lead_of_one_half_is_ipo():
    def half(**a):
        return games.online_ipo(**a, chosen_win_rates=jnp.ones(draws.B), rejected_win_rates=jnp.full(draws.B, 0.5))

    check_identity("online IPO", half, paired.ipo, draws.pairs).require()


def test_edge_srpo_with_a_frozen_reviser_is_ipo():
    """alpha = 0, revisions as likely as under the reference: (1 - beta h)^2 / 4 = (beta / 2)^2 (h - 1 / beta)^2."""

    def frozen(**a):
        a |= {f"{name}_logps": a[f"ref_{name}_logps"] for name in REVISIONS}
        return games.srpo(**a, beta=0.3, alpha=0.0)

    def ipo(**a):
        return paired.ipo(**{name: a[name] for name in draws.PAIR}, beta=0.15) * 0.15**2

    check_identity("srpo", frozen, ipo, revisions).require()

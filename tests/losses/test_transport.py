"""AOT: the sort is the optimal coupling, padding takes no part in it, and the batch matters."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import paired, transport
from prefjax.theory.checker import check_bound, check_identity
from tests.compiled import compile_losses
from tests.losses import draws

compile_losses(globals())

LOSSES = [transport.aot, transport.aot_unpaired]


def test_sort_is_the_optimal_coupling():
    """For a convex loss of differences no matching of chosen with rejected rewards costs less: all 120 tried."""
    rng = np.random.default_rng(0)
    uw, ul, zero = rng.normal(0, 4, 5), rng.normal(0, 4, 5), np.zeros(5)
    costs = [np.mean(-draws.log_sigmoid(0.5 * (uw - ul[list(order)]))) for order in itertools.permutations(range(5))]
    got = jnp.mean(transport.aot_unpaired(uw, ul, zero, zero, beta=0.5))
    np.testing.assert_allclose(got, min(costs), rtol=1e-6)


def test_unpaired_does_not_see_the_pairing():
    arrays = draws.pairs(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(draws.B)
    shuffled = {name: x[order] if "rejected" in name else x for name, x in arrays.items()}
    np.testing.assert_allclose(
        transport.aot_unpaired(**shuffled), transport.aot_unpaired(**arrays), rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(paired.dpo(**shuffled), paired.dpo(**arrays))


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_is_not_sorted(loss):
    """Half the batch is padding with absurd values: the rest is what it would be alone."""
    rng = np.random.default_rng(3)
    arrays = draws.pairs(rng)
    mask = rng.random(draws.B) < 0.5
    padded = {name: np.where(mask, x, rng.choice([-1e4, 0.0, np.nan], draws.B)) for name, x in arrays.items()}
    got = loss(**padded, example_mask=mask)
    alone = loss(**{name: x[mask] for name, x in arrays.items()})
    np.testing.assert_allclose(got[mask], alone, rtol=1e-6)
    np.testing.assert_allclose(got[~mask], np.log(2), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_whole_batch_differs_from_its_halves(loss):
    """What sorting each micro-batch gives instead."""
    arrays = draws.pairs(np.random.default_rng(4))
    halves = [loss(**{n: x[part] for n, x in arrays.items()}) for part in (slice(0, 12), slice(12, 24))]
    assert abs(jnp.mean(jnp.concatenate(halves)) - jnp.mean(loss(**arrays))) > 1e-6


def test_edge_one_pair_is_dpo():
    def one_by_one(loss, **arrays):
        return jax.vmap(lambda *pair: loss(*(x[None] for x in pair))[0])(*(arrays[name] for name in draws.PAIR))

    for loss in LOSSES:
        check_identity("AOT = DPO", functools.partial(one_by_one, loss), paired.dpo, draws.pairs).require()


def test_edge_aot_of_a_constant_reference_is_dpo():
    """The reference's margins are all alike, so there is nothing to sort against."""

    def draw(rng):
        arrays = draws.pairs(rng)
        return arrays | {"ref_chosen_logps": np.full(draws.B, -9.0), "ref_rejected_logps": np.full(draws.B, -7.0)}

    check_identity("AOT = DPO", transport.aot, paired.dpo, draw).require()


def test_edge_aot_bounds_dpo_from_below():
    """Pairing in any other order, DPO's among them, costs more on average."""

    def mean(loss, **arrays):
        return jnp.mean(loss(**arrays))

    for loss in LOSSES:
        check_bound(
            "AOT <= DPO", functools.partial(mean, loss), functools.partial(mean, paired.dpo), draws.pairs
        ).require()

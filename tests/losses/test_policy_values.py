"""Proto-value networks: the temporal difference, its fixed point, and the subspace it spans."""

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses import policy_values
from prefjax.rewards import proto_values as tasks
from prefjax.theory import proto_values

GAMMA = 0.9


def test_loss_is_the_paper():
    values, ahead = np.array([[1.0, 2.0]]), np.array([[[1.0, 0.0], [3.0, 1.0]]])
    got = policy_values.pvn_td(values, ahead, np.array([[0.0, 1.0]]), gamma=0.5)
    np.testing.assert_allclose(got, [((1 - 0.5 * 2) ** 2 + (2 - 1 - 0.5 * 0.5) ** 2) / 2], rtol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(policy_values.pvn_td(values, x, np.array([[0.0, 1.0]]))))(ahead)
    assert not np.any(slope)


def test_fixed_point_is_the_successor_measure(x64):
    """The claim: (I - gamma P)^-1 1_S, exactly; temporal differences converge to it."""
    size, sets = 6, 4
    moves = np.stack([np.roll(np.eye(size), 1, axis=1), np.roll(np.eye(size), -2, axis=1)])  # two actions
    cumulants = jnp.asarray(np.random.default_rng(0).random((size, sets)) < 0.4, float)
    exact = proto_values.successor(moves.mean(0), gamma=GAMMA) @ cumulants
    slope = jax.grad(lambda psi, target: jnp.sum(policy_values.pvn_td(psi, moves_of(target), cumulants, gamma=GAMMA)))

    def moves_of(values):
        return jnp.stack([move @ values for move in jnp.asarray(moves)], axis=1)

    @jax.jit
    def learn(psi):
        return jax.lax.fori_loop(0, 400, lambda _, psi: psi - sets / 2 * slope(psi, psi), psi)

    np.testing.assert_allclose(slope(exact, exact), np.zeros((size, sets)), atol=1e-12)
    np.testing.assert_allclose(learn(jnp.zeros((size, sets))), exact, atol=1e-8)


def test_many_tasks_span_the_proto_value_functions(x64):
    """The claim: for symmetric P the singular vectors are P's eigenvectors, and random sets approach their span."""
    size, kept = 12, 3

    @jax.jit
    def angles():
        walk = proto_values.path(size)
        visits = proto_values.successor(walk, gamma=GAMMA)
        functions = proto_values.proto_value_functions(walk, count=kept)

        def angle(values):
            return proto_values.largest_angle(proto_values.principal_features(values, count=kept), functions)

        sets = jax.random.bernoulli(jax.random.key(0), 0.3, (10, size, 512)).astype(float)
        few = [jnp.mean(jax.lax.map(lambda s, n=n: angle(visits @ s[:, :n]), sets)) for n in (8, 64, 512)]
        moved = walk @ functions - functions * jnp.cos(jnp.pi * jnp.arange(1, kept + 1) / size)
        return angle(visits), jnp.stack(few), jnp.max(jnp.abs(moved))

    exact, few, moved = angles()
    assert exact < 1e-6 and moved < 1e-10
    assert few[0] > 1.5 * few[1] > 1.5**2 * few[2]


def test_random_sets_hold_their_share():
    observations, fresh = np.split(np.random.default_rng(0).normal(size=(2400, 5)).astype(np.float32), [400])

    @jax.jit
    def both():
        params = tasks.init(jax.random.key(1), observations, tasks=16, rate=0.1)
        return tasks.cumulants(params, observations), tasks.cumulants(params, fresh)

    found, fresh = map(np.asarray, both())
    assert found.shape == (400, 16) and set(np.unique(found)) == {0.0, 1.0}
    np.testing.assert_allclose(found.mean(0), 0.1, atol=0.005)
    assert np.all((fresh.mean(0) > 0.02) & (fresh.mean(0) < 0.25))
    assert not np.array_equal(found[:, 0], found[:, 1])

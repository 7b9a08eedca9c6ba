"""Heads on features: what each view gives, that PAL and VPL find tastes where one reward cannot, phases apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax import train
from prefjax.data import feature_sources
from prefjax.losses import reward, reward_latent
from prefjax.objective import add, compose
from prefjax.rewards import dmoerm, heads, helpsteer2
from prefjax.views import features as views

PEOPLE = ("terse", "chatty") * 3


@pytest.fixture(scope="module")
def tastes():
    """Six annotators, three who like it short and three who like it long."""
    return feature_sources.gold(size=1200, eval_size=300, annotators=PEOPLE, context=8, rows=300, seed=1)


def fitted(data, head, objective, steps=150, rate=3e-2):
    step = jax.jit(train.make_step(objective, optax.adam(rate)))
    state = train.init_state(jax.jit(head.init)(jax.random.key(0)), optax.adam(rate))
    batches = data.train(prefetch=0)
    for i in range(steps):
        state, _ = step(state, next(batches), jax.random.key(i))
    return state.params


def held_out(data, head, params, name="scores"):
    right = []
    view = jax.jit(lambda p, b, k: (lambda v: v[f"chosen_{name}"] - v[f"rejected_{name}"])(
        views.pairs(p, {}, b, k, model=head)))  # fmt: skip
    for batch in data.eval():
        right.append(np.asarray(view(params, batch, jax.random.key(9)))[batch["example_mask"]] > 0)
    return np.concatenate(right).mean()


def test_pal_and_vpl_find_tastes_where_one_reward_cannot(tastes):
    sizes = tastes.sizes
    one = heads.domain_features(features=sizes["features"])
    single = fitted(tastes, one, compose(functools.partial(views.pairs, model=one), reward.bradley_terry), steps=60)
    pal = heads.pal_a(features=sizes["features"], users=sizes["users"], width=8, hidden=16, kind="scaled_distance")
    mixed = fitted(tastes, pal, compose(functools.partial(views.pairs, model=pal), reward.bradley_terry))
    vpl = heads.vpl(features=sizes["features"], hidden=16, latent=2)
    view = functools.partial(views.pairs, model=vpl)
    terms = {
        "reward": (1.0, compose(view, reward.bradley_terry)),
        "prior": (1e-3, compose(view, reward_latent.latent_kl)),
    }
    latent = fitted(tastes, vpl, add(terms), rate=1e-2)
    accuracy = {
        "one": held_out(tastes, one, single),
        "pal": held_out(tastes, pal, mixed),
        "vpl": held_out(tastes, vpl, latent, "posterior_scores"),
    }
    print(accuracy)
    assert accuracy["one"] < 0.7  # half of the people want the opposite
    assert accuracy["pal"] > accuracy["one"] + 0.1 and accuracy["vpl"] > accuracy["one"] + 0.1
    weights = np.asarray(jax.nn.softmax(mixed["users"]))  # users of a taste mix the prototypes alike
    names = sorted(range(len(PEOPLE)))
    lead = np.array([weights[i, 0] > 0.5 for i in names])
    assert len(set(lead[::2])) == 1 == len(set(lead[1::2])) and lead[0] != lead[1]


def test_phases_of_dmoerm_train_their_own_parameters(tastes):
    head = heads.dmoerm(features=4, tasks=tastes.sizes["tasks"], capabilities=4, rank=2)
    params = head.init(jax.random.key(0))
    batch = next(tastes.train(prefetch=0))
    view = functools.partial(views.pairs, model=head)
    bind = {"chosen_scores": "chosen_base_scores", "rejected_scores": "rejected_base_scores"}
    objectives = {
        "base": compose(view, reward.bradley_terry, bind=bind),
        "experts": compose(view, heads.capability_loss),
        "mixture": compose(view, reward.bradley_terry),
    }

    @jax.jit
    def moved(params):
        def touched(objective):
            grads = jax.grad(lambda p: objective(p, {}, batch, jax.random.key(0))[0].value)(params)
            return {name: sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree)) for name, tree in grads.items()}

        return {name: touched(objective) for name, objective in objectives.items()}

    found = {name: {part for part, size in sizes.items() if size > 0} for name, sizes in moved(params).items()}
    assert found == {"base": {"base", "base_head"}, "experts": {"up", "heads"}, "mixture": {"aggregator"}}
    # the view gives what the functions give, chosen first
    named = view(params, {}, batch, jax.random.key(0))
    for k, side in enumerate(("chosen", "rejected")):
        wanted = dmoerm.scores(params, batch["features"][:, k], batch["tasks"])
        np.testing.assert_allclose(named[f"{side}_scores"], wanted, atol=1e-6)
        np.testing.assert_array_equal(named[f"{side}_attribute_ratings"], batch["attribute_ratings"][:, k])


def test_capability_loss_is_its_equation():
    rng = np.random.default_rng(0)
    chosen, rejected, first, second = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(4))
    second[0], second[1, 0] = first[0], first[1, 0]
    lead = np.sign(first - second).astype(np.float64)
    values = np.log1p(np.exp(-lead * (chosen - rejected)))
    wanted = [0.0 if not sign.any() else v[sign != 0].mean() for v, sign in zip(values, lead, strict=True)]
    given = heads.capability_loss(chosen, rejected, chosen_attribute_ratings=first, rejected_attribute_ratings=second)
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    plain = heads.capability_loss(chosen, rejected)
    np.testing.assert_allclose(plain, np.log1p(np.exp(-(chosen - rejected))).mean(1), rtol=1e-5)


def test_helpsteer2_column_is_from_regression_and_extrapolates():
    head = heads.attributes(features=6, count=4, attribute=2)
    params = head.init(jax.random.key(0))
    batch = {"features": np.random.default_rng(0).normal(size=(3, 2, 6)).astype(np.float32)}
    named = views.pairs(params, {}, batch, jax.random.key(0), model=head)
    alone = helpsteer2.from_regression(params["0"], 2)
    wanted = batch["features"][:, 0] @ alone["kernel"] + alone["bias"]
    np.testing.assert_allclose(named["chosen_scores"], wanted[:, 0], atol=1e-6)
    end = jax.tree.map(lambda x: x + 1.0, params)
    beyond = helpsteer2.expo(params, end, extrapolation=0.5)
    np.testing.assert_allclose(beyond["0"]["bias"], end["0"]["bias"] + 0.5)


def test_phase_schedule():
    values = [float(heads.between(jnp.asarray(step), start=2, stop=4)) for step in range(6)]
    assert values == [0, 0, 1, 1, 0, 0]


def test_vpl_without_context_says_so():
    head = heads.vpl(features=4)
    with pytest.raises(ValueError, match="context=n"):
        head.named({}, {"features": np.zeros((2, 2, 4))}, jax.random.key(0))

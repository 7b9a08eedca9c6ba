"""compose, add, scale, rename and accumulate, and the step that differentiates them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from prefjax import mesh as meshes
from prefjax import train
from prefjax.objective import accumulate, add, call, compose, rename, scale
from prefjax.ops.masked import Mean, coupled
from prefjax.views import Named

KEY = jax.random.key(0)


def view(params, carry, batch, key):
    """Named arrays that are linear in the parameters."""
    return Named(
        {
            "chosen_scores": lambda: batch["x"] @ params["w"],
            "rejected_scores": lambda: batch["y"] @ params["w"],
            "lengths": batch["n"],
            "example_mask": batch["example_mask"],
        }
    )


def logistic(chosen_scores, rejected_scores, *, beta=1.0, lengths=None):
    return jnp.logaddexp(0.0, -beta * (chosen_scores - rejected_scores))


def square(chosen_scores):
    return jnp.square(chosen_scores)


@coupled
def centred(chosen_scores, *, example_mask=None):
    return jnp.square(chosen_scores - jnp.mean(chosen_scores))


def make_batch(n=8, d=3, seed=0, masked=()):
    rng = np.random.default_rng(seed)
    mask = np.ones(n, bool)
    mask[list(masked)] = False
    return {
        "x": rng.normal(size=(n, d)).astype(np.float32),
        "y": rng.normal(size=(n, d)).astype(np.float32),
        "n": rng.integers(1, 9, n).astype(np.int32),
        "example_mask": mask,
    }


PARAMS = {"w": jnp.array([0.3, -0.2, 0.5])}


def two_terms():
    preference = compose(view, logistic, metrics={"rewards/chosen": lambda chosen_scores: chosen_scores})
    tokens = compose(view, square, count="lengths")
    return add({"preference": (1.0, preference), "sft": (0.3, tokens)})


def test_value_is_the_weighted_mean_of_the_loss():
    batch = make_batch(masked=[2])
    objective = compose(
        view, functools.partial(logistic, beta=2.0), weight=lambda lengths: lengths.astype(jnp.float32), count="lengths"
    )
    mean, _ = objective(PARAMS, {}, batch, KEY)
    z = 2.0 * (batch["x"] - batch["y"]) @ np.array([0.3, -0.2, 0.5])
    keep = batch["example_mask"]
    expected = np.sum((batch["n"] * np.log1p(np.exp(-z)))[keep]) / np.sum(batch["n"][keep])
    np.testing.assert_allclose(mean.value, expected, rtol=1e-6)


def test_a_masked_example_equals_a_deleted_one():
    batch = make_batch(masked=[1, 5])
    deleted = jax.tree.map(lambda x: x[batch["example_mask"]], batch)
    batch["x"][1] = np.nan
    grads = [
        jax.grad(lambda p, b=b: two_terms()(p, {}, b, KEY)[0].value)(PARAMS)["w"]
        for b in (jax.tree.map(lambda x: x[[0, 2, 3, 4, 6, 7]], batch), deleted)
    ]
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-6)
    value = two_terms()(PARAMS, {}, batch, KEY)[0].value
    np.testing.assert_allclose(value, two_terms()(PARAMS, {}, deleted, KEY)[0].value, rtol=1e-6)


def test_missing_array_names_both_sides():
    with pytest.raises(ValueError, match="logistic needs rejected_scores; view other gives chosen_scores"):

        def other(params, carry, batch, key):
            return Named({"chosen_scores": jnp.ones(3)})

        compose(other, logistic)({}, {}, {}, KEY)


def test_unknown_bind_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'chosen_scores'"):
        call(logistic, {"a": jnp.ones(2)}, bind={"chosen_score": "a"})


def test_where_is_the_mask_of_the_first_array_and_optional_arrays_bind_when_there():
    seen = {}

    def loss(token_logps, *, where=None, lengths=None, ids=None):
        seen.update(where=where, lengths=lengths, ids=ids)
        return token_logps.sum(-1)

    named = {"token_logps": jnp.ones((2, 3)), "token_mask": jnp.ones((2, 3), bool), "lengths": jnp.ones(2)}
    call(loss, named)
    assert seen["where"] is named["token_mask"] and seen["lengths"] is named["lengths"] and seen["ids"] is None
    call(
        functools.partial(loss, where=None),
        {"chosen_token_logps": 2 * named["token_logps"], "chosen_mask": 7},
        bind={"token_logps": "chosen_token_logps"},
    )
    assert seen["where"] == 7


def test_only_what_is_asked_for_is_computed():
    def failing():
        raise AssertionError("the reference was run")

    def lazy(params, carry, batch, key):
        return Named({"chosen_scores": jnp.ones(3), "ref_chosen_logps": failing})

    assert compose(lazy, square)({}, {}, {}, KEY)[0].value == 1.0


def test_arrays_are_read_in_the_order_of_the_view():
    read = []
    entries = {name: lambda name=name: read.append(name) or jnp.zeros(2) for name in ("dear", "cheap")}
    assert call(lambda cheap, dear: cheap + dear, Named(entries)).shape == (2,)
    assert read == ["dear", "cheap"]


def test_loss_of_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="expected one value per example"):
        compose(view, lambda chosen_scores: chosen_scores.sum())(PARAMS, {}, make_batch(), KEY)


@pytest.mark.parametrize("shape", [(), (8, 1), (1,), (4,)])
def test_weights_counts_and_metrics_of_wrong_shape_are_refused(shape):
    """[B, 1] would broadcast with [B] to [B, B], and its sum be another number."""

    def odd(lengths):
        return jnp.ones(shape)

    for role, options in {
        "weight odd": {"weight": odd},
        "count odd": {"count": odd},
        "metric 'm'": {"metrics": {"m": odd}},
        "weight wide": {"weight": "wide"},
        "count wide": {"count": "wide"},
    }.items():
        named = {"chosen_scores": np.ones(8), "lengths": np.ones(8), "wide": np.ones(shape)}
        message = f"{role} has shape {list(shape)}; expected one value per example [8]"
        with pytest.raises(ValueError, match=re.escape(message)):
            compose(view, square, **options).on(named, KEY)


def test_weight_and_count_may_be_names_and_unknown_ones_get_a_suggestion():
    batch = make_batch(masked=[3])
    named = compose(view, square, weight="lengths", count="lengths")(PARAMS, {}, batch, KEY)[0]
    called = compose(view, square, weight=lambda lengths: lengths, count=lambda lengths: lengths)
    np.testing.assert_allclose(named.value, called(PARAMS, {}, batch, KEY)[0].value, rtol=1e-6)
    for role in ("weight", "count"):
        with pytest.raises(ValueError, match=f"{role}: view view gives no 'length'; did you mean 'lengths'"):
            compose(view, square, **{role: "length"})(PARAMS, {}, batch, KEY)


def test_terms_of_one_view_share_its_forward_pass():
    calls = []

    def counting(params, carry, batch, key):
        calls.append(1)
        return view(params, carry, batch, key)

    add({"a": (1.0, compose(counting, square)), "b": (2.0, compose(counting, logistic))})(PARAMS, {}, make_batch(), KEY)
    assert len(calls) == 1


def test_add_is_the_weighted_sum_of_values_and_reports_each():
    batch = make_batch(masked=[0])
    mean, metrics = two_terms()(PARAMS, {}, batch, KEY)
    a = compose(view, logistic)(PARAMS, {}, batch, KEY)[0].value
    b = compose(view, square, count="lengths")(PARAMS, {}, batch, KEY)[0].value
    np.testing.assert_allclose(mean.value, a + 0.3 * b, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/sft"].value, b, rtol=1e-6)
    with pytest.raises(ValueError, match="reported by two terms"):
        term = compose(view, square, metrics={"m": lambda lengths: lengths})
        add({"a": (1.0, term), "b": (1.0, term)})(PARAMS, {}, batch, KEY)


def test_scale_follows_a_schedule_of_the_step():
    objective = scale(compose(view, square), lambda step: 0.5**step)
    batch = make_batch()
    whole = compose(view, square)(PARAMS, {}, batch, KEY)[0].value
    np.testing.assert_allclose(objective(PARAMS, {"step": jnp.int32(2)}, batch, KEY)[0].value, whole / 4, rtol=1e-6)


def test_rename_moves_names_and_refuses_unknown_ones():
    renamed = rename(view, {"scores": "chosen_scores"})(PARAMS, {}, make_batch(), KEY)
    assert "scores" in renamed and "chosen_scores" not in renamed and "lengths" in renamed
    with pytest.raises(ValueError, match="did you mean 'chosen_scores'"):
        rename(view, {"scores": "chosen_score"})(PARAMS, {}, make_batch(), KEY)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_accumulation_gives_the_full_batch_value_and_gradient(steps):
    batch = make_batch(masked=[0, 1, 7])
    objective = two_terms()
    split = accumulate(objective, steps)
    (loss, metrics), grads = train.value_and_grad(objective)(PARAMS, {}, batch, KEY)
    (loss_, metrics_), grads_ = jax.jit(train.value_and_grad(split))(PARAMS, {}, batch, KEY)
    np.testing.assert_allclose(loss, loss_, rtol=1e-6)
    np.testing.assert_allclose(grads["w"], grads_["w"], rtol=1e-5)
    for name in metrics:
        np.testing.assert_allclose(metrics[name].value, metrics_[name].value, rtol=1e-6)
    pure = jax.grad(lambda p: split(p, {}, batch, KEY)[0].value)(PARAMS)
    np.testing.assert_allclose(grads["w"], pure["w"], rtol=1e-5)


def test_accumulation_refuses_coupled_losses_and_uneven_batches():
    with pytest.raises(ValueError, match="centred couples"):
        accumulate(compose(view, centred), 2)
    with pytest.raises(ValueError, match="couples"):
        accumulate(add({"a": (1.0, compose(view, functools.partial(centred)))}), 2)
    with pytest.raises(ValueError, match="3 micro-batches do not divide"):
        accumulate(compose(view, square), 3)(PARAMS, {}, make_batch(), KEY)


def test_jit_shard_map_and_pmap_give_the_same_gradients():
    batch = make_batch(n=16, masked=[0, 3, 4, 5])
    objective = two_terms()
    (loss, _), grads = jax.jit(train.value_and_grad(objective))(PARAMS, {}, batch, KEY)
    mesh = meshes.make_mesh({"data": 8}, jax.devices()[:8])
    for inner in (objective, accumulate(objective, 2)):
        per_device = train.value_and_grad(inner, axis_name="data")
        mapped = jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=(P(), P(), P("data"), P()), out_specs=P()))
        (loss_, _), grads_ = mapped(PARAMS, {}, batch, KEY)
        np.testing.assert_allclose(loss, loss_, rtol=1e-5)
        np.testing.assert_allclose(grads["w"], grads_["w"], rtol=1e-5)
    cut = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    (loss_, _), grads_ = jax.pmap(
        train.value_and_grad(objective, axis_name="data"), axis_name="data", in_axes=(None, None, 0, None)
    )(PARAMS, {}, cut, KEY)
    np.testing.assert_allclose(loss, loss_[0], rtol=1e-5)
    np.testing.assert_allclose(grads["w"], grads_["w"][3], rtol=1e-5)


@pytest.mark.parametrize("objective", [compose(view, centred), add({"a": (1.0, compose(view, centred))})])
def test_statistics_of_one_device_alone_are_refused(objective):
    batch = make_batch()

    def mapped(devices):
        mesh = meshes.make_mesh({"data": devices}, jax.devices()[:devices])
        fn = train.value_and_grad(objective, axis_name="data")
        return jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(P(), P(), P("data"), P()), out_specs=P()))

    with pytest.raises(ValueError, match="couples the examples of a batch.*plain jax.jit on a mesh"):
        jax.eval_shape(mapped(2), PARAMS, {}, batch, KEY)
    jax.eval_shape(mapped(1), PARAMS, {}, batch, KEY)  # one device sees the whole batch


def test_device_order_does_not_change_the_gradient():
    batch = make_batch(n=16, masked=[2])
    results = []
    for order in (slice(None), slice(None, None, -1)):
        mesh = meshes.make_mesh({"data": 4, "fsdp": 2}, jax.devices()[:8][order])
        placed = meshes.put_batch(batch, mesh)
        results.append(jax.jit(train.value_and_grad(two_terms()))(PARAMS, {}, placed, KEY)[1]["w"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_step_updates_counts_and_refreshes():
    tx = optax.sgd(0.1)
    state = train.init_state(PARAMS, tx, {"reference": jax.tree.map(jnp.zeros_like, PARAMS)})
    refresh = functools.partial(train.ema, mix=1.0, every=2)
    step = jax.jit(train.make_step(two_terms(), tx, refresh))
    batch = make_batch()
    state, metrics = step(state, batch, KEY)
    assert float(state.carry["reference"]["w"][0]) == 0.0
    first = metrics["loss"]
    state, metrics = step(state, batch, KEY)
    np.testing.assert_array_equal(state.carry["reference"]["w"], state.params["w"])
    assert int(state.step) == 2 and float(metrics["loss"]) < float(first)
    assert {"loss", "grad_norm", "rewards/chosen", "loss/preference", "loss/sft"} == set(metrics)


def test_running_mean_keeps_all_or_forgets():
    aux = {"metrics": {"m": Mean(jnp.float32(6.0), jnp.float32(3.0))}}
    carry = {"delta": Mean(jnp.float32(0.0), jnp.float32(0.0))}
    carry = train.running_mean(carry, None, aux, name="delta", metric="m")
    carry = train.running_mean(carry, None, {"metrics": {"m": Mean(1.0, 1.0)}}, name="delta", metric="m")
    np.testing.assert_allclose(carry["delta"].value, 7 / 4)
    fading = {"delta": Mean(jnp.float32(0.0), jnp.float32(0.0))}
    fading = train.running_mean(fading, None, aux, name="delta", metric="m", decay=0.9)
    np.testing.assert_allclose(fading["delta"].value, 2.0)
    fading = train.running_mean(fading, None, {"metrics": {"m": Mean(1.0, 1.0)}}, name="delta", metric="m", decay=0.9)
    np.testing.assert_allclose(fading["delta"].value, 0.9 * 2 + 0.1, rtol=1e-6)
    nothing = {"metrics": {"m": Mean(0.0, 0.0)}}
    for decay in (None, 0.9):
        kept = train.running_mean(fading, None, nothing, name="delta", metric="m", decay=decay)
        assert kept["delta"] == fading["delta"]
        start = train.running_mean({"delta": Mean(0.0, 0.0)}, None, nothing, name="delta", metric="m", decay=decay)
        assert start["delta"] == Mean(0.0, 0.0)  # the first batch that says something counts in full
    with pytest.raises(ValueError, match="metric='rewards/men' is unknown; did you mean 'rewards/mean'"):
        train.running_mean(carry, None, {"metrics": {"rewards/mean": None}}, name="delta", metric="rewards/men")
    for refresh in (train.ema, functools.partial(train.running_mean, metric="m")):
        with pytest.raises(ValueError, match="name='delt' is unknown; did you mean 'delta'"):
            refresh(carry, None, {"step": 1, **aux}, name="delt")


def test_no_retrace_on_new_values():
    traces = []

    def loss(chosen_scores):
        traces.append(1)
        return chosen_scores

    tx = optax.sgd(0.1)
    step = jax.jit(train.make_step(compose(view, loss), tx))
    state = train.init_state(PARAMS, tx)
    for seed in range(3):
        state, _ = step(state, make_batch(seed=seed), jax.random.fold_in(KEY, seed))
    assert len(traces) == 1

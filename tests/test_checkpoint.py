"""Checkpoints: bit for bit, on any devices, and only whole ones, whatever happens to the disk or the process."""

import dataclasses
import errno
import functools
import logging
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax import manifest
from prefjax.checkpoint import CheckpointError, Checkpoints, StructureMismatch, load_params, steps_in


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    params: Any
    opt_state: Any
    carry: Any
    step: Any


@functools.cache
def make_state(seed: int = 0, width: int = 8) -> State:
    k = jax.random.split(jax.random.key(seed), 4)
    params = {
        "embed": jax.random.normal(k[0], (16, width)),
        "layers": {"0.attn/q": jax.random.normal(k[1], (width, width)).astype(jnp.bfloat16)},
        "heads": [jnp.zeros((0, 3)), jax.random.normal(k[2], (width,))],
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    carry = {
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "odd": jnp.asarray([jnp.nan, -0.0, jnp.inf, 1e-45], jnp.float32),
        "flags": jnp.asarray([True, False]),
        "counts": np.arange(3, dtype=np.int64) + 2**40,
        "weak": jnp.asarray(0.1),
        "weaker": jnp.full((3,), 0.1),
        "python": 3,
        "nothing": None,
    }
    return State(params, tx.init(params), carry, jnp.asarray(seed, jnp.int32))


def bits(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    value = np.asarray(leaf)
    return type(leaf), str(value.dtype), value.shape, value.tobytes(), getattr(leaf, "weak_type", None)


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_flatten_with_path(a)[0], jax.tree.leaves(b), strict=True):
        assert bits(x) == bits(y), jax.tree_util.keystr(path)


def small(step: int) -> dict[str, Any]:
    return {"params": {"w": jnp.full((4,), float(step))}, "step": jnp.asarray(step, jnp.int32)}


def fill(folder: pathlib.Path, *steps: int, **options: Any) -> Checkpoints:
    saved = Checkpoints(folder, **options)
    for step in steps:
        saved.save(step, small(step), {"at": step}, {"seed": 1})
    saved.close()
    return saved


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


# Round trips.


@pytest.mark.parametrize("data_state", [{"epoch": 2, "at": [1, 2], "rate": 0.1}, b"\x00\xff{state}", None])
def test_round_trip_bit_for_bit(tmp_path, data_state):
    state = make_state(5)
    with Checkpoints(tmp_path) as saved:
        saved.save(5, state, data_state, {"config": {"lr": 1e-3}, "seed": np.int64(7)}, {"eval/loss": jnp.float32(0.5)})
        saved.wait()
    found, data, meta, step = Checkpoints(tmp_path).restore(make_state(0))
    assert_same(found, state)
    assert data == data_state and meta == {"config": {"lr": 1e-3}, "seed": 7} and step == 5
    assert Checkpoints(tmp_path).describe()["metrics"] == {"eval/loss": 0.5}
    assert not found.params["embed"].committed  # so that it may follow a mesh into a jit
    assert (jax.random.normal(found.carry["key"]) == jax.random.normal(state.carry["key"])).all()


def test_template_of_shapes(tmp_path):
    state = {k: v for k, v in vars(make_state()).items() if k != "carry"} | {"key": jax.random.key(1)}
    with Checkpoints(tmp_path) as saved:
        saved.save(2, state)
    assert_same(Checkpoints(tmp_path).restore(jax.eval_shape(lambda: state))[0], state)


def test_training_goes_on_as_if_never_interrupted(tmp_path):
    tx = optax.adam(0.1)

    @jax.jit
    def step_fn(state: State, key: jax.Array) -> State:
        grads = jax.grad(lambda p: jnp.sum((p["w"] - jax.random.normal(key, (5,))) ** 2))(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, {"ema": 0.9 * state.carry["ema"] + 0.1 * params["w"]}, state.step + 1)

    def start() -> State:
        params = {"w": jnp.ones(5)}
        return State(params, tx.init(params), {"ema": jnp.zeros(5)}, jnp.zeros((), jnp.int32))

    def run(state: State, until: int) -> State:
        while int(state.step) < until:
            state = step_fn(state, jax.random.fold_in(jax.random.key(0), state.step))
        return state

    whole = run(start(), 10)
    with Checkpoints(tmp_path) as saved:
        saved.save(4, run(start(), 4))
    assert_same(run(Checkpoints(tmp_path).restore(start())[0], 10), whole)


def test_buffers_may_be_donated_once_save_returns(tmp_path):
    step_fn = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = {"w": step_fn(jnp.zeros((1 << 20,)))}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)
        for _ in range(5):
            state = {"w": step_fn(state["w"])}
        jax.block_until_ready(state)
    found = Checkpoints(tmp_path).restore(state)[0]["w"]
    assert (found == 1.0).all() and (state["w"] == 6.0).all()


def sharded(devices: int, axes: tuple[str | None, ...]) -> NamedSharding:
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    return NamedSharding(mesh, PartitionSpec(*axes))


@pytest.mark.parametrize("first, then", [(8, 1), (1, 8), (8, 4)])
def test_another_mesh(tmp_path, first, then):
    def place(count: int, value: float) -> Any:
        rows = sharded(count, ("data",))
        keys = jax.random.split(jax.random.key(int(value)), 8)
        return {
            "w": jax.device_put(jnp.arange(32.0).reshape(8, 4) * value, rows),
            "b": jax.device_put(jnp.ones(3) * value, sharded(count, ())),
            "keys": jax.device_put(keys, rows),
            "step": jnp.asarray(int(value)),
        }

    with Checkpoints(tmp_path) as saved:
        saved.save(1, place(first, 3.0))
    wanted = place(then, 3.0)
    found = Checkpoints(tmp_path).restore(place(then, 0.0))[0]
    assert_same(found, wanted)
    assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, wanted)
    total = jax.jit(lambda s: jnp.sum(s["w"]) + s["b"][0] + s["step"])(found)  # mixes placed and unplaced arrays
    assert total == 31 * 32 / 2 * 3 + 6


# What is kept.


def test_keep_last(tmp_path):
    saved = fill(tmp_path, 1, 2, 5, 10, keep_last=2)
    assert steps_in(tmp_path) == [5, 10] and saved.latest() == 10 and saved.best() is None
    fill(tmp_path / "one", 1, 2, 3, keep_last=1, keep_best=0)
    assert steps_in(tmp_path / "one") == [3]


@pytest.mark.parametrize(
    "mode, keep_best, kept, best",
    [("min", 1, [2, 6], 2), ("max", 1, [1, 6], 1), ("min", 2, [2, 3, 6], 2), ("min", 9, [1, 2, 3, 6], 2)],
)
def test_keep_best(tmp_path, mode, keep_best, kept, best):
    losses = {1: 5.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: None, 6: None}
    with Checkpoints(tmp_path, keep_last=1, keep_best=keep_best, best_mode=mode) as saved:
        for step, loss in losses.items():
            saved.save(step, small(step), metrics=None if loss is None else {"eval/loss": loss, "other": 0.0})
    assert steps_in(tmp_path) == kept
    again = Checkpoints(tmp_path, best_mode=mode)
    assert again.best() == best and again.latest() == 6
    assert (again.restore(small(0), again.best())[0]["params"]["w"] == best).all()


def test_saving_a_step_again_replaces_it_and_what_followed(tmp_path, caplog):
    fill(tmp_path, 1, 2, 3, keep_last=3)
    saved = Checkpoints(tmp_path, keep_last=3)
    saved.restore(small(0), 1)
    with caplog.at_level(logging.WARNING):
        saved.save(2, {"params": {"w": jnp.full((4,), 20.0)}, "step": jnp.asarray(2, jnp.int32)})
        saved.close()
    assert steps_in(tmp_path) == [1, 2] and "removing checkpoint 3" in caplog.text
    assert saved.restore(small(0))[0]["params"]["w"][0] == 20.0


def test_due(tmp_path):
    saved = Checkpoints(tmp_path, every=5)
    assert [step for step in range(12) if saved.due(step)] == [5, 10]
    saved.save(5, small(5))
    assert not saved.due(5) and saved.due(10)
    saved.close()
    again = Checkpoints(tmp_path, every=5)
    again.restore(small(0))
    assert not again.due(5)


# Damage.


def cut(folder):
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size - 1)
    return "bytes, expected"


def flip(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return "not the bytes that were written"


def lose_manifest(folder):
    (folder / manifest.NAME).unlink()
    return "interrupted while being saved"


def cut_manifest(folder):
    os.truncate(folder / manifest.NAME, 40)
    return "is damaged"


def lose_file(folder):
    largest_file(folder).unlink()
    return "is absent"


def empty(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    return "interrupted"


@pytest.fixture(scope="module")
def two_whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    fill(folder, 1, 2)
    return folder


@pytest.fixture
def two_saved(two_whole, tmp_path):
    return Checkpoints(shutil.copytree(two_whole, tmp_path / "run"))


DAMAGES = [cut, flip, lose_manifest, cut_manifest, lose_file, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_falls_back_to_the_newest_whole_one_and_says_so(two_saved, caplog, damage):
    saved = two_saved
    reason = damage(saved.folder / "2")
    with caplog.at_level(logging.WARNING):
        state, data, _, step = saved.restore(small(0))
    assert step == 1 and data == {"at": 1} and (state["params"]["w"] == 1.0).all()
    assert "checkpoint 2 of" in caplog.text and reason in caplog.text and "falling back to 1" in caplog.text
    assert load_params(saved.folder)["w"][0] == 1.0
    with pytest.raises(CheckpointError, match="step 2: .*"):
        saved.restore(small(0), 2)
    saved.save(2, small(2), {"at": 2})  # training reaches the step again
    saved.close()
    assert saved.restore(small(0))[3] == 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_none_whole_is_an_error_with_every_reason(two_saved, damage):
    saved = two_saved
    reasons = [damage(saved.folder / str(step)) for step in (1, 2)]
    with pytest.raises(CheckpointError, match="no whole checkpoint") as caught:
        saved.restore(small(0))
    for step, reason in zip((1, 2), reasons, strict=True):
        (line,) = [line for line in str(caught.value).splitlines() if line.startswith(f"  step {step}:")]
        assert reason in line


def test_latest_tells_interrupted_from_damaged(tmp_path, caplog):
    saved = fill(tmp_path, 1)
    os.truncate(tmp_path / "1" / manifest.NAME, 3)
    with pytest.raises(CheckpointError, match="is damaged"):
        saved.latest()  # not None: starting over would discard a run
    (tmp_path / "1" / manifest.NAME).unlink()
    with caplog.at_level(logging.WARNING):
        assert saved.latest() is None
    assert "checkpoint 1 of" in caplog.text
    assert Checkpoints(tmp_path / "none").latest() is None and not (tmp_path / "none").exists()


# States that do not fit.


@pytest.fixture(scope="module")
def one_saved(tmp_path_factory):
    with Checkpoints(tmp_path_factory.mktemp("one")) as saved:
        saved.save(1, make_state())
    return saved


@pytest.mark.parametrize(
    "change, text",
    [
        (
            lambda p: {**p, "embed": jnp.zeros((16, 9))},
            r"params/embed is \(16, 8\) float32 in .*\(16, 9\) float32 in the",
        ),
        (lambda p: {**p, "embed": p["embed"].astype(jnp.bfloat16)}, r"params/embed is .*float32 in .*bfloat16"),
        (
            lambda p: {"embedding": p["embed"], "heads": p["heads"], "layers": p["layers"]},
            "no params/embedding.*it has params/embed,",
        ),
        (lambda p: {**p, "heads": p["heads"][:1]}, r"holds params/heads/1, \(8,\) float32, which the state lacks"),
        (lambda p: {**p, "new": jnp.zeros(2)}, r"has no params/new, which is \(2,\) float32"),
    ],
)
def test_mismatch_names_the_first_path_and_shapes(one_saved, change, text):
    state = make_state()
    with pytest.raises(StructureMismatch, match=text):
        one_saved.restore(dataclasses.replace(state, params=change(state.params)))


def test_names_with_separators_stay_apart(tmp_path):
    state = {"a.b": jnp.ones(1), "a": {"b": jnp.full(1, 2.0)}, "a/b": jnp.full(1, 3.0), "a%2Fb": jnp.full(1, 4.0)}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"params": state})
        assert_same(saved.restore({"params": jax.tree.map(jnp.zeros_like, state)})[0], {"params": state})
    assert_same(load_params(tmp_path), state)
    with pytest.raises(ValueError, match="differ as text"):
        Checkpoints(tmp_path).save(2, ({1: jnp.ones(1)}, {"x": {1: 0, 2: 0}, "y": _Twins()}))


@jax.tree_util.register_pytree_with_keys_class
class _Twins:
    def tree_flatten_with_keys(self):
        key = jax.tree_util.DictKey("same")
        return ((key, 1), (key, 2)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls()


def test_bad_arguments(tmp_path):
    saved = Checkpoints(tmp_path / "run")
    with pytest.raises(ValueError, match="did you mean 'eval/loss'"):
        Checkpoints(tmp_path, best_metric="eval/los").save(1, small(1), metrics={"eval/loss": 1.0})
    with pytest.raises(TypeError, match="must be bytes or JSON"):
        saved.save(1, small(1), {"at": np.int64(3)})
    with pytest.raises(TypeError, match="changes in JSON"):
        saved.save(1, small(1), {"at": (1, 2)})
    with pytest.raises(TypeError, match=r"meta\.f: function"):
        saved.save(1, small(1), meta={"f": small})
    with pytest.raises(ValueError, match="holds no array"):
        saved.save(1, {"e": jnp.zeros((0,))})
    for options in ({"keep_last": 0}, {"keep_best": -1}, {"every": 0}, {"best_mode": "mim"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Checkpoints(tmp_path, **options)
    with pytest.raises(ValueError, match="mount it"):
        Checkpoints("gs://bucket/run")
    assert not (tmp_path / "run").exists()


# Starting from another run's parameters.


def test_load_params(tmp_path):
    state = make_state(5)
    with Checkpoints(tmp_path / "checkpoints") as saved:
        saved.save(3, state)
    as_dicts = {**state.params, "heads": {str(i): head for i, head in enumerate(state.params["heads"])}}
    for folder in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "3"):
        assert_same(load_params(folder), as_dicts)
    carry = load_params(tmp_path, subtree="carry")
    assert all(bits(carry[name]) == bits(state.carry[name]) for name in ("odd", "key", "keys", "weaker"))
    with pytest.raises(StructureMismatch, match="no 'parms'; did you mean 'params'"):
        load_params(tmp_path, subtree="parms")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        load_params(tmp_path / "nowhere")


def test_load_params_into_a_template(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"params": {"w": jnp.arange(8.0) / 3, "bias": jnp.ones(2)}, "opt_state": jnp.ones(3)})
    rows, bias = sharded(8, ("data",)), jnp.ones(2)
    template = {"w": jax.ShapeDtypeStruct((8,), jnp.bfloat16, sharding=rows), "bias": bias}
    found = load_params(tmp_path, template=template)["w"]
    assert found.dtype == jnp.bfloat16 and found.sharding == rows
    assert (found == (jnp.arange(8.0) / 3).astype(jnp.bfloat16)).all()
    with pytest.raises(StructureMismatch, match=r"params/w is \(8,\) float32 .*\(9,\) float32"):
        load_params(tmp_path, template={"w": jnp.zeros(9), "bias": bias})
    with pytest.raises(StructureMismatch, match="holds params/bias"):
        load_params(tmp_path, template={"w": jnp.zeros(8)})
    chosen = load_params(tmp_path, template=lambda specs: {"w": jax.ShapeDtypeStruct(specs["w"][0], jnp.float16)})
    assert chosen.keys() == {"w"} and chosen["w"].dtype == jnp.float16


def test_load_params_reads_no_other_part(tmp_path):
    big = {"params": {"w": jnp.ones(4)}, "opt_state": {"m": jax.random.normal(jax.random.key(0), (1 << 16,))}}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, big)
    largest_file(tmp_path / "1").unlink()  # the optimizer's moments
    manifest.write(tmp_path / "1", {"step": 1, "metrics": None})
    assert (load_params(tmp_path)["w"] == 1).all()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoints(tmp_path).restore(big)


# The disk and the process fail.


def test_full_disk_is_named_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    saved = fill(tmp_path, 1)
    real = manifest.write

    def full(folder, about):
        (folder / "half").write_text("written before the disk was full")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    saved.save(2, small(2))
    with pytest.raises(CheckpointError, match="the disk is full.* MiB to write, .* MiB free") as caught:
        saved.wait()
    assert str(tmp_path) in str(caught.value) and "whole: 1." in str(caught.value)
    saved.wait()  # raised once
    assert steps_in(tmp_path) == [1] and saved.restore(small(0))[3] == 1
    monkeypatch.setattr(manifest, "write", real)
    saved.save(2, small(2))
    saved.close()
    assert steps_in(tmp_path) == [1, 2]


def test_check_raises_without_waiting(tmp_path, monkeypatch):
    saved = Checkpoints(tmp_path)
    monkeypatch.setattr(manifest, "write", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    saved.save(1, small(1))
    saved._thread.join()
    with pytest.raises(CheckpointError, match="read-only"):
        saved.check()
    saved.check()

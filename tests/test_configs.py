"""Every config builds, binds its losses to its views, and trains two steps; its launch line is in its docstring."""

import functools
import importlib
import json
import pathlib

import jax
import numpy as np
import optax
import pytest

from configs import base
from prefjax import loop, recipe, train
from prefjax.config import build, ref
from prefjax.data import iterate
from tests import toy

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(p for p in (ROOT / "configs").rglob("*.py") if p.name not in ("__init__.py", "base.py"))
NAMES = [str(p.relative_to(ROOT).with_suffix("")) for p in FILES]


def module(name: str):
    return importlib.import_module(name.replace("/", "."))


@pytest.mark.parametrize("name", NAMES)
def test_docstring_holds_the_launch_line(name):
    assert f"--config={name}.py" in module(name).__doc__
    assert "runlocal" in module(name).__doc__


@pytest.fixture(autouse=True, scope="module")
def one_order():
    """All configs see as few examples in one order, epoch by epoch; of so few, each takes long to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iterate, "index_shuffle", functools.cache(iterate.index_shuffle))
        yield


@functools.cache
def through_the_loop(name: str) -> bool:
    """Data that only the loop can feed, models other than the decoder, and one config of each way to carry state.

    The supervised, the reward and the DPO stage go through the loop in the quickstart (test_experiments.py).
    """
    folder, stem = name.split("/")[1:]
    own_data = folder == "online" or stem.startswith("features_")
    return own_data or stem in WHOLE or module(name).get_config().model.fn != "prefjax.models.decoder:decoder"


WHOLE = ("dpo_lora", "bco", "sparse_po")


@pytest.mark.parametrize("name", NAMES)
def test_full_size_config_builds(name):
    """Every function it refers to is there and knows its options; nothing is made yet."""
    config = loop.resolve(module(name).get_config())
    build(config.data), build(config.model), recipe.make_optimizer(config.optimizer, config.steps)
    assert config.steps > 10 and all(build(term.loss) for term in config.objective.values())
    # A flag loads the file under another name: what it refers to must stand in a module of its own.
    assert f"{module(name).__name__}:" not in str(config)


@pytest.mark.parametrize("name", [name for name in NAMES if not through_the_loop(name)])
def test_two_steps_on_a_toy(name, tmp_path):
    """Data, views, losses, metrics, carry and refresh as the config has them, on a model that compiles at once."""
    config = loop.resolve(module(name).get_config("runlocal,steps=2"))
    config.model = ref(toy.model, outputs=config.model.outputs)
    config.data.size, config.data.eval_size, config.data.rows = 24, 6, 2
    dataset = loop.make_dataset(config, tmp_path)
    model, tx = recipe.make_model(config.model, dataset), optax.sgd(0.1)
    start = functools.partial(loop.initial_state, config=config, model=model, tx=tx)
    # What is learned beside the model has arrays of many shapes, which would be drawn one program each.
    state = (jax.jit(start) if config.learned else start)(jax.random.key(0))
    weak = [path for path, x in jax.tree_util.tree_leaves_with_path(state) if getattr(x, "weak_type", False)]
    assert not weak, f"after a step they would be strong, and the step be compiled again: {weak}"
    objective = recipe.make_objective(config.objective, model, config.accumulate)
    step = jax.jit(train.make_step(objective, tx, loop.refresh_of(config)))
    batches, first = dataset.train(prefetch=0), state
    for index in range(2):
        before = state
        state, metrics = step(state, next(batches), jax.random.key(index))
        assert np.isfinite([float(value) for value in metrics.values()]).all(), metrics
    assert metrics["grad_norm"] > 0

    def differ(a, b):
        return jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), a, b)

    if config.refresh:
        assert any(jax.tree.leaves(differ(first.carry, state.carry))), "what is carried is never refreshed"
    changed = differ(before.params, state.params)
    for name, leaves in changed.get("learned", {}).items():
        assert any(jax.tree.leaves(leaves)), f"{name} is not learned"
    assert len(dataset.held_out)


@pytest.mark.parametrize("name", [name for name in NAMES if through_the_loop(name)])
def test_two_steps_of_runlocal(name, tmp_path):
    config = module(name).get_config("runlocal,steps=2")
    config.mesh.data = 1
    config.writers = ("jsonl",)
    decoder = config.model.get("base", config.model)
    if "num_layers" in decoder:
        decoder.num_layers = 1  # of two alike, for the compiler's sake
    run = loop.fit(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert run.step == 2 and np.isfinite([row["loss"] for row in rows if "loss" in row]).all()
    assert any("eval/loss" in row for row in rows)


def test_unknown_arguments_get_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'runlocal'"):
        base.arguments("runlocl")

"""Configs on real transcripts: two steps of each on the first records of the file, through the data pipeline."""

import importlib

import jax
import numpy as np
import optax
import pytest

from prefjax import loop, recipe, train
from prefjax.config import build, ref
from tests import toy

# Of pairs: with a reference, without one, by token, taken apart, across prompts, thinned, and reward models.
PREFERENCE = (
    *("dpo", "ipo", "slic", "robust_dpo", "exo", "nca", "apo_zero", "aot", "kto_pair", "flex_dpo", "ln_dpo"),
    *("simpo", "cpo", "cpl", "tdpo", "ld_dpo", "wpo", "kto", "dove", "spo_degree"),
)
REWARD = ("bradley_terry", "smoothed", "mapl", "partial_return")
NAMES = [*(f"preference.{name}" for name in PREFERENCE), *(f"reward.{name}" for name in REWARD)]


@pytest.fixture(scope="module")
def transcripts(shared_data, tmp_path_factory):
    """The file, and a tokenizer trained once on its head."""
    (path,) = (shared_data / "hh_rlhf_harmless_test").glob("*.jsonl.gz")
    config = importlib.import_module("configs.preference.dpo").get_config(f"runlocal,data={path},on_error=skip")
    config.data.limit = 32
    folder = tmp_path_factory.mktemp("tokenizer")
    build(config.data)().tokenizer.save(folder)
    return path, folder


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_on_transcripts(name, transcripts):
    path, tokenizer = transcripts
    config = importlib.import_module(f"configs.{name}").get_config(f"runlocal,steps=2,data={path},on_error=skip")
    config.model = ref(toy.model, outputs=config.model.outputs)
    config.data.update({"limit": 32, "tokenizer": str(tokenizer), "rows": 2})
    config = loop.resolve(config)
    dataset = build(config.data)()
    assert len(dataset.training) >= 10 and len(dataset.held_out)
    model, tx = recipe.make_model(config.model, dataset), optax.sgd(0.1)
    state = loop.initial_state(jax.random.key(0), config=config, model=model, tx=tx)
    objective = recipe.make_objective(config.objective, model, config.accumulate)
    step = jax.jit(train.make_step(objective, tx, loop.refresh_of(config)))
    batches = dataset.train(prefetch=0)
    for index in range(2):
        state, metrics = step(state, next(batches), jax.random.key(index))
        assert np.isfinite([float(value) for value in metrics.values()]).all(), metrics
    assert metrics["grad_norm"] > 0

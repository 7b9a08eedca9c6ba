"""Every online algorithm is a choice of functions that fit one another: names, shapes, what each round stores."""

import functools

import jax
import pytest

from configs.online import algorithms
from prefjax import loop, recipe, train
from prefjax.config import build


@functools.cache
def prompts():
    return build(algorithms.get_config("runlocal").data.prompts)()


@pytest.mark.parametrize("name", sorted(algorithms.ALGORITHMS))
def test_binds(name, tmp_path):
    """A blank round through sampler, fields, selection, packing, view and loss, by shapes alone."""
    config = loop.resolve(algorithms.get_config(f"runlocal,algorithm={name}"))
    dataset = functools.partial(build(config.data), prompts=prompts)()
    model = recipe.make_model(config.model, dataset)
    objective = recipe.make_objective(config.objective, model)
    tx = recipe.make_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(lambda key: loop.initial_state(key, config=config, model=model, tx=tx), jax.random.key(0))
    batch = next(dataset.train())
    assert not batch["example_mask"].any() or not batch["response_mask"].any()
    mean, _ = jax.eval_shape(objective, state.params, train.with_step(state), batch, jax.random.key(0))
    assert all(x.shape == () for x in jax.tree.leaves(tuple(mean)))

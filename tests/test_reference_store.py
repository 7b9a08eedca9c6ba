"""Stored reference log-probs: the step of a second forward pass, made once, and again only for what changed."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from prefjax import loop, mesh, recipe, reference, train
from prefjax.config import ref
from prefjax.data import derive
from prefjax.data.gold import dataset as gold
from prefjax.data.packing import corpus
from prefjax.data.reference_store import ReferenceStore, keys_of
from prefjax.losses.preference import paired
from prefjax.models.decoder import decoder
from prefjax.objective import compose
from prefjax.optim import recipes
from prefjax.views import language
from prefjax.views import language as views

GRID = mesh.make_mesh({"data": 1}, jax.devices()[:1])


@pytest.fixture(scope="module")
def data():
    return gold.dataset(size=12, eval_size=5, rows=4, row_length=64)


@pytest.fixture(scope="module")
def model(data):
    return decoder(vocab_size=data.tokenizer.vocab_size, hidden_size=8, num_layers=1, num_heads=1, init_std=0.3)


@pytest.fixture(scope="module")
def params(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return [jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes) for _ in range(2)]


def counted(tree):
    """A function that gives `tree`, and the list of its calls."""
    calls = []
    return (lambda: calls.append(1) or tree), calls


def test_loss_and_gradient_are_those_of_a_second_pass(data, model, params, tmp_path, monkeypatch, capsys):
    policy, first = params
    add = ReferenceStore.add

    def and_no_more(*args):
        add(*args)
        raise OSError("the disk is full")

    with monkeypatch.context() as full, pytest.raises(OSError, match="disk is full"):
        full.setattr(reference, "BATCHES", 1)
        full.setattr(ReferenceStore, "add", and_no_more)
        reference.attach(data, model, tmp_path, lambda: first, grid=GRID)
    stored, name = reference.attach(data, model, tmp_path, lambda: first, grid=GRID)
    (rest,) = re.findall(r"(\d+) examples computed", capsys.readouterr().out)
    assert 0 < int(rest) < 17  # the pass went on where it was cut short
    batch = next(stored.train(prefetch=0))
    assert batch["ref_logps"].shape == batch["response_mask"].shape
    plain = {k: v for k, v in batch.items() if k != "ref_logps"}
    objective = compose(functools.partial(language.pairs, model=model), paired.dpo)
    both = jax.jit(train.value_and_grad(objective))
    (one, _), grads = both(policy, {"reference": first}, plain, jax.random.key(0))
    (other, _), again = both(policy, {}, batch, jax.random.key(0))
    assert abs(float(one) - float(other)) < 1e-6 and abs(float(one) - np.log(2)) > 1e-3
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    held = [b["ref_logps"][b["response_mask"]] for b in stored.eval()]
    assert np.concatenate(held).size == 10 and (np.concatenate(held) < 0).all()

    # the same reference again: nothing is computed, and with its name known its parameters are not even read
    give, calls = counted(first)
    more, same = reference.attach(data, model, tmp_path, give, grid=GRID, known=name)
    np.testing.assert_array_equal(more.training.fields["ref_logps"], stored.training.fields["ref_logps"])
    assert same == name and not calls
    with pytest.raises(ValueError, match="bring the store back"):  # what is missing is not made by another reference
        reference.attach(data, model, tmp_path / "moved", lambda: policy, grid=GRID, known=name)


def test_what_changed_is_computed_again_and_nothing_else(data, model, params, tmp_path, capsys):
    first, second = params
    _, name = reference.attach(data, model, tmp_path, lambda: first, grid=GRID)
    assert "17 examples computed" in capsys.readouterr().out
    reference.attach(data, model, tmp_path, lambda: first, grid=GRID)
    assert " 0 examples computed" in capsys.readouterr().out
    _, other = reference.attach(data, model, tmp_path, lambda: second, grid=GRID)
    assert other != name and "17 examples computed" in capsys.readouterr().out

    examples = [data.training[i] for i in range(len(data.training))]
    examples[3] = {**examples[3], "responses": [examples[3]["responses"][0][::-1].copy(), examples[3]["responses"][1]]}
    changed = dataclasses.replace(data, training=corpus(examples))
    reference.attach(changed, model, tmp_path, lambda: first, grid=GRID)
    assert " 1 examples computed" in capsys.readouterr().out
    for swapped in (first, second):  # parameters of the same values elsewhere are the same reference
        assert reference.fingerprint(model, jax.tree.map(jnp.copy, swapped)) in (name, other)


def test_what_a_response_has_read_is_not_scored(data, model, params, tmp_path):
    """Derived examples whose responses begin with context of their own."""
    derived = derive.revisions([data.training[i] for i in range(4)])
    made = corpus(derived)
    shape = dataclasses.replace(data.layout, responses=6, row_length=256, rows=1)
    parts = dataclasses.replace(data, training=made, held_out=made, layout=shape)
    stored, _ = reference.attach(parts, model, tmp_path, lambda: params[0], grid=GRID)
    for batch in stored.eval():
        plain = {k: v for k, v in batch.items() if k != "ref_logps"}
        named = language.lists(params[0], {}, plain, jax.random.key(0), model=model)
        found = batch["ref_logps"].reshape(-1, 6)[np.asarray(named["example_mask"])]
        np.testing.assert_allclose(found, named["list_logps"][np.asarray(named["example_mask"])], atol=1e-4)


def test_store_is_by_content_and_refuses_damage(data, tmp_path):
    keys = keys_of(data.training)
    assert len({key for own in keys for key in own}) > len(keys)
    assert keys_of(corpus([data.training[2]]))[0] == keys[2]
    store = ReferenceStore(tmp_path, "r")
    with pytest.raises(KeyError):
        store.field(data.training)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "part-1.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="part-1.safetensors: not a whole part"):
        ReferenceStore(tmp_path, "r")


def test_a_run_resumes_without_a_pass(tmp_path, capsys):
    size = {"hidden_size": 8, "num_layers": 1, "num_heads": 1}
    config = recipe.config(
        steps=2,
        data=ref(gold.dataset, size=8, eval_size=2, rows=2, row_length=64),
        model=ref(decoder, **size),
        objective={"dpo": recipe.term(views.pairs, paired.dpo)},
        optimizer=ref(recipes.adamw, learning_rate=1e-2),
        reference_store=str(tmp_path / "store"),
        mesh=ConfigDict({"data": 1}),
        writers=("jsonl",),
        eval_every=2,
    )
    first = loop.fit(config, tmp_path / "run", until=1)
    assert "10 examples computed" in capsys.readouterr().out
    again = loop.fit(config, tmp_path / "run")
    assert " 0 examples computed" in capsys.readouterr().out
    assert (first.step, again.step) == (1, 2) and "reference" not in again.state.carry
    rows = [float(again.evaluate()["eval/loss"])]
    assert np.isfinite(rows).all() and rows[0] != pytest.approx(np.log(2), abs=1e-6)
    config.reference = True
    with pytest.raises(ValueError, match="exclude each other"):
        loop.fit(config, tmp_path / "other")

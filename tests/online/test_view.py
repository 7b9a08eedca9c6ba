"""The view of rollouts against plain forward passes, response by response."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.generate import language
from prefjax.models.decoder import decoder
from prefjax.online import advantages, batches, rollouts, select
from prefjax.online.rollouts import Policy, Rollout
from prefjax.views import policy as views

PROMPTS = [[5, 6, 7], [1]]


@pytest.fixture(scope="module")
def world():
    """Two prompts with three responses each, in one packed row; the last response of all has no score."""
    model = decoder(
        vocab_size=11, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, outputs=1, init_std=0.4
    )
    params, reference = model.init(jax.random.key(0)), model.init(jax.random.key(1))
    rng = np.random.default_rng(0)
    lengths = np.asarray([4, 2, 1, 3, 4, 2], np.int32)
    tokens = np.where(np.arange(4) < lengths[:, None], rng.integers(3, 11, (6, 4)), 0).astype(np.int32)
    prompts = [np.asarray(p, np.int32) for p in PROMPTS]
    index = np.repeat(np.arange(2, dtype=np.int32), 3)
    policy = Policy(model, params, {"reference": reference}, None)
    samples = language.Samples(tokens, lengths, np.zeros((6, 4), np.float32), np.ones(6, bool), index)
    rollout = Rollout(["a", "b"], prompts, samples, [""] * 6, policy)
    samples = samples._replace(logps=policy.logps(rollout, params))
    rollout = Rollout(["a", "b"], prompts, samples, [""] * 6, policy)
    mask = np.asarray([[1, 1, 1], [1, 1, 0]], bool)
    named = rollouts.arrays(rollout, {"scores": np.asarray([[1.0, 0, 0], [0, 1.0, 0]])}, mask)
    fields = advantages.grouped(named["scores"], mask)
    kept = {**{name: named[name] for name in ("scores", "response_mask", "old_token_logps")}, **fields}
    data = batches.corpus(
        rollout, select.everything(mask), kept, ("scores", "old_token_logps", "advantages"), np.arange(2)
    )
    shape = batches.Shape(minibatches=1, row_length=32, slots=2, rows=1)
    batch = batches.minibatches(data, np.arange(2), shape)[0]
    view = jax.jit(
        lambda: dict(views.rollouts(params, {"reference": reference}, batch, jax.random.key(0), model=model))
    )
    # Packing takes the longer example first: put the responses back in the order of their prompts.
    order = np.argsort(batch["example_ids"][batch["example_mask"]])
    rows = np.concatenate([np.flatnonzero(batch["example_mask"].ravel())[i] * 3 + np.arange(3) for i in order])
    return rollout, {name: np.asarray(x)[rows] for name, x in view().items()}, mask, fields


def test_masks_lengths_and_stored_fields(world):
    rollout, named, mask, fields = world
    np.testing.assert_array_equal(named["token_mask"], rollout.samples.mask)
    np.testing.assert_array_equal(named["example_mask"], mask.ravel())
    np.testing.assert_array_equal(named["lengths"], rollout.samples.lengths)
    spread = np.where(rollout.samples.mask, np.asarray(fields["advantages"]).reshape(-1, 1), 0)
    np.testing.assert_allclose(named["advantages"], spread, rtol=1e-6)
    np.testing.assert_array_equal(named["scores"], [1, 0, 0, 0, 1, 0])


def test_log_probs_and_values_are_those_of_plain_passes(world):
    rollout, named, _, _ = world
    policy = rollout.policy
    np.testing.assert_allclose(named["token_logps"], named["old_token_logps"], atol=1e-5)
    np.testing.assert_allclose(named["ref_token_logps"], policy.logps(rollout, policy.carry["reference"]), atol=1e-5)
    np.testing.assert_allclose(named["values"], policy.values(rollout), atol=1e-5)
    np.testing.assert_allclose(named["logps"], named["old_token_logps"].sum(1), atol=1e-4)


def test_entropies_and_kls_are_sums_over_the_vocabulary(world):
    rollout, named, _, _ = world
    policy = rollout.policy

    @functools.partial(jax.jit, static_argnums=0)
    def table(model, params, tokens):
        head = model.unembed(params)
        return jax.nn.log_softmax(model.hidden(params, tokens[None], None, None, None)[0] @ head.kernel)

    for row, (prompt, response) in enumerate(zip(rollout.repeated_tokens, rollout.samples.responses(), strict=True)):
        whole = jnp.zeros(8, jnp.int32).at[: len(prompt) + len(response)].set(np.concatenate([prompt, response]))
        at = slice(len(prompt) - 1, len(prompt) - 1 + len(response))
        own, other = (np.asarray(table(policy.model, p, whole))[at] for p in (policy.params, policy.carry["reference"]))
        count = len(response)
        np.testing.assert_allclose(named["token_entropies"][row, :count], -(np.exp(own) * own).sum(1), atol=1e-4)
        kls = (np.exp(own) * (own - other)).sum(1)
        np.testing.assert_allclose(named["token_kls"][row, :count], kls, atol=1e-4)
        assert not named["token_kls"][row, count:].any()


def test_scores_of_a_reward_head_are_read_at_the_last_token(world):
    rollout, named, _, _ = world
    samples, policy = rollout.samples, rollout.policy
    found = language.response_scores(
        policy.model, policy.params, rollout.repeated_tokens, samples.tokens, samples.lengths
    )
    # One more token makes the state after the last one the state that a token is chosen in.
    longer = np.pad(samples.tokens, ((0, 0), (0, 1)))
    values = language.response_values(policy.model, policy.params, rollout.repeated_tokens, longer, samples.lengths + 1)
    np.testing.assert_allclose(found, values[np.arange(6), samples.lengths], atol=1e-5)

"""RISE and MCTS-DPO: steps after a shared prefix, and injected errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses.preference import paired, stepwise, tokenwise
from prefjax.theory.checker import check_identity
from prefjax.transforms import edits
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid

compile_losses(globals())

SIDES = ("chosen", "rejected")


def siblings(rng):
    """Responses that share their first three tokens, with the same log-probs there, and then part."""
    tokens = {s: rng.integers(0, 50, (draws.B, draws.T)) for s in SIDES}
    tokens["rejected"][:, :3] = tokens["chosen"][:, :3]
    tokens["rejected"][:, 3] = tokens["chosen"][:, 3] + 1
    arrays = {name: -rng.uniform(0.05, 3, (draws.B, draws.T)) for name in draws.TOKEN_PAIR}
    for name in ("rejected_token_logps", "ref_rejected_token_logps"):
        arrays[name][:, :3] = arrays[name.replace("rejected", "chosen")][:, :3]
    for s in SIDES:
        arrays[f"{s}_mask"] = np.arange(draws.T) < rng.integers(4, draws.T + 1, (draws.B, 1))
    steps = edits.suffix_masks(*(tokens[s] for s in SIDES), *(arrays[f"{s}_mask"] for s in SIDES))
    return arrays | {f"{s}_step_mask": np.asarray(m) for s, m in zip(SIDES, steps, strict=True)}


def with_visits(rng):
    return siblings(rng) | {f"{s}_visits": rng.integers(0, 9, draws.B).astype(float) for s in SIDES}


def margins(a, masks="step_mask"):
    u = {
        s: ((a[f"{s}_token_logps"] - a[f"ref_{s}_token_logps"]) * a[f"{s}_mask"] * a[f"{s}_{masks}"]).sum(1)
        for s in SIDES
    }
    return u["chosen"] - u["rejected"]


def without_steps(a):
    return {name: x for name, x in a.items() if "step" not in name and "visits" not in name}


def test_rise_is_the_equation():
    a = siblings(np.random.default_rng(0))
    nll = -(a["chosen_token_logps"] * a["chosen_mask"]).sum(1)
    expected = -log_sigmoid(0.4 * margins(a)) + 0.05 * nll
    np.testing.assert_allclose(stepwise.rise(**a), expected, rtol=1e-5)


def test_mcts_dpo_is_the_equation():
    a = with_visits(np.random.default_rng(1))
    n_w, n_l = a["chosen_visits"], a["rejected_visits"]
    smooth = np.where(n_w + n_l > 0, n_l / np.maximum(n_w + n_l, 1), 0)
    # The paper's 1 / (N_w / N_l + 1) is the same share.
    both = (n_w > 0) & (n_l > 0)
    np.testing.assert_allclose(smooth[both], 1 / (n_w[both] / n_l[both] + 1))
    h = 0.1 * margins(a)
    expected = -(1 - smooth) * log_sigmoid(h) - smooth * log_sigmoid(-h)
    np.testing.assert_allclose(stepwise.mcts_dpo(**a), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="rejected_visits"):
        stepwise.mcts_dpo(**{name: x for name, x in a.items() if name != "rejected_visits"})


def test_a_shared_prefix_cancels_in_value_and_in_the_gradient_of_what_differs():
    """The loss on the suffix is the loss on the whole; so are its gradients with respect to the differing tokens."""
    for loss in (functools.partial(stepwise.rise, alpha=0.0), stepwise.mcts_dpo):

        def parts(arrays, loss=loss):
            names = ("chosen_token_logps", "rejected_token_logps")
            found = jax.grad(lambda x: jnp.sum(loss(**{**arrays, **x})))({n: arrays[n] for n in names})
            return jnp.concatenate([loss(**arrays)[:, None], *(found[n][:, 3:] for n in names)], axis=1)

        check_identity(
            "prefix cancels",
            lambda parts=parts, **a: parts(a),
            lambda parts=parts, **a: parts(without_steps(a)),
            siblings,
        ).require()


def test_equally_visited_siblings_are_best_kept_equal():
    a = {name: jnp.zeros((1, 1)) for name in draws.TOKEN_PAIR}
    visits = dict(chosen_visits=jnp.array([3.0]), rejected_visits=jnp.array([3.0]))

    def at(h):
        return stepwise.mcts_dpo(**{**a, "chosen_token_logps": jnp.array([[h]])}, **visits, beta=1.0)[0]

    assert float(jax.grad(at)(0.0)) == 0 and at(0.0) < min(at(0.5), at(-0.5))
    skewed = dict(chosen_visits=jnp.array([9.0]), rejected_visits=jnp.array([1.0]))
    slope = jax.grad(lambda h: stepwise.mcts_dpo(**{**a, "chosen_token_logps": h[None, None]}, **skewed, beta=1.0)[0])
    np.testing.assert_allclose(slope(jnp.log(9.0)), 0, atol=1e-6)


def test_edited_pairs_teach_the_edited_token_faster_than_sampled_ones():
    """Tabular policies on five digits, position by position: one wrong digit against five random wrong ones."""
    right = np.array([3, 1, 4, 1, 5])
    rng = np.random.default_rng(2)
    batch = np.broadcast_to(right, (16, 5))
    everywhere = np.broadcast_to(np.arange(5) == 2, batch.shape)
    edited = edits.edit_number(jax.random.key(0), jnp.asarray(batch), everywhere, first_digit=0)
    sampled = rng.integers(0, 10, batch.shape)
    ref = jnp.full(batch.shape, jnp.log(0.1))

    def after(rejected, steps=20):
        def loss(logits):
            logps = jax.nn.log_softmax(logits)
            chosen = jnp.broadcast_to(logps[jnp.arange(5), right], batch.shape)
            lost = logps[jnp.arange(5), jnp.asarray(rejected)]
            # Scale of the update: one unit of margin for every pair, however many tokens it is spread over.
            return jnp.mean(stepwise.rise(chosen, lost, ref, ref, beta=1.0, alpha=0.0))

        step = jax.jit(lambda x: x - 0.2 * jax.grad(loss)(x))
        logits = jnp.zeros((5, 10))
        for _ in range(steps):
            logits = step(logits)
        return float(jax.nn.softmax(logits)[2, right[2]])

    assert after(edited) > after(sampled) + 0.02 > 0.1


def test_edge_rise_without_the_likelihood_is_step_dpo_and_on_whole_responses_dpo():
    plain = functools.partial(stepwise.rise, alpha=0.0)
    check_identity("RISE = Step-DPO", plain, functools.partial(tokenwise.step_dpo, beta=0.4), siblings).require()

    def dpo(**a):
        summed = {
            name.replace("_token", ""): jnp.sum(x * a["chosen_mask" if "chosen" in name else "rejected_mask"], axis=1)
            for name, x in a.items()
            if "token" in name
        }
        return paired.dpo(**summed, beta=0.4)

    check_identity("RISE = DPO", plain, dpo, draws.tokens).require()


def test_edge_mcts_dpo_without_visits_is_step_dpo():
    check_identity("a = 0", stepwise.mcts_dpo, tokenwise.step_dpo, siblings).require()

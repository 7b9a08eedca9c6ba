"""SparsePO: token masks on reward and KL, and the losses it becomes at the masks' ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses.preference import paired, sparse, tokenwise
from prefjax.ops import sequences
from prefjax.rewards import token_masks
from prefjax.theory.checker import check_identity
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.draws import log_sigmoid

compile_losses(globals())

SIDES = ("chosen", "rejected")


def arrays_of(rng, reward=None, kl=None):
    arrays = draws.tokens(rng)
    shape = (draws.B, draws.T)
    for side in SIDES:
        arrays[f"{side}_token_kls"] = rng.uniform(0, 1, shape)
        arrays[f"{side}_reward_weights"] = rng.uniform(0, 2, shape) if reward is None else np.full(shape, reward)
        arrays[f"{side}_kl_weights"] = rng.uniform(0, 2, shape) if kl is None else np.full(shape, kl)
    return arrays


def sums(a):
    """What the sequence losses take."""
    out = {}
    for side in SIDES:
        mask = a[f"{side}_mask"]
        for name in (f"{side}_token_logps", f"ref_{side}_token_logps", f"{side}_token_kls"):
            out[name.replace("_token", "")] = jnp.sum(jnp.where(mask, a[name], 0), axis=1)
    return out


def test_sparse_po_is_the_equation():
    a = arrays_of(np.random.default_rng(0))
    u, d = {}, {}
    for s in SIDES:
        ratio = a[f"{s}_token_logps"] - a[f"ref_{s}_token_logps"]
        u[s] = (a[f"{s}_mask"] * a[f"{s}_reward_weights"] * ratio).sum(1)
        d[s] = (a[f"{s}_mask"] * a[f"{s}_kl_weights"] * a[f"{s}_token_kls"]).sum(1)
    z = 0.1 * (u["chosen"] - u["rejected"]) - 0.1 * (d["rejected"] - d["chosen"])
    np.testing.assert_allclose(sparse.sparse_po(**a), -log_sigmoid(z), rtol=1e-5)


def test_a_token_outside_both_masks_gets_no_gradient_through_its_logits():
    """And with all tokens outside the loss is log 2, without a gradient."""
    rng = np.random.default_rng(1)
    a = arrays_of(rng)
    for name in ("chosen_reward_weights", "chosen_kl_weights"):
        a[name][:, 3] = 0
    a["chosen_mask"] = np.ones_like(a["chosen_mask"])
    logits, ref = rng.normal(size=(2, draws.B, draws.T, 5))
    targets = rng.integers(0, 5, (draws.B, draws.T))

    def loss(logits, weights):
        logps = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        kls = sequences.token_kls(logits, ref)
        given = {**a, **weights, "chosen_token_logps": logps, "chosen_token_kls": kls}
        return jnp.sum(sparse.sparse_po(**given))

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(logits), {}))
    assert not np.any(gradient[:, 3]) and np.all(np.any(gradient[:, [0, 1, 2, 4]], axis=-1))
    nothing = {name: np.zeros_like(x) for name, x in a.items() if name.endswith("weights")}
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits), nothing)
    np.testing.assert_allclose(value, draws.B * np.log(2), rtol=1e-6)
    assert not np.any(gradient)


def test_learned_masks_are_sparse_and_start_near_dpo():
    params = token_masks.init(jax.random.key(0), layers=3, width=8)
    states = jax.random.normal(jax.random.key(1), (4, 3, 6, 8))
    mask = token_masks.sparse_mask(params, states)
    np.testing.assert_allclose(mask, 1, atol=0.2)
    # LayerNorm, a ReLU a layer, a ReLU of their mixture: the authors' SimpleMaskAllLayers without its dropout.
    kernel, bias, mixer = np.random.default_rng(7).normal(size=(3, 8)), np.array([0.5, -0.5, -1]), np.array([1, -2, 1])
    h = np.asarray(states, float)
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    layers = np.maximum(0, np.einsum("bltd,ld->blt", h, kernel) + bias[:, None])
    expected = np.maximum(0, np.einsum("blt,l->bt", layers, mixer))
    got = token_masks.sparse_mask({"kernel": kernel, "bias": bias, "mixer": mixer}, states)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert 0.2 < np.mean(np.asarray(got) == 0) < 0.9


def test_activation_masks_are_ordered_by_activation_and_see_only_the_response():
    states = np.random.default_rng(2).normal(size=(3, 2, 7, 4))
    where = np.arange(7) < np.array([[5], [7], [1]])
    mask = np.asarray(token_masks.activation_mask(states, where=where))
    for row, keep in enumerate(where[:2]):
        a = states[row].mean(-1)[:, keep]
        z = (a - a.mean(-1, keepdims=True)) / a.std(-1, ddof=1, keepdims=True)  # the authors' first step, undone below
        low, high = z.min(-1, keepdims=True), z.max(-1, keepdims=True)
        np.testing.assert_allclose(mask[row, keep], ((z - low) / (high - low)).mean(0), rtol=1e-4, atol=1e-6)
        assert not np.any(mask[row, ~keep])
    np.testing.assert_array_equal(mask[2], np.arange(7) == 0)  # a single token counts in full
    gradient = jax.grad(lambda x: jnp.sum(token_masks.activation_mask(x)))(jnp.asarray(states))
    assert not np.any(gradient)


def test_a_learned_mask_finds_the_token_that_decides():
    """Only position 2's token tells chosen from rejected; its mask grows, the noisy ones' shrink."""
    rng = np.random.default_rng(3)
    noise = {s: rng.normal(0, 3, (64, 4)) for s in SIDES}
    noise["chosen"][:, 2], noise["rejected"][:, 2] = 2.0, -2.0
    states = np.broadcast_to(np.eye(4), (64, 1, 4, 4))

    def objective(params):
        mask = token_masks.sparse_mask(params, states)
        zero = jnp.zeros((64, 4))
        return jnp.mean(
            sparse.sparse_po(
                noise["chosen"], noise["rejected"], zero, zero, zero, zero, mask, mask, mask, mask, beta=1.0
            )
        )

    params = token_masks.init(jax.random.key(0), 1, 4)
    step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.3 * g, p, jax.grad(objective)(p)))
    for _ in range(200):
        params = step(params)
    mask = np.asarray(token_masks.sparse_mask(params, states))[0]
    assert mask[2] > 3 * mask[[0, 1, 3]].max(), mask


def test_edge_full_reward_mask_without_kl_is_dpo():
    def dpo(**a):
        return paired.dpo(**{k: x for k, x in sums(a).items() if "kls" not in k})

    draw = functools.partial(arrays_of, reward=1.0, kl=0.0)
    check_identity("m = 1, n = 0", sparse.sparse_po, dpo, draw).require()


def test_edge_full_masks_are_tdpo1():
    draw = functools.partial(arrays_of, reward=1.0, kl=1.0)
    check_identity(
        "m = n = 1", sparse.sparse_po, lambda **a: tokenwise.tdpo(**sums(a), version="tdpo1"), draw
    ).require()

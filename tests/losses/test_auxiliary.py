"""P2C and the degree loss of SPO: equations, symmetries, and what is stopped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax import objective
from prefjax.losses.preference import auxiliary, paired
from prefjax.theory.checker import check_identity
from prefjax.transforms import degrees
from tests.compiled import compile_losses
from tests.losses import draws

compile_losses(globals())

B, C, H = 12, 4, 3


def texts(rng):
    return {
        "first_logits": rng.normal(0, 2, (B, C)),
        "second_logits": rng.normal(0, 2, (B, C)),
        "first_head_scores": rng.normal(0, 2, (B, H)),
        "second_head_scores": rng.normal(0, 2, (B, H)),
        "targets": rng.integers(0, C, B),
        "preference_signs": rng.integers(-1, 2, B).astype(float),
    }


def parts(a):
    """The authors' code in numpy: pref is 1 (first), 0 (second) or 2 (tie), probabilities are (second, first)."""
    row = np.arange(B)
    pref = np.select([a["preference_signs"] > 0, a["preference_signs"] < 0], [1, 0], 2)
    q = np.zeros((B, 2))
    q[row, np.where(pref == 2, 0, pref)] += 0.5
    q[row, np.where(pref == 2, 1, pref)] += 0.5
    exps = np.exp(np.stack([a["second_head_scores"], a["first_head_scores"]], axis=-1))
    p = exps / exps.sum(-1, keepdims=True)
    f1, f2 = (np.exp(a[k]) / np.exp(a[k]).sum(1, keepdims=True) for k in ("first_logits", "second_logits"))
    delta = (f1 - f2)[row, a["targets"]]
    crossed = [-(p[:, i] * np.log(p[:, j])).sum(-1) for i in range(H) for j in range(H) if i != j]
    return {
        "cls": -(np.log(f1[row, a["targets"]]) + np.log(f2[row, a["targets"]])) / 2,
        "pref": -(q[:, None] * np.log(p)).sum(-1).mean(1),
        "cons": np.select([pref == 1, pref == 0], [np.maximum(0, -delta), np.maximum(0, delta)], np.abs(delta)),
        "div": np.sum(crossed, axis=0) / (H * (H - 1)),
    }


def test_p2c_is_the_authors_code():
    a = texts(np.random.default_rng(0))
    want, heads = parts(a), (a["first_head_scores"], a["second_head_scores"])
    signs = a["preference_signs"]
    np.testing.assert_allclose(auxiliary.p2c_preference(*heads, signs), want["pref"], rtol=1e-5)
    np.testing.assert_allclose(auxiliary.p2c_diversity(*heads), want["div"], rtol=1e-5)
    logits = (a["first_logits"], a["second_logits"], a["targets"], signs)
    np.testing.assert_allclose(auxiliary.p2c_consistency(*logits), want["cons"], rtol=1e-4, atol=1e-6)
    got = auxiliary.p2c(**a, preference_weight=0.7, diversity_weight=0.1, consistency_weight=1.3)
    total = want["cls"] + 1.3 * want["cons"] + 0.7 * want["pref"] - 0.1 * want["div"]
    np.testing.assert_allclose(got, total, rtol=1e-4, atol=1e-6)


def test_swapping_the_texts_and_the_preference_changes_nothing():
    def swapped(**a):
        for name in ("logits", "head_scores"):
            a[f"first_{name}"], a[f"second_{name}"] = a[f"second_{name}"], a[f"first_{name}"]
        return auxiliary.p2c(**{**a, "preference_signs": -a["preference_signs"]})

    check_identity("swap", swapped, auxiliary.p2c, texts).require()


def test_consistency_is_0_exactly_where_classifier_and_strict_preference_agree():
    a = texts(np.random.default_rng(1))
    a["preference_signs"] = np.where(np.arange(B) % 2, 1.0, -1.0)
    got = auxiliary.p2c_consistency(*(a[k] for k in ("first_logits", "second_logits", "targets", "preference_signs")))
    f1, f2 = (jax.nn.softmax(a[k])[np.arange(B), a["targets"]] for k in ("first_logits", "second_logits"))
    agree = np.sign(f1 - f2) == a["preference_signs"]
    assert agree.any() and not agree.all()
    np.testing.assert_array_equal(got == 0, agree)


def test_diversity_moves_each_head_away_from_the_others_as_they_stand():
    """The gradient in head j is that of mean over i != j of CE(p_i, p_j) with p_i held."""
    a = texts(np.random.default_rng(2))
    first, second = jnp.asarray(a["first_head_scores"]), jnp.asarray(a["second_head_scores"])
    found = jax.grad(lambda x: jnp.sum(auxiliary.p2c_diversity(x, second)))(first)
    p = draws.sigmoid(np.asarray(first - second))
    others = (p.sum(1, keepdims=True) - p) / (H - 1)
    np.testing.assert_allclose(found, (p - others) / H, rtol=1e-4, atol=1e-6)
    assert not np.any(auxiliary.p2c_diversity(first[:, :1], second[:, :1]))


def test_edge_p2c_without_weights_on_one_text_is_cross_entropy():
    def left(**a):
        a["second_logits"] = a["first_logits"]
        return auxiliary.p2c(**a, preference_weight=0.0, diversity_weight=0.0, consistency_weight=0.0)

    def right(first_logits, targets, **_):
        return -jax.nn.log_softmax(first_logits)[jnp.arange(B), targets]

    check_identity("p2c = CE", left, right, texts).require()


def degree_arrays(rng):
    return {
        "chosen_degree_logits": rng.normal(size=(B, C)),
        "rejected_degree_logits": rng.normal(size=(B, C)),
        "chosen_degrees": rng.integers(0, C, B),
        "rejected_degrees": rng.integers(0, C, B),
    }


def test_spo_degree_is_the_equation_and_log_c_for_a_head_of_zeros():
    a = degree_arrays(np.random.default_rng(3))
    logps = [
        x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (a["chosen_degree_logits"], a["rejected_degree_logits"])
    ]
    row = np.arange(B)
    expected = -(logps[0][row, a["chosen_degrees"]] + logps[1][row, a["rejected_degrees"]]) / 2
    np.testing.assert_allclose(auxiliary.spo_degree(**a), expected, rtol=1e-5)
    blank = {name: np.zeros_like(x) if "logits" in name else x for name, x in a.items()}
    np.testing.assert_allclose(auxiliary.spo_degree(**blank), np.log(C), rtol=1e-6)


def degree_world(rng):
    """Bags of tokens: content tokens carry the meaning, fillers none; a linear head must tell the degree."""
    vocab, length, size = 12, 10, 64
    tokens = {side: rng.integers(0, vocab, (size, length)) for side in ("chosen", "rejected")}
    bags = {}
    for side, ids in tokens.items():
        views = degrees.degree_views((ids < 6).astype(float), np.ones_like(ids, bool), degrees=3)
        degree = rng.integers(0, 3, size)
        kept = np.asarray(views)[np.arange(size), degree]
        bags[side] = (np.eye(vocab)[ids] * kept[..., None]).sum(1), degree
    return bags


def test_the_degree_is_learned_while_the_dpo_margin_grows_and_lambda_0_is_the_base_objective():
    rng = np.random.default_rng(4)
    bags = degree_world(rng)
    full = {side: jnp.asarray(rng.normal(size=(64, 12))) for side in ("chosen", "rejected")}

    def view(params, carry, batch, key):
        # The policy's log-probs and the head read one encoder, which both tasks train.
        logps = {f"{s}_logps": (full[s] @ params["encoder"]).sum(1) for s in full}
        refs = {f"ref_{s}_logps": jnp.zeros(64) for s in full}
        logits = {f"{s}_degree_logits": bags[s][0] @ params["encoder"] @ params["head"] for s in full}
        labels = {f"{s}_degrees": bags[s][1] for s in full}
        return {**logps, **refs, **logits, **labels, "example_mask": jnp.ones(64, bool)}

    def composed(weight):
        base = objective.compose(view, functools.partial(paired.dpo, beta=0.1))
        extra = objective.compose(view, auxiliary.spo_degree)
        return base, objective.add({"preference": (1.0, base), "degree": (weight, extra)})

    params = {"encoder": jnp.asarray(rng.normal(size=(12, 8)) * 0.1), "head": jnp.zeros((8, 3))}

    def value(terms, params):
        return terms(params, {}, {}, jax.random.key(0))[0].value

    base, without = composed(0.0)
    one, other = (jax.value_and_grad(functools.partial(value, terms))(params) for terms in (base, without))
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), one, other)), "bit for bit"

    _, both = composed(1.0)
    step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(functools.partial(value, both))(p)))
    trained = params
    for _ in range(150):
        trained = step(trained)
    seen = view(trained, {}, {}, None)
    right = np.mean([np.argmax(seen[f"{s}_degree_logits"], 1) == bags[s][1] for s in full])
    margin = [float(jnp.mean(v["chosen_logps"] - v["rejected_logps"])) for v in (view(params, {}, {}, None), seen)]
    assert right > 0.6 and margin[1] > margin[0] + 1, (right, margin)

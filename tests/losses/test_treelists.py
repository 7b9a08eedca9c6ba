"""TPO: ranking whole lists of solutions with weighted steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.losses.preference import lipo, listwise, paired, treelists
from prefjax.theory.checker import check_identity
from prefjax.weights import steps
from tests.compiled import compile_losses
from tests.losses import draws
from tests.losses.test_lipo import lambda_loop
from tests.losses.test_listwise import as_list

compile_losses(globals())


def solutions(rng):
    shape = (draws.B, draws.K, 6)
    return {
        "list_token_logps": -rng.uniform(0.1, 3, shape),
        "ref_list_token_logps": -rng.uniform(0.1, 3, shape),
        "list_labels": rng.random(shape[:2]),
        "list_token_weights": rng.uniform(0, 2, shape),
        "list_token_mask": np.arange(6) < rng.integers(1, 7, (*shape[:2], 1)),
    }


def rewards(a):
    ratio = a["list_token_logps"] - a["ref_list_token_logps"]
    return 0.1 * (a["list_token_weights"] * ratio * a["list_token_mask"]).sum(-1)


def test_tpo_is_the_equation():
    a = solutions(np.random.default_rng(0))
    expected = [lambda_loop(r, v) for r, v in zip(rewards(a), a["list_labels"], strict=True)]
    np.testing.assert_allclose(treelists.tpo_tree(**a), expected, rtol=1e-4)


def test_the_order_of_the_list_does_not_matter():
    def shuffled(**a):
        return treelists.tpo_tree(**{name: x[:, jnp.array([3, 0, 4, 1, 2])] for name, x in a.items()})

    check_identity("permuted", shuffled, treelists.tpo_tree, solutions, tolerance=1e-6).require()


def test_step_weights_are_one_plus_cosine():
    """Step 1 is identical to the best response's, step 2 orthogonal, step 3 opposite, step 4 only the other's own."""
    e = np.eye(2)
    best = [e[0], e[0], e[0], e[0], np.nan * e[0]]  # the last is no step: padding may hold anything
    other = [2 * e[0], 2 * e[0], e[1], -3 * e[0], e[1]]
    states = np.array([[other, best]])
    ids = np.array([[[1, 1, 2, 3, 4], [1, 2, 2, 3, 0]]])
    got = steps.adaptive_step_weights(states, ids, np.array([[0.2, 0.9]]), steps=4)
    np.testing.assert_allclose(got[0, 0], [2, 2, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(got[0, 1], [1, 1, 1, 1, 0], atol=1e-6)
    code = steps.adaptive_step_weights(states, ids, np.array([[0.2, 0.9]]), steps=4, best="cosine")
    np.testing.assert_allclose(code[0, 1], [2, 2, 2, 2, 0], atol=1e-6)
    gone = steps.adaptive_step_weights(states, ids, np.array([[0.2, 0.9]]), steps=4, where=np.array([[True, False]]))
    np.testing.assert_allclose(gone[0, 0], [1, 1, 1, 1, 1], atol=1e-6)


def test_step_weights_are_means_over_tokens():
    rng = np.random.default_rng(1)
    states, ids = rng.normal(size=(2, 3, 8, 5)), rng.integers(0, 4, (2, 3, 8))
    labels = np.array([[0.1, 0.8, 0.3], [0.9, 0.8, 0.3]])
    got = np.asarray(steps.adaptive_step_weights(states, ids, labels, steps=3))
    for b, top in enumerate((1, 0)):
        for k in range(3):
            for t in range(8):
                own, theirs = states[b, k][ids[b, k] == ids[b, k, t]], states[b, top][ids[b, top] == ids[b, k, t]]
                if ids[b, k, t] == 0 or not len(theirs):
                    assert got[b, k, t] == 0
                elif k == top:
                    assert got[b, k, t] == 1
                else:
                    x, y = own.mean(0), theirs.mean(0)
                    np.testing.assert_allclose(
                        got[b, k, t], 1 + x @ y / np.linalg.norm(x) / np.linalg.norm(y), rtol=1e-4
                    )


def kendall(r, v):
    pairs = [(i, j) for i in range(len(v)) for j in range(i)]
    return np.mean([np.sign(r[i] - r[j]) * np.sign(v[i] - v[j]) for i, j in pairs])


def test_the_whole_list_teaches_the_order_better_than_its_best_against_another():
    """A tabular policy over five ranked responses; DPO sees the best and a random other one."""
    values = jnp.array([[0.1, 0.9, 0.3, 0.7, 0.5]])
    ref = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (1, 5)))

    def train(loss):
        logits = ref
        step = jax.jit(lambda x, key: x - 0.5 * jax.grad(lambda x: loss(jax.nn.log_softmax(x), key))(x))
        for key in jax.random.split(jax.random.key(1), 40):
            logits = step(logits, key)
        return kendall(np.asarray(jax.nn.log_softmax(logits) - ref)[0], np.asarray(values)[0])

    def tpo(logps, key):
        return treelists.tpo_tree(logps[..., None], ref[..., None], values, beta=1.0)[0]

    def dpo(logps, key):
        other = jnp.array([0, 2, 3, 4])[jax.random.randint(key, (), 0, 4)][None]
        take = lambda x, i: x[0, i]  # noqa: E731
        best = jnp.array([1])
        return paired.dpo(take(logps, best), take(logps, other), take(ref, best), take(ref, other), beta=1.0)[0]

    assert train(tpo) == 1 > train(dpo) + 0.2


def test_edge_two_responses_are_dpo():
    def left(form, **a):
        logps, refs, labels = as_list(**a)
        return treelists.tpo_tree(logps[..., None], refs[..., None], labels, form=form)

    for form in ("pairs", "plackett_luce"):
        check_identity(f"{form}, K = 2", functools.partial(left, form), paired.dpo, draws.pairs).require()


def test_edge_weights_of_one_are_lipo_and_plackett_luce():
    def summed(a):
        keep = a["list_token_mask"]
        names = ("list_token_logps", "ref_list_token_logps")
        return [jnp.sum(jnp.where(keep, a[n], 0), axis=-1) for n in names] + [a["list_labels"]]

    def left(form, **a):
        return treelists.tpo_tree(**{**a, "list_token_weights": jnp.ones_like(a["list_token_weights"])}, form=form)

    for form, right in (("lambda", lipo.lipo_lambda), ("plackett_luce", listwise.plackett_luce_dpo)):
        check_identity(
            form,
            functools.partial(left, form),
            lambda right=right, **a: right(*summed(a), beta=0.1),
            solutions,
            tolerance=1e-6,
        ).require()

"""Reward-model losses on pairs, lists, steps, attributes and prompts: golden values, claims, special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import (
    general_preference,
    reward,
    reward_attributes,
    reward_contrast,
    reward_latent,
    reward_lists,
    reward_pairs,
    reward_process,
    reward_prompts,
)
from prefjax.losses.preference import paired
from prefjax.theory import checker, rewards_transforms
from tests.compiled import compile_losses

compile_losses(globals())

pytestmark = pytest.mark.usefixtures("x64")


def scores(rng, shape=6):
    return {"chosen_scores": rng.normal(size=shape), "rejected_scores": rng.normal(size=shape)}


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def test_golden_pairs():
    rng = np.random.default_rng(0)
    s = scores(rng)
    d = s["chosen_scores"] - s["rejected_scores"]
    m, p = rng.integers(1, 4, 6).astype(float), rng.uniform(size=6)
    tied = np.array([True, False, True, False, True, False])
    close = np.testing.assert_allclose
    close(reward_pairs.scaled_bradley_terry(**s, margins=m), -m * log_sigmoid(d))
    close(reward_pairs.adaptive_margin(**s, margins=m), -log_sigmoid(d - m))
    close(reward_pairs.adaptive_margin(**s, margins=m, placement="outside"), -log_sigmoid(d) - m)
    close(reward_pairs.soft_bradley_terry(**s, preference_probs=p), -p * log_sigmoid(d) - (1 - p) * log_sigmoid(-d))
    close(reward_pairs.log_exp(**s), np.log(1 + np.exp(-d)))
    close(reward_pairs.centring(**s), (s["chosen_scores"] + s["rejected_scores"]) ** 2)
    close(reward_pairs.ranking_hinge(**s), np.maximum(0, 1 - d))
    # Rao and Kupper: pi_i / (pi_i + theta pi_j), and the tie is what is left.
    win, lose = (1 / (1 + np.exp(0.5 - x)) for x in (d, -d))
    close(reward_pairs.rao_kupper(**s, ties=tied), -np.log(np.where(tied, 1 - win - lose, win)), rtol=1e-6)
    # Davidson: nu sqrt(pi_i pi_j) for a tie.
    a, b = np.exp(s["chosen_scores"]), np.exp(s["rejected_scores"])
    tie = 0.7 * np.sqrt(a * b)
    close(reward_pairs.davidson(**s, ties=tied, tie_weight=0.7), -np.log(np.where(tied, tie, a) / (a + b + tie)))


def test_golden_lists_steps_attributes():
    rng = np.random.default_rng(1)
    s, labels = rng.normal(size=(2, 3)), np.array([[2.0, 0, 1], [1, 1, 3]])
    z = np.exp(s)
    order = [  # best first; the second list has two items of equal label that are not compared
        np.log(z[0, 0] / z[0].sum()) + np.log(z[0, 2] / (z[0, 2] + z[0, 1])),
        np.log(z[1, 2] / z[1].sum()),
    ]
    np.testing.assert_allclose(reward_lists.plackett_luce(s, labels), -np.array(order))
    first = [(0, 2, 1.0), (0, 1, 2.0), (2, 1, 1.0)]
    gap = np.mean([-log_sigmoid(s[0, i] - s[0, j] - g) for i, j, g in first])
    np.testing.assert_allclose(reward_lists.all_pairs(s, labels, margin="gap")[0], gap)
    steps, right = rng.normal(size=(1, 4)), np.array([[1.0, 0.25, 0, 0.5]])
    mask = np.array([[True, True, True, False]])
    expected = np.mean((-right * log_sigmoid(steps) - (1 - right) * log_sigmoid(-steps))[mask])
    np.testing.assert_allclose(reward_process.process_reward(steps, right, where=mask)[0], expected)
    ratings = np.array([[4.0, 2, 0, 1]])
    expected = np.mean(((steps - ratings) ** 2)[mask])
    np.testing.assert_allclose(reward_attributes.attribute_regression(steps, ratings, where=mask)[0], expected)
    np.testing.assert_allclose(
        reward_process.outcome_reward(steps[0], mask[0]), -log_sigmoid(np.where(mask[0], steps[0], -steps[0]))
    )
    mean, log_var = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    kl = -0.5 * np.sum(1 + log_var - mean**2 - np.exp(log_var), axis=1)
    np.testing.assert_allclose(reward_latent.latent_kl(mean, log_var), kl)
    assert reward_latent.latent_kl(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0] == 0
    assert np.all(kl > 0)


def test_edge_special_cases():
    """Edges of the lattice: each loss here is another one in a corner of its options."""
    equal = checker.check_identity
    flat = lambda x: x[:, None]  # noqa: E731

    def draw(rng):
        return scores(rng)

    bt = reward.bradley_terry
    for claim, other in {
        "log_exp = bradley_terry": reward_pairs.log_exp,
        "scaled at strength 1": lambda chosen_scores, rejected_scores: reward_pairs.scaled_bradley_terry(
            chosen_scores, rejected_scores, jnp.ones_like(chosen_scores)
        ),
        "soft at 1": lambda chosen_scores, rejected_scores: reward_pairs.soft_bradley_terry(
            chosen_scores, rejected_scores, jnp.ones_like(chosen_scores)
        ),
        "davidson without ties": lambda chosen_scores, rejected_scores: reward_pairs.davidson(
            chosen_scores, rejected_scores, jnp.zeros(6, bool), tie_weight=1e-30
        ),
        "rao_kupper at width 0": lambda chosen_scores, rejected_scores: reward_pairs.rao_kupper(
            chosen_scores, rejected_scores, jnp.zeros(6, bool), tie_width=0.0
        ),
        "smoothed at 1, swapped": lambda chosen_scores, rejected_scores: reward_pairs.smoothed_bradley_terry(
            rejected_scores, chosen_scores, label_smoothing=1.0
        ),
        "tree_plv with one pair": lambda chosen_scores, rejected_scores: reward_process.tree_plv(
            flat(chosen_scores), flat(rejected_scores)
        ),
        "plackett_luce of two": lambda chosen_scores, rejected_scores: reward_lists.plackett_luce(
            jnp.stack([chosen_scores, rejected_scores], 1), jnp.array([[1, 0]] * 6)
        ),
        "all_pairs of two": lambda chosen_scores, rejected_scores: reward_lists.all_pairs(
            jnp.stack([chosen_scores, rejected_scores], 1), jnp.array([[1, 0]] * 6)
        ),
        "gpm on (r, 1)": lambda chosen_scores, rejected_scores: general_preference.gpm(
            jnp.stack([chosen_scores, jnp.ones(6)], 1),
            jnp.stack([rejected_scores, jnp.ones(6)], 1),
            tau=1.0,
            normalize="none",
        ),
        "mapl_inter without a second prompt": lambda chosen_scores, rejected_scores: reward_prompts.mapl_inter(
            chosen_scores, rejected_scores, jnp.zeros(6), jnp.zeros(6)
        ),
        "heron decided": lambda chosen_scores, rejected_scores: reward_pairs.heron(
            rejected_scores, chosen_scores, -jnp.ones(6)
        ),
    }.items():
        equal(claim, other, bt, draw, draws=5).require()
    width = jnp.log1p(jnp.exp(0.3))
    for level, tied in ((1, True), (2, False)):
        equal(
            "ordinal with one gap = rao_kupper",
            lambda chosen_scores, rejected_scores, level=level: reward_pairs.ordinal(
                chosen_scores, rejected_scores, jnp.full(6, level), jnp.array([0.3])
            ),
            lambda chosen_scores, rejected_scores, tied=tied: reward_pairs.rao_kupper(
                chosen_scores, rejected_scores, jnp.full(6, tied), tie_width=width
            ),
            draw,
            draws=5,
        ).require()


def test_ordinal_is_a_distribution_and_symmetric():
    rng = np.random.default_rng(2)
    s, gaps = scores(rng, 1), jnp.array([-0.4, 0.8, 0.1])
    spread = {k: jnp.repeat(v, 7) for k, v in s.items()}
    levels = jnp.arange(7)
    nll = reward_pairs.ordinal(**spread, preference_levels=levels, cutpoint_gaps=gaps)
    np.testing.assert_allclose(jnp.sum(jnp.exp(-nll)), 1)
    swapped = reward_pairs.ordinal(spread["rejected_scores"], spread["chosen_scores"], 6 - levels, gaps)
    np.testing.assert_allclose(swapped, nll)
    for lost in (reward_pairs.rao_kupper, reward_pairs.davidson):
        win, lose, tie = (
            np.exp(-lost(*pair, jnp.array([tied])))
            for pair, tied in ((s.values(), False), (list(s.values())[::-1], False), (s.values(), True))
        )
        np.testing.assert_allclose(win + lose + tie, 1)


def test_label_smoothing_has_a_finite_optimum():
    """Claim: d* = log((1 - a) / a), where hard labels have none."""
    for a in (0.05, 0.1, 0.3):
        best = rewards_transforms.smoothed_minimizer(a)
        slope = jax.grad(
            lambda d, a=a: reward_pairs.smoothed_bradley_terry(d[None], jnp.zeros(1), label_smoothing=a)[0]
        )
        np.testing.assert_allclose(slope(best), 0, atol=1e-12)
        assert slope(best - 0.1) < 0 < slope(best + 0.1)
    hard = jax.grad(lambda d: reward.bradley_terry(d[None], jnp.zeros(1))[0])
    assert hard(30.0) < 0


def test_margin_outside_the_sigmoid_changes_no_gradient():
    """Claim: as printed, the margin leaves the gradient plain; inside, the gradient is -sigmoid(mu - d)."""
    checker.check_gradient(
        "margin inside",
        lambda chosen_scores, rejected_scores, margins: reward_pairs.adaptive_margin(
            chosen_scores, rejected_scores, margins
        ),
        {
            "chosen_scores": lambda chosen_scores, rejected_scores, margins: (
                -jax.nn.sigmoid(margins - chosen_scores + rejected_scores)
            )
        },
        lambda rng: scores(rng) | {"margins": rng.normal(size=6)},
        draws=5,
    ).require()
    rng = np.random.default_rng(0)
    s, m = scores(rng), rng.normal(size=6)
    outside = jax.grad(lambda c: reward_pairs.adaptive_margin(c, s["rejected_scores"], m, placement="outside").sum())
    plain = jax.grad(lambda c: reward.bradley_terry(c, s["rejected_scores"]).sum())
    np.testing.assert_array_equal(outside(s["chosen_scores"]), plain(s["chosen_scores"]))


def test_scaled_bradley_terry_repeats_pairs():
    """Claims: strength m repeats the pair m times, also in gradient; a constant on both scores changes nothing."""
    rng = np.random.default_rng(3)
    s, m = scores(rng), np.array([1.0, 2, 3, 1, 2, 3])
    repeated = [np.repeat(x, m.astype(int)) for x in s.values()]
    np.testing.assert_allclose(
        reward_pairs.scaled_bradley_terry(**s, margins=m).sum(), reward.bradley_terry(*repeated).sum()
    )
    gradient = jax.grad(lambda c: reward_pairs.scaled_bradley_terry(c, s["rejected_scores"], m).sum())
    plain = jax.grad(lambda c: reward.bradley_terry(c, s["rejected_scores"]).sum())
    np.testing.assert_allclose(gradient(s["chosen_scores"]), m * plain(s["chosen_scores"]))
    for loss in (reward_pairs.scaled_bradley_terry, reward_pairs.adaptive_margin):
        shifted = loss(s["chosen_scores"] + 5, s["rejected_scores"] + 5, m)
        np.testing.assert_allclose(shifted, loss(*s.values(), m))
    np.testing.assert_allclose(
        reward_pairs.adaptive_margin(*s.values(), m), reward.bradley_terry(*s.values(), margin=m)
    )


def test_all_pairs_is_the_k_wise_loss():
    """Claim: K (K - 1) / 2 minus ties pairs, whose mean is InstructGPT's loss."""
    rng = np.random.default_rng(4)
    s, labels = rng.normal(size=(1, 4)), np.array([[3.0, 1, 1, 0]])
    found = [(i, j) for i in range(4) for j in range(4) if labels[0, i] > labels[0, j]]
    assert len(found) == 4 * 3 / 2 - 1
    expected = np.mean([reward.bradley_terry(s[:, i], s[:, j])[0] for i, j in found])
    np.testing.assert_allclose(reward_lists.all_pairs(s, labels)[0], expected)


def test_tree_plv_ignores_the_shared_prefix():
    """Claim: any function of the shared prefix, added to both steps, cancels."""
    rng = np.random.default_rng(5)
    better, worse, prefix = rng.normal(size=(3, 2, 4))
    plain = reward_process.tree_plv(better, worse)
    np.testing.assert_allclose(reward_process.tree_plv(better + 10 * prefix, worse + 10 * prefix), plain)


def test_tree_plv_is_a_mean_over_pairs_or_a_sum_over_steps():
    """-E log sigmoid(r(s+) - r(s-)) over the pairs of a tree; of two paths the sum over the steps after their fork."""
    better, worse = np.array([[2.0, 0.5, -1.0, 9.0]] * 2), np.array([[1.0, 0.5, 1.0, -9.0]] * 2)
    where = np.array([[True, True, True, False], [False] * 4])
    losses = np.log1p(np.exp([-1.0, 0.0, 2.0]))
    np.testing.assert_allclose(reward_process.tree_plv(better, worse, where=where), [losses.sum() / 3, 0], rtol=1e-6)
    summed = reward_process.tree_plv(better, worse, where=where, reduce="sum")
    np.testing.assert_allclose(summed, [losses.sum(), 0], rtol=1e-6)
    with pytest.raises(ValueError, match="reduce='men' is unknown; did you mean 'mean'"):
        reward_process.tree_plv(better, worse, reduce="men")


def test_mapl_and_the_partition_function():
    """Claim: a function of the prompt leaves mapl_inter unchanged, and changes mapl_intra."""
    rng = np.random.default_rng(6)
    r, c1, c2 = rng.normal(size=(4, 5)), 3.0, -2.0
    inter = reward_prompts.mapl_inter(*r)
    np.testing.assert_allclose(reward_prompts.mapl_inter(r[0] + c1, r[1] + c1, r[2] + c2, r[3] + c2), inter)
    intra = reward_prompts.mapl_intra(r[0], r[1])
    assert np.all(np.abs(reward_prompts.mapl_intra(r[0] + c1, r[1] + c2) - intra) > 1e-3)
    # On the implicit rewards of the optimal policy of a reward R, intra sees R minus beta log Z, inter sees R.
    beta, ref = 0.5, rng.dirichlet(np.ones(4), size=(5, 2))
    reward_table = rng.normal(size=(5, 2, 4))
    weights = ref * np.exp(reward_table / beta)
    log_pi, log_z = np.log(weights / weights.sum(-1, keepdims=True)), np.log(weights.sum(-1))
    log_ref = np.log(ref)
    true = [reward_table[:, 0, 0], reward_table[:, 0, 1], reward_table[:, 1, 0], reward_table[:, 1, 1]]
    dpo = reward_prompts.mapl_inter_dpo(
        log_pi[:, 0, 0], log_pi[:, 0, 1], log_ref[:, 0, 0], log_ref[:, 0, 1],
        log_pi[:, 1, 0], log_pi[:, 1, 1], log_ref[:, 1, 0], log_ref[:, 1, 1], beta=beta,
    )  # fmt: skip
    np.testing.assert_allclose(dpo, reward_prompts.mapl_inter(*true))
    intra_dpo = reward_prompts.mapl_intra_dpo(
        log_pi[:, 0, 0], log_pi[:, 1, 0], log_ref[:, 0, 0], log_ref[:, 1, 0], beta=beta
    )
    offset = beta * (log_z[:, 0] - log_z[:, 1])
    np.testing.assert_allclose(intra_dpo, reward_prompts.mapl_intra(true[0], true[2] + offset))


def test_edge_mapl_inter_dpo_is_dpo():
    """Against a prompt under which policy and reference agree, mapl_inter_dpo is DPO."""
    rng = np.random.default_rng(7)
    a = -rng.uniform(1, 5, size=(4, 6))
    same = -rng.uniform(1, 5, size=(2, 6))
    np.testing.assert_allclose(reward_prompts.mapl_inter_dpo(*a, *same, *same), paired.dpo(*a))


def test_contrast():
    rng = np.random.default_rng(8)
    a, b, c = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    logits = unit(a) @ unit(b).T / 0.05
    np.testing.assert_allclose(
        reward_contrast.simcse_reward(a, b), np.log(np.exp(logits).sum(1)) - np.diag(logits), rtol=1e-6
    )

    def codes(x):
        q = np.exp(unit(x) @ unit(c).T / 0.05)
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdims=True)
        return q

    def cross(x, q):
        z = unit(x) @ unit(c).T / 0.1
        return -(q * (z - np.log(np.exp(z).sum(1, keepdims=True)))).sum(1)

    np.testing.assert_allclose(reward_contrast.swav_reward(a, b, c), cross(a, codes(b)) + cross(b, codes(a)), rtol=1e-6)


def test_contrast_of_no_rows():
    """An empty batch is no error, and moves nothing."""
    none, prototypes = jnp.zeros((0, 4)), jnp.ones((3, 4))
    assert reward_contrast.simcse_reward(none, none).shape == (0,)
    gradient = jax.grad(lambda c: jnp.sum(reward_contrast.swav_reward(none, none, c)))(prototypes)
    assert not np.any(gradient)
    with pytest.raises(ValueError, match="prototypes has shape"):
        reward_contrast.swav_reward(none, none, jnp.ones((3, 5)))


def test_the_codes_of_swav_carry_no_gradient():
    """The gradient is that of the cross-entropy with the codes held fixed."""
    rng = np.random.default_rng(9)
    features = tuple(rng.normal(size=(n, 4)) for n in (5, 5, 3))
    unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    codes = []
    for x in features[:2]:
        q = jnp.exp(unit(x) @ unit(features[2]).T / 0.05)
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdims=True)
        codes.append(q)

    def fixed(a, b, c):
        first, second = (jax.nn.log_softmax(unit(x) @ unit(c).T / 0.1) for x in (a, b))
        return -jnp.sum(codes[1] * first) - jnp.sum(codes[0] * second)

    def loss(a, b, c):
        return jnp.sum(reward_contrast.swav_reward(a, b, c))

    gradients = jax.jit(lambda *x: [jax.grad(f, (0, 1, 2))(*x) for f in (loss, fixed)])
    for found, expected in zip(*gradients(*features), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert np.any(expected)


def test_heron_undecided_pair_is_free():
    """Claim: a pair that no factor decides has zero loss and zero gradient."""
    value, gradient = jax.value_and_grad(lambda r: reward_pairs.heron(r, jnp.array([1.0, 5.0]), jnp.array([0, 1]))[0])(
        jnp.array([-3.0, 2.0])
    )
    assert value == 0 and not np.any(gradient)

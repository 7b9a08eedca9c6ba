"""Where policy gradients end, and exact expectations over all responses to check it with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.losses import policy, policy_terms
from prefjax.ops import numerics, returns


def k3_optimum(ref_logps: jax.Array, rewards: jax.Array, *, beta: ArrayLike, steps: int = 100) -> jax.Array:
    """Where GRPO's penalty ends: beta ref / (lambda - r), lambda > max r such that it sums to 1.

    Differentiated as a loss on its own samples, k3 pulls by KL(ref || pi), so this maximises E[r] - beta KL(ref || pi).
    Its tails are heavier than those of ref exp(r / beta) / Z, which "k2", or k1 taken off the reward, lead to.

    Args:
      ref_logps, rewards: [Y]. beta: > 0. steps: of bisection.
    Returns: [Y] log-probs.
    Reference: Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
      arXiv:2402.03300, eq. 4. Reconstructed: derived from the expected gradient, not read.
    """
    ref, gaps = numerics.as_float(ref_logps), jnp.max(rewards) - numerics.as_float(rewards)
    # With lambda = max r + beta x, sum ref / (gap / beta + x) is at least ref(best) / x and at most 1 / x.
    low, high = jnp.exp(ref[jnp.argmin(gaps)]) / 2, jnp.ones((), ref.dtype)

    def logps(x: jax.Array) -> jax.Array:
        return ref - jnp.log(gaps / beta + x)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        over = jnp.sum(jnp.exp(logps(middle))) > 1
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    return jax.nn.log_softmax(logps((low + high) / 2))


def penalised_loss(
    logps: jax.Array, ref_logps: jax.Array, rewards: jax.Array, *, beta: ArrayLike, estimator: policy_terms.Estimator
) -> jax.Array:
    """Exact expectation over the policy's own responses of `reinforce` plus beta times `kl_penalty`; [Y] arrays."""
    chances = jax.lax.stop_gradient(jnp.exp(logps))
    advantages = rewards - jnp.sum(chances * rewards)
    losses = policy.reinforce(logps[:, None], advantages[:, None])
    penalties = policy_terms.kl_penalty(logps[:, None], ref_logps[:, None], estimator=estimator)
    return jnp.sum(chances * (losses + beta * penalties))


def ppo_rounds(
    start: jax.Array,
    ref_logps: jax.Array,
    rewards: jax.Array,
    *,
    beta: ArrayLike,
    rate: ArrayLike,
    rounds: int,
    epochs: int = 4,
) -> jax.Array:
    """[Y] log-probs after rounds of PPO on all responses: rewards less the KL term, then epochs on a clipped surrogate.

    Args:
      start, ref_logps: [Y] log-probs. rewards: [Y]. beta: of the KL penalty in the reward.
      rate: of gradient descent in the logits. rounds: of sampling. epochs: steps on one round's data.
    Reference: Ivison et al., "Unpacking DPO and PPO: Disentangling Best Practices for Learning from Preference
      Feedback", 2024, arXiv:2406.09279.
    """
    whole = jnp.ones((start.shape[0], 1), bool)
    ref = ref_logps[:, None]

    def round_(_: int, logits: jax.Array) -> jax.Array:
        old = jax.nn.log_softmax(logits)[:, None]
        shaped = returns.shaped_rewards(rewards, old, ref, where=whole, kl_coef=beta)
        chances = jnp.exp(old[:, 0])
        advantages = shaped - jnp.sum(chances * shaped[:, 0])

        def loss(x: jax.Array) -> jax.Array:
            return jnp.sum(chances * policy.ppo_clip(jax.nn.log_softmax(x)[:, None], old, advantages))

        return jax.lax.fori_loop(0, epochs, lambda _, x: x - rate * jax.grad(loss)(x), logits)

    return jax.nn.log_softmax(jax.lax.fori_loop(0, rounds, round_, numerics.as_float(start)))

"""Rewards of sampled responses before they become advantages: by segments, by attempts, by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from prefjax.ops import numerics, shapes


def fine_grained(
    segment_scores: Sequence[jax.Array],
    segment_ends: Sequence[jax.Array],
    token_logps: jax.Array,
    ref_token_logps: jax.Array,
    *,
    weights: Sequence[float] | jax.Array,
    where: jax.Array | None = None,
    kl_coef: ArrayLike = 0.1,
) -> jax.Array:
    """Every category's score at the last token of each of its segments, less a KL penalty.

    r_t = sum_k w_k sum_j 1[t = T_j^k] R_k(j) - kl_coef (log pi - log ref)(a_t).

    Args:
      segment_scores: for each category [B, S_k], the score of every segment (sub-sentence, sentence, whole text).
      segment_ends: for each category [B, S_k] int, index of the segment's last token on the axis T; -1 for a segment
        that does not exist. Scores that end at one token add up.
      token_logps, ref_token_logps: [B, T] under the policy that sampled and under the reference, nats.
      weights: [K] w_k of the categories. where: [B, T] bool, tokens of the response. kl_coef: >= 0.
    Returns: [B, T] for `returns.gae`; 0 where masked. One category with one segment at the last token is
      `returns.shaped_rewards`. Raises: ValueError if shapes or the numbers of categories differ.
    Reference: Wu et al., "Fine-Grained Human Feedback Gives Better Rewards for Language Model Training", 2023,
      arXiv:2306.01693, eq. 1. Confirmed: allenai/FineGrainedRLHF tasks/qa_feedback/training/reward.py (where scores
      are put; there a later sentence cut off at the end replaces an earlier one).
    """
    shape = shapes.same_shape(ndim=2, token_logps=token_logps, ref_token_logps=ref_token_logps, where=where)
    if not len(segment_scores) == len(segment_ends) == len(weights):
        raise ValueError(
            f"fine_grained: {len(segment_scores)} segment_scores, {len(segment_ends)} segment_ends, "
            f"{len(weights)} weights; expected one of each a category"
        )
    gaps = numerics.as_float(token_logps) - numerics.as_float(ref_token_logps)
    rewards = -gaps * kl_coef
    positions = jnp.arange(shape[1])
    for k, (scores, ends) in enumerate(zip(segment_scores, segment_ends, strict=True)):
        shapes.same_shape(ndim=2, segment_scores=scores, segment_ends=ends)
        shapes.leading(token_logps, segment_scores=scores)
        here = jnp.asarray(ends)[:, :, None] == positions
        rewards = rewards + weights[k] * jnp.sum(jnp.where(here, numerics.as_float(scores)[:, :, None], 0), axis=1)
    return jax.lax.stop_gradient(rewards if where is None else jnp.where(where, rewards, 0))


class TurnRewards(NamedTuple):
    """Reward of the first and of the second attempt, [...]."""

    first: jax.Array
    second: jax.Array


def score_rewards(first: jax.Array, second: jax.Array, *, alpha: ArrayLike = 10.0) -> TurnRewards:
    """SCoRe's shaping: the second attempt earns r2 + alpha (r2 - r1), the first r1.

    A correction earns alpha more, a spoilt answer alpha less, a copy nothing. Each attempt is credited with its own
    reward alone: with the sum of both, a wrong first answer would pay.

    Args:
      first, second: [...] rewards of the two attempts, 0 or 1 in the paper. alpha: >= 0; 0 shapes nothing.
    Returns: TurnRewards. Raises: ValueError if shapes differ.
    Reference: Kumar et al., "Training Language Models to Self-Correct via Reinforcement Learning", 2024,
      arXiv:2409.12917, section 5.2. Confirmed: AnkitXP/LLM-Reasoning-and-Correction code/trainer.py, config.py (the
      bonus and alpha of a reproduction). Reconstructed: the credit of the first attempt.
    """
    shapes.same_shape(first=first, second=second)
    r1, r2 = numerics.as_float(first), numerics.as_float(second)
    return TurnRewards(r1, r2 + alpha * (r2 - r1))


def overlong(lengths: ArrayLike, *, max_tokens: int, buffer: int) -> jax.Array:
    """DAPO's soft punishment of long responses: 0 up to max_tokens - buffer, then linear down to -1 at max_tokens.

    Args:
      lengths: [...] response tokens. max_tokens: the limit. buffer: in (0, max_tokens], tokens of the slope.
    Returns: [...] in [-1, 0], to be added to the reward. Raises: ValueError if the buffer does not fit.
    Reference: Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, arXiv:2503.14476,
      eq. 13. Reported: verl's overlong buffer.
    """
    if not 0 < buffer <= max_tokens:
        raise ValueError(f"overlong: buffer={buffer} must lie in 1 ... max_tokens={max_tokens}")
    return jnp.clip((max_tokens - buffer - numerics.as_float(lengths)) / buffer, -1, 0)

"""Who answers the prompts of a round: (policy, prompts, key, *, ...) -> Samples, K responses a prompt."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from prefjax.generate import language, sampling
from prefjax.online import rollouts
from prefjax.online.rollouts import Policy

Prompts = Sequence[np.ndarray]


def own(
    policy: Policy,
    prompts: Prompts,
    key: jax.Array,
    *,
    num_samples: int = 8,
    max_new_tokens: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stops: tuple[str, ...] = (),
    batch_size: int = 64,
) -> language.Samples:
    """The policy itself: K independent responses, cut at any of `stops`; see `prefjax.generate.language.sample`."""
    samples = policy.sample(
        policy.params,
        prompts,
        key,
        num_samples=num_samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        batch_size=batch_size,
    )
    return language.stop_at(samples, policy.tokenizer, stops) if stops else samples


def own_and_greedy(
    policy: Policy,
    prompts: Prompts,
    key: jax.Array,
    *,
    num_samples: int = 1,
    max_new_tokens: int = 16,
    batch_size: int = 64,
) -> language.Samples:
    """K responses of the policy, and last its greedy one: ReMax's baseline."""
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    free = policy.sample(policy.params, prompts, key, num_samples=num_samples, **options)
    greedy = policy.sample(policy.params, prompts, key, num_samples=1, temperature=0.0, **options)
    return rollouts.merge([free, greedy], len(prompts))


def own_and_reference(
    policy: Policy,
    prompts: Prompts,
    key: jax.Array,
    *,
    num_samples: int = 1,
    reference_samples: int = 1,
    max_new_tokens: int = 16,
    batch_size: int = 64,
) -> language.Samples:
    """K responses of the policy, then some of the carried reference: XPO's pair.

    Reference: Xie et al., "Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for
      Sample-Efficient RLHF", 2024, arXiv:2405.21046, algorithm 1.
    """
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    keys = [jax.random.fold_in(key, i) for i in range(2)]
    free = policy.sample(policy.params, prompts, keys[0], num_samples=num_samples, **options)
    other = policy.sample(policy.carry["reference"], prompts, keys[1], num_samples=reference_samples, **options)
    return rollouts.merge([free, other], len(prompts))


def own_and_mixture(
    policy: Policy,
    prompts: Prompts,
    key: jax.Array,
    *,
    num_samples: int = 1,
    share: float = 0.125,
    max_new_tokens: int = 16,
    batch_size: int = 64,
) -> language.Samples:
    """K responses of the policy, then K of its geometric mixture with the carried reference: Nash-MD's opponent.

    Reference: Munos et al., "Nash Learning from Human Feedback", 2023, arXiv:2312.00886, section 7.
    """
    options = {"num_samples": num_samples, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    keys = [jax.random.fold_in(key, i) for i in range(2)]
    free = policy.sample(policy.params, prompts, keys[0], **options)
    mixed = policy.sample(
        policy.params, prompts, keys[1], guide=policy.carry["reference"], combine=_mixture(share), **options
    )
    return rollouts.merge([free, mixed], len(prompts))


@functools.cache
def _mixture(share: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """One function a share, so that it is compiled once."""
    return functools.partial(sampling.mixture, share=share)

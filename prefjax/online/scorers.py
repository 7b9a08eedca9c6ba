"""What a response is worth: (rollout, *, ...) -> [N], from its text, from models, or from several of these."""

from __future__ import annotations

import dataclasses
import functools
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prefjax import processes
from prefjax.data.gold import evaluate
from prefjax.data.gold import reward as gold_world
from prefjax.online import models
from prefjax.online.rollouts import Rollout, texts_of
from prefjax.rewards import density_ratio as ratios
from prefjax.rewards import followup as followups
from prefjax.rewards import transforms

log = logging.getLogger(__name__)

Scorer = Callable[[Rollout], Any]


class Failure(NamedTuple):
    """What went wrong with one prompt of a round."""

    prompt: int
    reason: str
    detail: str


def gold(rollout: Rollout, *, weights: Mapping[str, float] | None = None) -> np.ndarray:
    """The gold world's true reward; see `prefjax.data.gold.reward.gold_reward`."""
    return gold_world.gold_reward(rollout.repeated, rollout.texts, weights=weights)["total"]


def exact_match(rollout: Rollout, *, strict: bool = False, after: str | None = None) -> np.ndarray:
    """1 where a program verifies the answer, else 0; `strict` asks for a whole frame, `after` reads what follows it."""
    texts = rollout.texts if after is None else [text.partition(after)[2].strip() for text in rollout.texts]
    return evaluate.exact_match(rollout.repeated, texts, strict=strict).astype(np.float64)


def reward_model(rollout: Rollout, *, workdir: str, batch_size: int = 64) -> np.ndarray:
    """The scalar score of a reward model, from the newest checkpoint of the run in `workdir`, at the last token.

    Raises:
      ValueError: its tokenizer is not the policy's.
    """
    return models.scores(rollout, workdir, batch_size=batch_size)


def followup(
    rollout: Rollout,
    *,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    workdir: str | None = None,
    normalize: Literal["tokens", "none"] = "tokens",
) -> np.ndarray:
    """How much likelier a happy user's next turn is after the response than an unhappy one's.

    Args:
      positive, negative: texts of follow-ups. normalize: see `prefjax.rewards.followup.followup_reward`.
      workdir: run whose language model reads them; None is the carried reference.
    """
    ends = [models.continuations(rollout, texts, workdir) for texts in (positive, negative)]
    (good, good_lengths), (bad, bad_lengths) = (map(jnp.asarray, end) for end in ends)
    return np.asarray(followups.followup_reward(good, bad, good_lengths, bad_lengths, normalize=normalize))


def density_ratio(
    rollout: Rollout, *, strong: str, weak: str, normalize: Literal["none", "tokens"] = "none"
) -> np.ndarray:
    """log pi_strong(y | x) - log pi_weak(y | x) of the language models of two runs: a reward without training."""
    better, worse = (jnp.asarray(models.logps(rollout, workdir)) for workdir in (strong, weak))
    mask = jnp.asarray(rollout.samples.mask)
    return np.asarray(ratios.density_ratio(better, worse, where=mask, normalize=normalize))


def implicit(rollout: Rollout, *, beta: float = 0.1, reference: str | None = None, of: str | None = None) -> np.ndarray:
    """beta (log pi - log ref): the policy's own reward of its responses, for self-rewarding.

    Args:
      reference: workdir of the run that is the reference; None is the carried one.
      of: the entry of the carry that is pi, such as "previous"; None is the policy that sampled.
    """
    policy = rollout.policy
    own = policy.params if of is None else policy.carry[of]
    ref = policy.logps(rollout, policy.carry["reference"]) if reference is None else models.logps(rollout, reference)
    return beta * ((policy.logps(rollout, own) - ref) * rollout.samples.mask).sum(1)


def centred(rollout: Rollout, *, score: Any, quantile: float = 0.85, num_samples: int = 8, seed: int = 0) -> np.ndarray:
    """log sigmoid(r - r_ref), r_ref a quantile of the carried reference's own rewards on the prompt; see `lsc`."""
    samples = rollout.policy.sample(
        rollout.policy.carry["reference"],
        rollout.prompt_tokens,
        jax.random.key(seed),
        num_samples=num_samples,
        max_new_tokens=rollout.samples.tokens.shape[1],
        batch_size=64,
    )
    texts = texts_of(samples, rollout.policy.tokenizer)
    others = dataclasses.replace(rollout, samples=samples, texts=texts, own=None, found={})
    baseline = transforms.reference_quantile(jnp.asarray(score(others)).reshape(-1, num_samples), quantile=quantile)
    return np.asarray(transforms.lsc(jnp.asarray(score(rollout)), jnp.repeat(baseline, rollout.size)))


def clipped(rollout: Rollout, *, score: Any, low: float = -5.0, high: float = 5.0) -> np.ndarray:
    """The score within bounds."""
    return np.clip(np.asarray(score(rollout), np.float64), low, high)


def brief(rollout: Rollout, *, penalty: float = 0.01) -> np.ndarray:
    """-penalty for every token."""
    return -penalty * rollout.samples.lengths.astype(np.float64)


def found(rollout: Rollout, *, name: str) -> np.ndarray:
    """What the sampler itself found out about the responses, such as the values of its search."""
    return rollout.found[name]


def weighted(rollout: Rollout, *, parts: Mapping[str, Any]) -> np.ndarray:
    """A composite: the sum of weight * score over {name: {"weight": number, "score": a scorer}}."""
    total = np.zeros(len(rollout.texts))
    for part in parts.values():
        total += part["weight"] * np.asarray(part["score"](rollout), np.float64)
    return total


def _checked(values: Any, count: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (count,):
        raise ValueError(f"a reward of shape {list(values.shape)}; expected [{count}], one number a response")
    return values


def _limited(call: Callable[[], Any], timeout: float | None) -> Any:
    """The result of a call, or TimeoutError; what does not return in time is left behind in its thread."""
    if timeout is None:
        return call()
    out: queue.Queue = queue.Queue()

    def work() -> None:
        try:
            out.put((call(), None))
        except BaseException as error:
            out.put((None, error))

    threading.Thread(target=work, daemon=True, name="prefjax-reward").start()
    try:
        value, error = out.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"no reward within {timeout} s") from None
    if error is not None:
        raise error
    return value


def score(
    rollout: Rollout, scorer: Scorer, *, timeout: float | None = None, required: bool = True
) -> tuple[np.ndarray, list[Failure]]:
    """[P, K] scores, NaN where there is none, and what failed; one bad prompt does not cost the others.

    All responses are scored in one call; if that fails, prompt by prompt. A score that is not finite is a failure.

    Args:
      timeout: seconds a prompt; None waits for ever. With one, prompts are scored one by one.
      required: whether a scorer that is broken altogether is an error; one that is only watched is not.

    Raises:
      RuntimeError: every prompt failed with an exception, so the scorer itself is broken, and it is required. Of
        several processes all raise it, wherever it was.
    """
    prompts, size = len(rollout.prompts), rollout.size
    failures: list[Failure] = []
    values = None if timeout is not None else _in_one_call(rollout, scorer)
    if values is None:
        values = np.full(prompts * size, np.nan)
        last: Exception | None = None
        for index in range(prompts):
            part = rollout.of_prompt(index)
            try:
                call = functools.partial(scorer, part)
                values[index * size : (index + 1) * size] = _checked(_limited(call, timeout), size)
            except Exception as error:
                last = error
                reason = "timeout" if isinstance(error, TimeoutError) else "reward exception"
                failures.append(Failure(index, reason, f"{type(error).__name__}: {error}"))
        broken = processes.failed(last if len(failures) == prompts else None)
        if required and broken is not None:
            raise RuntimeError(f"no prompt of the round could be scored; the last: {broken}") from last
    table = values.reshape(prompts, size)
    failed = {failure.prompt for failure in failures}
    for index in np.flatnonzero(~np.isfinite(table).all(1)):
        if int(index) not in failed:
            failures.append(Failure(int(index), "reward not finite", f"{table[index].tolist()}"))
    return np.where(np.isfinite(table), table, np.nan), failures


def _in_one_call(rollout: Rollout, scorer: Scorer) -> np.ndarray | None:
    """[N] scores of all responses; None where it failed, in whatever process: then all go prompt by prompt."""
    try:
        return processes.together(lambda: _checked(scorer(rollout), len(rollout.texts)))
    except Exception as error:
        log.warning("scoring a round in one call failed, trying prompt by prompt: %s", error)
        return None

"""What a model does on held-out data: means, margins pair by pair, and its samples against those of its reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prefjax import mesh, train
from prefjax.data.gold import reward as gold_world
from prefjax.generate import language
from prefjax.metrics import statistics
from prefjax.metrics.statistics import Estimate
from prefjax.models import lora, placement
from prefjax.objective import Objective, View, call, name_of
from prefjax.ops import divergences, masked
from prefjax.ops.masked import Mean

Batches = Iterable[Mapping[str, Any]]
Reward = Callable[[Sequence[str], Sequence[str]], Any]  # (prompts [N], responses [N]) -> [N]


def means(
    objective: Objective,
    params: Any,
    carry: Any,
    batches: Batches,
    key: jax.Array,
    *,
    grid: Mesh | None = None,
) -> dict[str, Mean]:
    """The objective (as `loss`) and its metrics over all batches, exact for any batch size and any empty slots.

    Args:
      batches: on a mesh, this process's share of each (`mesh.share`).
      grid: the mesh, if any.
    """
    step = _jitted(train.make_eval(objective), grid)
    total: dict[str, Mean] = {}
    for batch in batches:
        part = step(params, carry, batch, key)
        total = {name: total[name] + mean for name, mean in part.items()} if total else part
    return total


def collect(
    view: View,
    arrays: Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]],
    params: Any,
    carry: Any,
    batches: Batches,
    key: jax.Array,
    *,
    grid: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """Arrays of every held-out example, [N, ...] in the order of `example_ids`; empty slots are left out.

    Args:
      view: gives `example_mask` and `example_ids`.
      arrays: what to keep of the view's named arrays: named -> {name: [B, ...]}; traced once.
      batches: on a mesh, this process's share of each (`mesh.share`); every process gets all examples.
      grid: the mesh, if any.

    Raises:
      ValueError: no batches.
    """

    def kept_of(params: Any, carry: Any, batch: Any) -> dict[str, jax.Array]:
        named = view(params, carry, batch, key)
        return {**arrays(named), "example_ids": named["example_ids"], "example_mask": named["example_mask"]}

    step = _jitted(kept_of, grid)
    parts = [mesh.fetch(step(params, carry, batch)) for batch in batches]
    if not parts:
        raise ValueError("there are no held-out batches to collect from")
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    kept = np.flatnonzero(whole.pop("example_mask"))
    order = kept[np.argsort(whole["example_ids"][kept], kind="stable")]
    return {name: values[order] for name, values in whole.items()}


def _jitted(step: Callable[..., Any], grid: Mesh | None) -> Callable[..., Any]:
    """(params, carry, batch, ...) -> `step` of them under jit, on the mesh if there is one."""
    if grid is None:
        return jax.jit(step)
    placed = jax.jit(placement.on(grid, step))
    return lambda params, carry, batch, *rest: placed(params, carry, mesh.put_batch(batch, grid), *rest)


class PairScores(NamedTuple):
    """Held-out pairs one by one, in the order of their ids."""

    example_ids: np.ndarray  # [N]
    margins: np.ndarray  # [N] chosen minus rejected: positive where the model agrees with the label
    chosen_change: np.ndarray | None  # [N] nats, policy minus reference; None where there is no reference
    rejected_change: np.ndarray | None  # [N] nats

    @property
    def accuracy(self) -> Estimate:
        """Share of pairs with a positive margin, ties a half, with its 95 % interval."""
        return statistics.pair_accuracy(self.margins)


def pair_arrays(named: Mapping[str, jax.Array], margin: Callable[..., jax.Array] | None = None) -> dict[str, jax.Array]:
    """`margins` [B], and with a reference `chosen_change` and `rejected_change` [B], from a view of pairs.

    Args:
      margin: function of named arrays -> [B], bound by parameter name. None takes scores where the view has them, else
        log-ratios to the reference, else log-probs, each chosen minus rejected.

    Raises:
      ValueError: the view gives none of these.
    """
    changes = {}
    if "ref_chosen_logps" in named and "chosen_logps" in named:
        changes = {
            f"{side}_change": named[f"{side}_logps"] - named[f"ref_{side}_logps"] for side in ("chosen", "rejected")
        }
    if margin is not None:
        margins = call(margin, named)
    elif "chosen_scores" in named:
        margins = named["chosen_scores"] - named["rejected_scores"]
    elif changes:
        margins = changes["chosen_change"] - changes["rejected_change"]
    elif "chosen_logps" in named:
        margins = named["chosen_logps"] - named["rejected_logps"]
    else:
        raise ValueError(f"margins need chosen_scores or chosen_logps; the view gives {', '.join(named) or 'nothing'}")
    if margins.ndim != 1:
        name = "the view" if margin is None else name_of(margin)
        raise ValueError(f"margins of {name} have shape {list(margins.shape)}; expected one a pair: give `margin`")
    return {"margins": margins, **changes}


def pair_scores(
    view: View,
    params: Any,
    carry: Any,
    batches: Batches,
    key: jax.Array,
    *,
    margin: Callable[..., jax.Array] | None = None,
    grid: Mesh | None = None,
) -> PairScores:
    """Margins and likelihood changes of every held-out pair; see `pair_arrays` for `margin`, `collect` for the rest."""
    found = collect(view, lambda named: pair_arrays(named, margin), params, carry, batches, key, grid=grid)
    return PairScores(found["example_ids"], found["margins"], found.get("chosen_change"), found.get("rejected_change"))


def response_kl(logps: np.ndarray, ref_logps: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k1, k3) estimates [N] of KL(policy || reference) in nats a response, from responses of the policy.

    k1 is the response's log-ratio; k3 sums exp(-r) - 1 + r over its tokens, r the token's log-ratio. Both are unbiased
    for the KL of whole responses if these were sampled at temperature 1 with nothing cut; k3 is never negative.

    Args:
      logps, ref_logps: [N, T] nats a token.
      where: [N, T] bool, tokens of the response.
    """
    k1, k3 = (
        np.asarray(masked.sum(k(logps, ref_logps), jnp.asarray(where), axis=1))
        for k in (divergences.k1, divergences.k3)
    )
    return k1, k3


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Samples of a policy (after) and of its reference (before) on P prompts, S each."""

    prompts: list[str]  # [P]
    before: list[list[str]]  # [P][S]
    after: list[list[str]]
    before_reward: np.ndarray  # [P, S]
    after_reward: np.ndarray
    before_lengths: np.ndarray  # [P, S] tokens, the end token counted
    after_lengths: np.ndarray
    log_ratio: np.ndarray  # [P, S] nats (k1), on responses sampled at temperature 1
    log_ratio_k3: np.ndarray  # [P, S]
    log_ratio_reward: np.ndarray  # [P, S] reward of the responses that log_ratio is of

    @property
    def win_rate(self) -> Estimate:
        """Share of prompts on which the policy's mean reward beats the reference's, ties a half (Wilson, 95 %)."""
        return statistics.win_rate(self.after_reward.mean(1), self.before_reward.mean(1))

    @property
    def gain(self) -> Estimate:
        """Mean reward gained a prompt, paired bootstrap over prompts."""
        return statistics.paired_bootstrap(self.after_reward.mean(1), self.before_reward.mean(1))

    @property
    def kl(self) -> Estimate:
        """KL(policy || reference), nats a response: mean k1, bootstrap over prompts."""
        return statistics.bootstrap(self.log_ratio.mean(1))

    @property
    def kl_k3(self) -> Estimate:
        """The same by k3, which has the smaller variance while the two policies are close."""
        return statistics.bootstrap(self.log_ratio_k3.mean(1))


def compare(
    model: Any,
    params: Any,
    reference: Any,
    prompts: Sequence[str],
    prompt_tokens: Sequence[np.ndarray],
    *,
    tokenizer: Any,
    reward: Reward,
    key: jax.Array,
    max_new_tokens: int,
    temperature: float = 1.0,
    num_samples: int = 1,
    batch_size: int = 64,
    grid: Mesh | None = None,
) -> Comparison:
    """Samples from two parameter sets of one model, their rewards, and how far the first is from the second.

    Args:
      params, reference: the policy's parameters and those it is measured against.
      prompts, prompt_tokens: P texts, which `reward` reads, and their tokens, which the model reads.
      tokenizer: gives `decode(ids)` and `eos_id`.
      reward: (prompts [N], responses [N]) -> [N].
      temperature: of the compared samples; the KL always takes samples at temperature 1.
      num_samples: S, responses a prompt.
      batch_size: prompts a device call; the result does not depend on it.
      grid: the mesh whose devices, of all processes, share the prompts; every process gets all responses.
    """
    if len(prompts) != len(prompt_tokens) or not prompts:
        raise ValueError(f"prompts has {len(prompts)} entries and prompt_tokens {len(prompt_tokens)}; expected as many")
    shape = (len(prompts), num_samples)
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]

    def draw(weights: Any, stream: int, heat: float) -> language.Samples:
        return language.sample(
            model,
            weights,
            prompt_tokens,
            key=jax.random.fold_in(key, stream),
            max_new_tokens=max_new_tokens,
            eos_id=tokenizer.eos_id,
            temperature=heat,
            num_samples=num_samples,
            batch_size=batch_size,
            mesh=grid,
        )

    def scored(samples: language.Samples) -> tuple[list[str], np.ndarray]:
        texts = [
            tokenizer.decode(r[: len(r) - end]) for r, end in zip(samples.responses(), samples.finished, strict=True)
        ]
        return texts, np.asarray(reward(repeated, texts), np.float64).reshape(shape)

    before, after = draw(reference, 0, temperature), draw(params, 1, temperature)
    plain = after if temperature == 1.0 else draw(params, 2, 1.0)
    tokens = [prompt_tokens[index] for index in plain.prompt_index]
    ref_logps = language.response_logps(
        model, reference, tokens, plain.tokens, plain.lengths, batch_size=batch_size * num_samples, mesh=grid
    )
    k1, k3 = response_kl(plain.logps, ref_logps, plain.mask)
    (before_texts, before_reward), (after_texts, after_reward) = scored(before), scored(after)
    return Comparison(
        prompts=list(prompts),
        before=_rows(before_texts, num_samples),
        after=_rows(after_texts, num_samples),
        before_reward=before_reward,
        after_reward=after_reward,
        before_lengths=before.lengths.reshape(shape),
        after_lengths=after.lengths.reshape(shape),
        log_ratio=k1.reshape(shape),
        log_ratio_k3=k3.reshape(shape),
        log_ratio_reward=after_reward if plain is after else scored(plain)[1],
    )


def held_out_prompts(dataset: Any, limit: int | None = None) -> tuple[list[str], list[np.ndarray]]:
    """Distinct held-out prompts of a data set, in its order: texts, and tokens exactly as the model is trained on them.

    Args:
      dataset: a `prefjax.data.pipeline.Dataset` whose prompts are plain texts.
      limit: at most so many; None for all.
    """
    corpus = dataset.held_out
    texts = {record["id"]: record["prompt"] for record in dataset.records}
    found: dict[str, np.ndarray] = {}
    for index, bounds in zip(corpus.ids, corpus.bounds, strict=True):
        if limit is not None and len(found) >= limit:
            break
        if not isinstance(texts[int(index)], str):
            raise ValueError(f"record {int(index)}: field 'prompt': expected a string, got messages")
        found.setdefault(texts[int(index)], corpus.tokens[bounds[0] : bounds[1]])
    if not found:
        raise ValueError("the data set holds out no prompts")
    return list(found), list(found.values())


def gold(
    run: Any,
    *,
    prompts: int = 256,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    num_samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
) -> Comparison:
    """A finished run of the gold world against its reference, by gold reward on held-out prompts.

    Args:
      run: a `prefjax.loop.Run` that carries a reference.
      prompts: held-out prompts at most.
      weights: of the gold reward's attributes; see `prefjax.data.gold.reward.gold_reward`.
      max_new_tokens, temperature, num_samples, batch_size: as in `compare`.

    Raises:
      ValueError: the run carries no reference.
    """
    reference = lora.reference(run.model, run.state.carry)
    if reference is None:
        raise ValueError("the run carries no reference to compare with; set reference=True in its config")
    texts, tokens = held_out_prompts(run.dataset, prompts)
    return compare(
        run.model,
        lora.parameters(run.model, run.state.params, run.state.carry),
        reference,
        texts,
        tokens,
        tokenizer=run.dataset.tokenizer,
        reward=lambda asked, given: gold_world.gold_reward(list(asked), list(given), weights=weights)["total"],
        key=jax.random.key(seed),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        num_samples=num_samples,
        batch_size=batch_size,
        grid=run.mesh,
    )


def run_pairs(run: Any, view: View, *, margin: Callable[..., jax.Array] | None = None) -> PairScores:
    """`pair_scores` of a run's held-out pairs under its present parameters; all processes of the run share the work."""
    return pair_scores(
        view,
        run.state.params,
        train.with_step(run.state),
        run.dataset.eval(*mesh.share(run.mesh)),
        run.key,
        margin=margin,
        grid=run.mesh,
    )


def _rows(texts: list[str], size: int) -> list[list[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]

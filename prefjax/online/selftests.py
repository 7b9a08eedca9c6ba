"""The policy's own programs run on its own tests: what passes what decides what is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prefjax import processes
from prefjax.data.gold import tasks, vocab
from prefjax.online import isolated, rollouts
from prefjax.online.rollouts import Answers, Policy, Rollout
from prefjax.transforms import execution

_select = jax.jit(execution.dstc_select)


def minimax(
    policy: Policy,
    prompts: Sequence[np.ndarray],
    key: jax.Array,
    *,
    run: str,
    separator: str = ";",
    tester: str | None = "reference",
    num_samples: int = 12,
    max_new_tokens: int = 16,
    seconds: float = 0.2,
    batch_size: int = 64,
) -> Answers:
    """Two responses a prompt, chosen and rejected, each a test and a program of the policy's own; then its own answers.

    The policy answers "test separator program" `num_samples` times, and so does the tester; every program of the first
    runs on every test of the second, in another process (`isolated.passes`), and `dstc_select` joins the best program
    with a test that it passes and the worst with one that it fails; both are of length 0 without such a pair. What is
    no such answer takes no part. found: passed, the share of the prompt's tests that the response's program passes.

    Args:
      run: "module:function", (program, test) -> whether it passes. seconds: processor time that it may take.
      tester: entry of the carry that writes the tests. None: the policy itself, whose tests and programs then come to
        agree with one another and no longer with the prompt.
    Reference: Liu et al., "DSTC: Direct Preference Learning with Only Self-Generated Tests and Code to Improve Code
      LMs", 2024, arXiv:2411.13611. Differs: one answer holds both test and program; a public review
      says that they are asked for apart.
    """
    options = {"num_samples": num_samples, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    samples = policy.sample(policy.params, prompts, key, **options)
    others = samples
    if tester is not None:
        others = policy.sample(policy.carry[tester], prompts, jax.random.fold_in(key, 1), **options)
    parts = [_parts(rollouts.texts_of(found, policy.tokenizer), separator) for found in (samples, others)]
    codes, tests = [code for _, code in parts[0]], [test for test, _ in parts[1]]
    there, tested = (np.asarray([all(part) for part in side], bool).reshape(-1, num_samples) for side in parts)
    table = np.zeros((len(prompts), num_samples, num_samples), bool)
    cells = np.argwhere(there[:, :, None] & tested[:, None, :])
    asked = [(codes[p * num_samples + c], tests[p * num_samples + t]) for p, c, t in cells]
    unique = list(dict.fromkeys(asked))
    # Clocks decide what hangs, so the first process's answers count.
    passes = processes.together(lambda: isolated.passes(unique, run=run, seconds=seconds))
    answers = dict(zip(unique, processes.agreed(passes.astype(float)) > 0, strict=True))
    table[tuple(cells.T)] = [answers[pair] for pair in asked]
    pairs = jax.tree.map(np.asarray, _select(table, code_mask=there, test_mask=tested))

    width, kinds = 2 * max_new_tokens, np.arange(2 + num_samples) >= 2
    tokens = np.zeros((len(prompts), len(kinds), width), np.int32)
    lengths, logps = np.zeros(tokens.shape[:2], np.int32), np.zeros(tokens.shape, np.float32)
    finished, passed = np.ones(lengths.shape, bool), np.zeros(lengths.shape)
    for field, given in ((tokens, samples.tokens), (logps, samples.logps)):
        field[:, kinds, : given.shape[1]] = given.reshape(len(prompts), num_samples, -1)
    lengths[:, kinds], finished[:, kinds] = (x.reshape(-1, num_samples) for x in (samples.lengths, samples.finished))
    passed[:, kinds] = table.sum(2) / np.maximum(tested.sum(1), 1)[:, None]
    for p in range(len(prompts)):
        own = slice(p * num_samples, (p + 1) * num_samples)
        pair = jax.tree.map(lambda x, p=p: x[p], pairs)
        both = execution.concatenate(codes[own], [f"{test} {separator} " for test in tests[own]], pair)
        rows = [[*policy.tokenizer.encode(text, continues=True), policy.tokenizer.eos_id] for text in both or ()]
        if rows and max(map(len, rows)) <= width:
            passed[p, ~kinds] = passed[p, kinds][[pair.chosen_code, pair.rejected_code]]
            for k, row in enumerate(rows):
                tokens[p, k, : len(row)], lengths[p, k] = row, len(row)
    made = rollouts.given(tokens[:, ~kinds].reshape(-1, width), lengths[:, ~kinds].reshape(-1), 2)
    whole = Rollout([""] * len(prompts), list(prompts), made, [""] * len(made.lengths), policy)
    logps[:, ~kinds] = policy.logps(whole, policy.params).reshape(len(prompts), 2, -1)
    found = rollouts.given(tokens.reshape(-1, width), lengths.reshape(-1), len(kinds))
    found = found._replace(logps=logps.reshape(-1, width), finished=finished.reshape(-1) & (found.lengths > 0))
    return Answers(found, kinds, {"passed": passed.reshape(-1)})


def _parts(texts: Sequence[str], separator: str) -> list[tuple[str, str]]:
    """(test, program) of each answer, ("", "") of what is none."""
    found = [[part.strip() for part in text.split(separator)] for text in texts]
    return [(part[0], part[1]) if len(part) == 2 else ("", "") for part in found]


def demonstrations(
    records: Sequence[Mapping[str, Any]], *, right: float = 0.7, solved: float = 0.5, seed: int = 0
) -> list[dict[str, Any]]:
    """Gold: prompts of the task "infer" with one answer "test ; program" each, of mixed quality: what to start from.

    The test is an example of the prompt, as a code model copies them from a docstring, its output right with
    probability `right`; the program solves the prompt with probability `solved` and is a random one else.
    """
    out = []
    for record in records:
        rng = np.random.default_rng([seed, record["id"]])
        examples = tasks.unit_tests(tuple(record["prompt"].split()[1:]))
        given, expected = examples[int(rng.integers(len(examples)))]
        output = expected if rng.random() < right else int(rng.integers(100))
        program = (tasks.answer(record["prompt"]) or "").split()
        if rng.random() >= solved:
            program = [str(word) for word in rng.choice(vocab.OPERATIONS, int(rng.integers(1, 3)))]
        text = " ".join([str(given), ">", str(output), vocab.SEPARATOR, *program])
        out.append({**record, "responses": [text]})
    return out

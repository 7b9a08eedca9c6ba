"""Step-by-step solutions of arithmetic chains as pairs of siblings, and as one prefix a step."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefjax.data.gold import reward, tasks, vocab
from prefjax.data.gold import world as worlds

Record = dict[str, Any]
Step = tuple[int, str, int, int]


def _written(steps: Sequence[Step]) -> str:
    return " ".join((vocab.OPEN, *tasks.write_steps(steps), vocab.CLOSE))


def _mistaken(rng: np.random.Generator, steps: Sequence[Step], at: int) -> list[Step]:
    """The steps with the result of step `at` off by one to three, and those after it going on from there."""
    size = len(vocab.NUMBERS)
    first, sign, operand, result = steps[at]
    value = (result + int(rng.choice([-3, -2, -1, 1, 2, 3]))) % size
    out = [*steps[:at], (first, sign, operand, value)]
    for _, sign, operand, _ in steps[at + 1 :]:
        result = tasks.apply_sign(value, sign, operand) % size
        out.append((value, sign, operand, result))
        value = result
    return out


def siblings(
    *,
    size: int,
    seed: int = 0,
    start: int = 0,
    split: str = "train",
    length: Sequence[int] = (2, 3),
    whole: bool = True,
) -> list[Record]:
    """Pairs of solutions that are the same up to a step, which is right in the chosen and wrong in the rejected one.

    Args:
      size, seed, start, split: as in `world.pairs`. length: (low, high) number of steps, inclusive.
      whole: whether both go on to their end (the rejected from its mistaken value), or stop after that step.

    Returns:
      records with fields step (index of the step at which they part), visits (one number a response: how often a search
      tried the step, 6 to 9 times the right one, 1 to 4 the wrong one), margins (difference of gold rewards).
    """
    records = worlds.prompts(size=size, seed=seed, start=start, split=split, tasks=("solve",), length=length)
    out = []
    for record in records:
        rng = np.random.default_rng([zlib.crc32(f"siblings/{split}".encode()), seed, record["id"]])
        parsed = tasks.parse(record["prompt"])
        assert parsed is not None
        right = tasks.chain_of(parsed[1])
        step = int(rng.integers(len(right)))
        both = [right, _mistaken(rng, right, step)]
        texts = [_written(steps if whole else steps[: step + 1]) for steps in both]
        gold = [float(reward.gold_reward(record["prompt"], text)["total"]) for text in texts]
        fields = {
            "step": float(step),
            "visits": [float(rng.integers(6, 10)), float(rng.integers(1, 5))],
            "margins": abs(gold[0] - gold[1]),
        }
        source = record["source"].replace("gold/prompts", "gold/siblings")
        out.append({**record, "responses": texts, "fields": fields, "source": source})
    return out


def prefixes(
    *,
    size: int,
    seed: int = 0,
    start: int = 0,
    split: str = "train",
    length: Sequence[int] = (2, 3),
    error_rate: float = 0.25,
    noise: float = 0.0,
) -> list[Record]:
    """Solutions of `world.steps`, each as a list: response k is the solution up to step k, labelled right or wrong.

    Args:
      size, seed, start, split, length, error_rate, noise: as in `world.steps`.

    Returns:
      records with the field list_labels: 1 while all steps so far are valid. What reads a response at its end reads one
      step, so the scores of a list are those of a process reward model along the solution.
    """
    out = []
    for record in worlds.steps(
        size=size, seed=seed, start=start, split=split, length=length, error_rate=error_rate, noise=noise
    ):
        words = record["responses"][0].split()
        ends = [int(end) for end in record["fields"]["step_ends"] if end >= 0]
        labels = [float(label) for label in record["fields"]["step_labels"][: len(ends)]]
        texts = [" ".join(words[: end + 1]) for end in ends]
        source = record["source"].replace("gold/steps", "gold/prefixes")
        out.append({**record, "responses": texts, "fields": {"list_labels": labels}, "source": source})
    return out

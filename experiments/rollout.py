"""Trains a stage on its own samples, from a config of configs/online; the same command resumes it, mid-round as well.

  python -m experiments.rollout --config=configs/online/grpo.py:init=runs/weak --workdir=runs/grpo
  python -m experiments.rollout --config=configs/online/algorithms.py:algorithm=online_dpo,reward=gold,init=runs/weak \\
      --workdir=runs/online_dpo --config.data.prompts_per_round=128

At the end it prints what the held-out rounds gave, and writes report.html. Failed prompts are in failures.jsonl.
"""

from __future__ import annotations

from absl import flags

from experiments import common, train


def define() -> None:
    train.define()
    flags.adopt_module_key_flags(train)  # --help shows them


def main(argv: list[str]) -> None:
    from prefjax import writers

    run = train.trained(argv)
    print(table(writers.read_jsonl(run.workdir / writers.JSONL)), flush=True)
    train.report(run)


def table(rows: list[dict]) -> str:
    """The held-out rounds of a run's metrics as lines of text: one a step, a column for each number of a rollout."""
    prefix = "eval/rollout/"
    found = [row for row in rows if any(name.startswith(prefix) for name in row)]
    names = [name for name in (found[0] if found else {}) if name.startswith(prefix)]
    lines = [["step", *(name.removeprefix(prefix) for name in names)]]
    lines += [[str(row["step"]), *(f"{row[name]:.4g}" for name in names)] for row in found]
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, wide, strict=True)) for line in lines)


if __name__ == "__main__":
    common.run(main, define)

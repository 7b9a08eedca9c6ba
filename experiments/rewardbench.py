"""Scores a run on a file in RewardBench's format: subsets, weighted section means, ties.

python -m experiments.rewardbench --workdir=runs/reward --file=reward_bench.parquet
python -m experiments.rewardbench --workdir=runs/dpo --file=reward_bench_2.jsonl --reward=implicit --output=scores.json

The numbers do not depend on --rows. A reward model is judged by its head, a policy by its log-ratio to its reference.
"""

from __future__ import annotations

import json
import pathlib

from absl import flags

from experiments import common


def define() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("file", None, "JSONL, JSON or Parquet in RewardBench's format.", required=True)
    flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest whole one by default.")
    flags.DEFINE_integer("rows", 8, "Responses a device call.", lower_bound=1)
    flags.DEFINE_integer("row_length", None, "Tokens of prompt and response; the run's by default.")
    flags.DEFINE_string("reward", "auto", "scores (of a head), implicit (log-ratio), or auto.")
    flags.DEFINE_integer("limit", None, "Read at most this many rows.")
    flags.DEFINE_string("output", None, "Where results and scores go; rewardbench.json in the run's folder.")
    common.define_cache()


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    from prefjax import loop, rewardbench

    examples, version = rewardbench.read(flags.FLAGS.file, limit=flags.FLAGS.limit)
    run = loop.load(flags.FLAGS.workdir, step=flags.FLAGS.step)
    found = rewardbench.scores(
        run, examples, rows=flags.FLAGS.rows, row_length=flags.FLAGS.row_length, reward=flags.FLAGS.reward
    )
    made = rewardbench.report(examples, found, version=version)
    print(rewardbench.table(made), flush=True)
    path = pathlib.Path(flags.FLAGS.output) if flags.FLAGS.output else run.workdir / "rewardbench.json"
    content = {
        "file": flags.FLAGS.file,
        "step": run.step,
        "version": version,
        **made.results._asdict(),
        "counts": made.counts,
        "level": made.level,
        "ties": made.ties,
        "scores": [
            {"id": e.id, "chosen": right.tolist(), "rejected": wrong.tolist()}
            for e, (right, wrong) in zip(examples, found, strict=True)
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"scores: {path}", flush=True)


if __name__ == "__main__":
    common.run(main, define)

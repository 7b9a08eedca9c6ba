"""Trains a stage on its own samples, from a config of configs/online; the same command resumes it, mid-round as well.

  python -m experiments.rollout --config=configs/online/grpo.py:init=runs/weak --workdir=runs/grpo
  python -m experiments.rollout --config=configs/online/algorithms.py:algorithm=online_dpo,reward=gold,init=runs/weak \\
      --workdir=runs/online_dpo --config.data.prompts_per_round=128

At the end it prints what the held-out rounds gave, and writes report.html. Failed prompts are in failures.jsonl.
"""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags

from experiments import common

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config file of configs/online, with its arguments after a colon.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; made if absent, resumed if it holds one.", required=True
)
_RESUME = flags.DEFINE_bool("resume", True, "Go on from the newest checkpoint; --noresume refuses such a folder.")
_REPORT = flags.DEFINE_bool("report", True, "Write report.html at the end.")
_MULTI = flags.DEFINE_bool("distributed", False, "Call jax.distributed.initialize(), one process a host.")


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    if _MULTI.value:
        import jax

        jax.distributed.initialize()
    from prefjax import loop, writers

    run = loop.fit(_CONFIG.value, _WORKDIR.value, resume=_RESUME.value)
    print(table(writers.read_jsonl(run.workdir / writers.JSONL)), flush=True)
    if _REPORT.value:
        common.finish({run.config.name: run}, run.workdir / "report.html")


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
    flags.mark_flag_as_required("config")
    common.run(main)

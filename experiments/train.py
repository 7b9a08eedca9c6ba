"""Trains one stage from a config; the same command resumes it.

  python -m experiments.train --config=configs/preference/dpo.py:runlocal --workdir=runs/dpo
  python -m experiments.train --config=configs/preference/dpo.py:data=pairs.jsonl,init=runs/sft --workdir=runs/dpo \\
      --config.optimizer.learning_rate=1e-4 --config.steps=500

Every field of the config is a flag (--config.<field>=...). The workdir holds config.json, versions, metrics.jsonl,
TensorBoard files, checkpoints, the tokenizer and report.html.
"""

from __future__ import annotations

from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import common


def define() -> None:
    config_flags.DEFINE_config_file(
        "config", None, "A config file, with its arguments after a colon.", lock_config=True
    )
    flags.DEFINE_string("workdir", None, "Folder of the run; made if absent, resumed if it holds one.", required=True)
    flags.DEFINE_bool("resume", True, "Go on from the newest checkpoint; --noresume refuses such a folder.")
    flags.DEFINE_bool("report", True, "Write report.html at the end.")
    flags.DEFINE_bool("show_samples", True, "Show texts in the report; turn off for offensive data.")
    common.define_distributed()
    common.define_cache()
    flags.mark_flag_as_required("config")


def trained(argv: list[str]) -> Any:
    """The run that the flags describe, at its last step."""
    common.no_arguments(argv)
    common.begin_distributed()
    from prefjax import loop

    return loop.fit(flags.FLAGS.config, flags.FLAGS.workdir, resume=flags.FLAGS.resume)


def report(run: Any) -> None:
    """Writes report.html into the run's folder, unless --noreport."""
    if flags.FLAGS.report:
        common.finish({run.config.name: run}, run.workdir / "report.html", show_samples=flags.FLAGS.show_samples)


def main(argv: list[str]) -> None:
    report(trained(argv))


if __name__ == "__main__":
    common.run(main, define)

"""Trains a stage on its own samples, from a config of configs/online; the same command resumes it.

  python -m experiments.rollout --config=configs/online/grpo.py:init=runs/sft --workdir=runs/grpo

It is `experiments.train` with a table of what the rounds gave: each config works with either.
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


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    from prefjax import loop

    run = loop.fit(_CONFIG.value, _WORKDIR.value)
    print(run.step)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    common.run(main)

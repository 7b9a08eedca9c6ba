"""The whole way in a few minutes on two cores: supervised tuning, a reward model, DPO, evaluation, one report.

  python -m experiments.quickstart --workdir=runs/quickstart

On the gold world, whose true reward is a program, so that every number can be checked. Run it again and it goes on
where it was stopped.
"""

from __future__ import annotations

import pathlib
import time

from absl import flags

from experiments import common


def define() -> None:
    flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the three runs and the report.")
    flags.DEFINE_integer("seed", 0, "Of the world's records, the parameters and the order of the data.")
    flags.DEFINE_bool("runlocal", False, "A tiny version in seconds, which learns little.")
    common.define_cache()


TARGET = 0.7
NOTES = {
    "Supervised tuning": "A small decoder learns from demonstrations of mixed quality.",
    "Reward model": "A scalar head on the supervised model learns from pairs of responses (Bradley-Terry).",
    "DPO": "The supervised policy is tuned on the same pairs; it is its own reference.",
}


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    from configs.language import sft
    from configs.preference import dpo
    from configs.reward import bradley_terry
    from prefjax import loop
    from prefjax.config import ref
    from prefjax.evaluation import gold

    began = time.monotonic()
    folder = pathlib.Path(flags.FLAGS.workdir)
    local = "runlocal" if flags.FLAGS.runlocal else ""
    start = ",".join(filter(None, [local, f"init={folder / 'sft'}"]))
    supervised, rewarded, tuned = sft.get_config(local), bradley_terry.get_config(start), dpo.get_config(start)
    for config in (supervised, rewarded, tuned):
        config.update({"seed": flags.FLAGS.seed, "data": {"seed": flags.FLAGS.seed}})
    runs = {"Supervised tuning": loop.fit(supervised, folder / "sft")}
    runs["Reward model"] = loop.fit(rewarded, folder / "reward")
    tuned.evaluate = ref(gold, prompts=32 if flags.FLAGS.runlocal else 256)
    runs["DPO"] = loop.fit(tuned, folder / "dpo")
    summary = "Supervised tuning, a reward model and DPO on the gold world, where the true reward is known."
    common.finish(runs, folder / "report.html", title="Quickstart", summary=summary, notes=NOTES, target=TARGET)
    print(f"done in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    common.run(main, define)

"""Re-makes the evaluation and report.html of a run from any of its checkpoints.

python -m experiments.evaluate --workdir=runs/dpo
python -m experiments.evaluate --workdir=runs/dpo --step=100 --output=step100.html
"""

from __future__ import annotations

from absl import flags

from experiments import common


def define() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest whole one by default.")
    flags.DEFINE_string("output", None, "Where the report goes; report.html in the run's folder by default.")
    flags.DEFINE_bool("show_samples", True, "Show texts in the report; turn off for offensive data.")
    common.define_distributed()
    common.define_cache()


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    common.begin_distributed()
    import jax

    from prefjax import loop

    run = loop.load(flags.FLAGS.workdir, step=flags.FLAGS.step)
    found = run.evaluate()
    if jax.process_index() == 0:
        for name, value in sorted(found.items()):
            print(f"{name}: {value:.6g}")
    common.finish(
        {run.config.name: run}, flags.FLAGS.output or run.workdir / "report.html", show_samples=flags.FLAGS.show_samples
    )


if __name__ == "__main__":
    common.run(main, define)

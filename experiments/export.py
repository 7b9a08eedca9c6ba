"""Writes a run as a folder that transformers loads: config.json, safetensors, tokenizer, chat template.

python -m experiments.export --workdir=runs/dpo --output=exported
python -m experiments.export --workdir=runs/dpo --output=exported --dtype=bfloat16 --step=100
python -m experiments.export --workdir=runs/dpo_lora --output=adapter --adapter
"""

from __future__ import annotations

from absl import flags

from experiments import common


def define() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("output", None, "Folder to write, new or empty.", required=True)
    flags.DEFINE_integer("step", None, "Checkpoint to write; the newest whole one by default.")
    flags.DEFINE_string("dtype", None, "Type of the parameters, such as bfloat16; the run's by default.")
    flags.DEFINE_string("architecture", None, "A model_type or class name; the first that fits by default.")
    flags.DEFINE_string("pad_token", None, "Text of the token that pads batches; none by default.")
    flags.DEFINE_bool("adapter", False, "The adapters alone, in PEFT's format, instead of merged parameters.")
    common.define_cache()


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    from prefjax import export

    values = flags.FLAGS
    export.export(
        values.workdir,
        values.output,
        step=values.step,
        dtype=values.dtype,
        architecture=values.architecture,
        pad_token=values.pad_token,
        adapter=values.adapter,
    )
    print(f"written: {values.output}", flush=True)


if __name__ == "__main__":
    common.run(main, define)

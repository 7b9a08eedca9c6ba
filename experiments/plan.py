"""What a step of a config takes on devices that one does not have: memory, FLOPs, collectives, expected time.

  python -m experiments.plan --devices=v5p-256 --config=configs/preference/dpo.py --config.mesh.fsdp=128 \\
      --config.mesh.data=1 --config.data.rows=256
  python -m experiments.plan --devices=h100-64 --config=configs/preference/dpo_lora.py --config.mesh.fsdp=8

The step is compiled on this machine's CPU for as many fake devices; no parameter is made. Memory is that of the program
which the CPU compiler makes: matrix products in bfloat16 may hold float32 copies there that other devices do not.
"""

from __future__ import annotations

import pathlib
import tempfile

from absl import flags
from ml_collections import config_flags

from experiments import common


def define() -> None:
    config_flags.DEFINE_config_file(
        "config", None, "A config file, with its arguments after a colon.", lock_config=True
    )
    flags.DEFINE_string("devices", None, "Kind and number, such as v5p-256, v5e-16, h100-64.", required=True)
    flags.DEFINE_float("efficiency", 0.5, "Share of the peak that matrix products reach.")
    flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    import jax

    jax.config.update("jax_platforms", "cpu")  # the environment was read when the config was
    from prefjax import plan

    kind, count = plan.parse(flags.FLAGS.devices)
    jax.config.update("jax_num_cpu_devices", count)
    from prefjax import loop, mesh

    config = loop.resolve(flags.FLAGS.config)
    grid = mesh.make_mesh(config.mesh)
    if grid.size != count:
        sizes = ", ".join(f"{name}={size}" for name, size in grid.shape.items())
        raise ValueError(
            f"--devices={flags.FLAGS.devices} are {count}, but the mesh {sizes} uses {grid.size}; set config.mesh"
        )
    with tempfile.TemporaryDirectory() as folder:
        made = plan.make(config, pathlib.Path(folder), chip=plan.CHIPS[kind], efficiency=flags.FLAGS.efficiency)
    print(plan.table(made, kind, plan.CHIPS[kind], grid.shape), flush=True)


if __name__ == "__main__":
    common.run(main, define)

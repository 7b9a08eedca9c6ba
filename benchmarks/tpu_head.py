"""Memory that the output head takes on TPUs, by its kernel and in chunks, compiled without a TPU at hand.

  pip install libtpu                                  # jax's own; the log it prints about missing hardware is expected
  python benchmarks/tpu_head.py --topology=v5e:2x2    # one device of it; or v4:2x2x1, v6e:2x2
  python benchmarks/tpu_head.py --topology=v5e:2x4 --mesh=data:2,fsdp:2,tensor:2      # all devices of it

Forward and backward of 8,192 tokens a device of 2,048 numbers in bfloat16 at 128,256 words, unless told otherwise.
"""

import argparse
import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from prefjax import mesh as meshes
from prefjax.models import placement
from prefjax.models.decoder import Unembed
from prefjax.ops import head_tpu, logprobs

jax.device_count = lambda: 1  # of the host that compiles; what it compiles for is a mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--mesh", default="data:1", help="axis:size,... over devices of the topology")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    for name, default in {"rows": 8, "length": 1024, "width": 2048, "vocab": 128256}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    devices = topologies.get_topology_desc(topology_name=args.topology, platform="tpu").devices
    axes = {axis: int(size) for axis, size in (part.split(":") for part in args.mesh.split(","))}
    grid = meshes.make_mesh(axes, devices)
    rows = args.rows * grid.shape["data"] * grid.shape["fsdp"]

    def like(shape: tuple[int, ...], dtype: str, *spec: object) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(grid, PartitionSpec(*spec)))

    states = like((rows, args.length, args.width), args.dtype, placement.AXES)
    kernel = like((args.width, args.vocab), args.dtype, "fsdp", "tensor")
    targets, where = (like((rows, args.length), dtype, placement.AXES) for dtype in ("int32", "bool"))

    def total(states, kernel, targets, where):
        parts = placement.token_parts(rows, args.length)

        def of_rows(head, *own):
            return logprobs.row_logps(own[0], head.kernel, *own[1:], parts=parts)

        return placement.by_token(of_rows, Unembed(kernel, None, None), states, targets, where).sum()

    for name, by_kernel in {"kernel": True, "chunks": False}.items():
        head_tpu.here = lambda by_kernel=by_kernel: by_kernel
        traced = jax.jit(placement.on(grid, jax.grad(total, (0, 1)))).trace(states, kernel, targets, where)
        memory = traced.lower(lowering_platforms=("tpu",)).compile().memory_analysis()
        print(f"{args.topology} {name}: {memory.temp_size_in_bytes / 1e6:,.1f} MB of temporaries a device")


if __name__ == "__main__":
    main()

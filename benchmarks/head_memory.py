"""Memory that the output head takes on TPUs and GPUs, by its kernel and in chunks, compiled without one at hand.

  pip install libtpu                                     # jax's own; what it logs about missing hardware is expected
  python benchmarks/head_memory.py --topology=v5e:2x2    # one device of it; or v4:2x2x1, v6e:2x2
  python benchmarks/head_memory.py --topology=v5e:2x4 --mesh=data:2,fsdp:2,tensor:2      # all devices of it

  pip install "jax[cuda12]"
  python benchmarks/head_memory.py --topology=h100:1x1x1 # slices x hosts x devices

Forward and backward of 8,192 tokens a device of 2,048 numbers in bfloat16 at 128,256 words, unless told otherwise.
"""

import argparse

import ahead
import jax
from jax.sharding import NamedSharding, PartitionSpec

from prefjax import mesh as meshes
from prefjax.models import placement
from prefjax.models.decoder import Unembed
from prefjax.ops import head_gpu, head_slices, head_tpu, logprobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--mesh", default="data:1", help="axis:size,... over devices of the topology")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--head_dtype", default="bfloat16", choices=("bfloat16", "float32"))
    for name, default in {"rows": 8, "length": 1024, "width": 2048, "vocab": 128256}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    platform, devices = ahead.devices_of(args.topology)
    axes = {axis: int(size) for axis, size in (part.split(":") for part in args.mesh.split(","))}
    grid = meshes.make_mesh(axes, devices)
    jax.device_count = lambda: grid.size
    rows = args.rows * grid.shape["data"] * grid.shape["fsdp"]

    def like(shape: tuple[int, ...], dtype: str, *spec: object) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(grid, PartitionSpec(*spec)))

    states = like((rows, args.length, args.width), args.dtype, placement.AXES)
    kernel = like((args.width, args.vocab), args.head_dtype, "fsdp", "tensor")
    targets, where = (like((rows, args.length), dtype, placement.AXES) for dtype in ("int32", "bool"))

    def total(states, kernel, targets, where):
        parts = placement.token_parts(rows, args.length)

        def of_rows(head, *own):
            return logprobs.row_logps(own[0], head.kernel, *own[1:], parts=parts)

        return placement.by_token(of_rows, Unembed(kernel, None, None), states, targets, where).sum()

    def measure(name: str) -> None:
        jax.clear_caches()
        for passes, fn in {"forward": total, "forward and backward": jax.grad(total, (0, 1))}.items():
            step = jax.jit(placement.on(grid, fn))
            size = ahead.compiled(step, states, kernel, targets, where, platform=platform).temp_size_in_bytes / 1e6
            print(f"{args.topology}, {args.mesh}, {passes}, {name}: {size:,.1f} MB of temporaries a device")

    measure("kernel")
    for module in (head_tpu, head_gpu):
        module.here = lambda: False
    if platform == "cuda" and grid.size == 1:
        measure("slices and chunks")
        head_slices.in_slices = lambda kernel, hidden: kernel
    measure("chunks")


if __name__ == "__main__":
    main()

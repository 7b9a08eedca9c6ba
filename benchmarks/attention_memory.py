"""Memory that attention takes on a TPU, by the splash kernel and in the plain form, compiled without one at hand.

  pip install libtpu                                       # jax's own
  python benchmarks/attention_memory.py --topology=v5e:2x2 # one device of it

Forward and backward of 2 causal rows of 4,096 tokens, 8 heads of 128 of queries and 2 of keys, in bfloat16, unless told
otherwise.
"""

import argparse

import ahead
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from prefjax.models import attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    for name, default in {"rows": 2, "length": 4096, "heads": 8, "groups": 2, "head_dim": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    platform, devices = ahead.devices_of(args.topology)
    jax.device_count = lambda: 1

    def like(heads: int) -> jax.ShapeDtypeStruct:
        shape = (args.rows, heads, args.length, args.head_dim)
        return jax.ShapeDtypeStruct(shape, args.dtype, sharding=SingleDeviceSharding(devices[0]))

    arrays = like(args.heads), like(args.groups), like(args.groups)
    for backend in ("splash", "plain"):

        def total(q, k, v, backend=backend):
            mask = jnp.tril(jnp.ones((1, args.length, args.length), bool))
            out = attention.attend(q, k, v, mask, scale=args.head_dim**-0.5, backend=backend, causal=True)
            return out.astype(jnp.float32).sum()

        memory = ahead.compiled(jax.jit(jax.grad(total, (0, 1, 2))), *arrays, platform=platform)
        print(f"{args.topology}, {backend}: {memory.temp_size_in_bytes / 1e6:,.1f} MB of temporaries")


if __name__ == "__main__":
    main()

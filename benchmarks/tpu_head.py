"""Memory that the output head takes on a TPU, by its kernel and in chunks, compiled without a TPU at hand.

  pip install libtpu                                  # jax's own; the log it prints about missing hardware is expected
  python benchmarks/tpu_head.py --topology=v5e:2x2    # one device of it; or v4:2x2x1, v6e:2x2

Forward and backward of 8,192 tokens of 2,048 numbers in bfloat16 at 128,256 words, unless told otherwise.
"""

import argparse
import functools
import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from prefjax.ops import head_tpu, logprobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    for name, default in {"tokens": 8192, "width": 2048, "vocab": 128256}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    device = topologies.get_topology_desc(topology_name=args.topology, platform="tpu").devices[0]
    like = functools.partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
    hidden, kernel = (like(shape, args.dtype) for shape in ((args.tokens, args.width), (args.width, args.vocab)))
    targets, where = like((args.tokens,), "int32"), like((args.tokens,), "bool")
    chunk = logprobs.default_chunk(args.tokens, args.vocab)
    forms = {
        "kernel": lambda h, k, t, w: head_tpu.logps(h, k, t, w)[0],
        "chunks": lambda h, k, t, w: logprobs.token_logps(h, k, t, where=w, chunk=chunk),
    }
    for name, form in forms.items():
        grads = jax.grad(lambda h, k, t, w, form=form: form(h, k, t, w).sum(), (0, 1))
        compiled = jax.jit(grads).trace(hidden, kernel, targets, where).lower(lowering_platforms=("tpu",)).compile()
        print(f"{args.topology} {name}: {compiled.memory_analysis().temp_size_in_bytes / 1e6:,.1f} MB of temporaries")


if __name__ == "__main__":
    main()

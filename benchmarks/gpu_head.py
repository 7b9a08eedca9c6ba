"""The output head on a GPU, by its kernel and in chunks: time and temporaries, forward and with the backward pass.

  pip install "jax[cuda12]"
  python benchmarks/gpu_head.py        # both in turn, medians, and how far their values lie apart

8,192 tokens of 2,048 numbers in bfloat16 at 128,256 words, unless told otherwise.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from prefjax.ops import head_chunks, head_gpu, logprobs


def passes(chunk: int) -> dict:
    """{pass: {form: fn(hidden, kernel, targets, where)}}."""
    forms = {
        "kernel": lambda h, k, t, w: head_gpu.logps(h, k, t, w, chunk=chunk)[0],
        "chunks": lambda h, k, t, w: logprobs.token_logps(h, k, t, where=w, chunk=chunk),
    }

    def grads(form):
        return jax.value_and_grad(lambda h, k, t, w: form(h, k, t, w).sum(), (0, 1))

    return {"forward": forms, "forward and backward": {name: grads(form) for name, form in forms.items()}}


def arrays(args: argparse.Namespace) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (args.tokens, args.width), args.dtype)
    kernel = (jax.random.normal(keys[1], (args.width, args.vocab)) / args.width**0.5).astype(args.head_dtype)
    targets = jax.random.randint(keys[2], (args.tokens,), 0, args.vocab)
    return hidden, kernel, targets, jax.random.uniform(keys[3], (args.tokens,)) < args.asked


def seconds(fn, inputs: tuple) -> float:
    start = time.perf_counter()
    jax.block_until_ready(fn(*inputs))
    return time.perf_counter() - start


def megabytes(compiled) -> str:
    return f"{compiled.memory_analysis().temp_size_in_bytes / 1e6:,.1f} MB of temporaries"


def measure(args: argparse.Namespace, chunk: int) -> None:
    inputs = arrays(args)
    picked = "picked" if head_gpu.usable(*inputs[:2]) else "not picked"
    print(f"{jax.devices()[0].device_kind}, where the kernel is {picked}")
    for name, forms in passes(chunk).items():
        compiled = {form: jax.jit(fn).lower(*inputs).compile() for form, fn in forms.items()}
        leaves = [[np.asarray(x, np.float32) for x in jax.tree.leaves(fn(*inputs))] for fn in compiled.values()]
        apart = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(*leaves, strict=True))
        times = [{form: seconds(fn, inputs) for form, fn in compiled.items()} for _ in range(args.rounds + 2)][2:]
        medians = {form: statistics.median(each[form] for each in times) for form in compiled}
        for form, fn in compiled.items():
            print(f"{name}, {form}: {1e3 * medians[form]:.2f} ms, {megabytes(fn)}")
        ratio = medians["chunks"] / medians["kernel"]
        print(f"{name}: the kernel is {ratio:.2f} times as fast; apart by {apart:.1e} of the largest value at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--head_dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--asked", type=float, default=1.0, help="share of tokens that are asked for")
    for name, default in {"tokens": 8192, "width": 2048, "vocab": 128256, "rounds": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    chunk = head_chunks.default_chunk(args.tokens, args.vocab)
    measure(args, chunk)


if __name__ == "__main__":
    main()

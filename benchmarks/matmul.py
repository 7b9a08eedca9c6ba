"""GFLOP/s of the step's matrix products, the best of many tries, in whatever library the python has.

python benchmarks/matmul.py        # with torch or, failing that, jax
"""

import time

SHAPES = [(3584, 256, 1024), (3584, 1024, 256), (448, 256, 32000), (448, 32000, 256), (2048, 2048, 2048)]


def products():
    """(name, shape -> () -> None that runs a product to its end)."""
    try:
        import torch

        torch.set_num_threads(2)

        def by_torch(m, k, n):
            a, b = torch.rand(m, k), torch.rand(k, n)
            return lambda: torch.mm(a, b)

        return f"torch {torch.__version__}", by_torch
    except ImportError:
        import jax

        product = jax.jit(lambda a, b: a @ b)

        def by_jax(m, k, n):
            a, b = (jax.random.uniform(jax.random.key(0), shape) for shape in ((m, k), (k, n)))
            return lambda: product(a, b).block_until_ready()

        return f"jax {jax.__version__}", by_jax


def main():
    name, make = products()
    print(name)
    for shape in SHAPES:
        run, seconds = make(*shape), []
        for _ in range(60):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        m, k, n = shape
        print(f"  [{m}, {k}] [{k}, {n}]: {2e-9 * m * k * n / min(seconds):.0f}")


if __name__ == "__main__":
    main()

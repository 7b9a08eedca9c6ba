"""Memory that a whole step of `experiments.bench` takes on a GPU or TPU, compiled without one at hand.

  pip install "jax[cuda12]"
  PYTHONPATH=. python benchmarks/step_memory.py --case=dpo_1b --topology=h100:1x1x1     # slices x hosts x devices

The device's own memory limits nothing: an H200 takes what an H100 does. With libtpu also --topology=v5e:2x2.
"""

import argparse

import ahead
import jax
import optax
from jax.sharding import SingleDeviceSharding

from experiments import bench
from prefjax import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="dpo_1b", help="a case of experiments.bench that trains without adapters")
    parser.add_argument("--topology", default="h100:1x1x1")
    args = parser.parse_args()
    task, shape = bench.parse(args.case)
    batch = bench.batches_of(shape)[0][0]
    platform, devices = ahead.devices_of(args.topology)
    jax.device_count = lambda: 1
    model = bench.model_of(shape, **({} if task in bench.SCORED else {"outputs": 1, "lm_head": False}))
    tx = optax.adamw(1e-4)

    def begin(key):
        params = model.init(key)
        carry = {} if shape.stored or task not in ("dpo", "list", "kto") else {"reference": params}
        return train.init_state(params, tx, carry)

    def placed(tree):
        where = SingleDeviceSharding(devices[0])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)

    state, key = jax.eval_shape(begin, jax.random.key(0)), jax.eval_shape(lambda: jax.random.key(1))
    step = jax.jit(train.make_step(bench.objective_of(task, model), tx), donate_argnums=0)
    memory = ahead.compiled(step, placed(state), placed(batch), placed(key), platform=platform)
    held, more = (size / 1e9 for size in (memory.argument_size_in_bytes, memory.temp_size_in_bytes))
    count = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"{args.topology}, {args.case}: {count / 1e6:,.0f} million parameters, {bench.useful_tokens(batch):,} tokens")
    print(f"{held:.2f} GB of state and batch, {more:.2f} GB of temporaries")


if __name__ == "__main__":
    main()

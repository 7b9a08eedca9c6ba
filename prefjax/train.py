"""The train step: differentiate an objective, update parameters, refresh what is carried."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from prefjax.objective import Accumulated, Objective, described, is_coupled
from prefjax.ops import options
from prefjax.ops.masked import Mean, divide
from prefjax.ops.parted import varies_over

Refresh = Callable[[Any, Any, dict[str, Any]], Any]
Step = Callable[..., tuple["State", dict[str, jax.Array]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a run is: what is learned, what is carried, how far it is. Every part is in every checkpoint."""

    params: Any
    opt_state: Any
    carry: Any
    step: jax.Array


def init_state(params: Any, tx: optax.GradientTransformation, carry: Any = None) -> State:
    """A fresh state at step 0."""
    return State(params, tx.init(params), {} if carry is None else carry, jnp.zeros((), jnp.int32))


def with_step(state: State) -> dict[str, Any]:
    """The carry as objectives see it: with the step, which schedules read."""
    return {**state.carry, "step": state.step}


def value_and_grad(objective: Objective, axis_name: str | None = None) -> Callable[..., Any]:
    """(params, carry, batch, key) -> ((loss, {metric: Mean}), gradients), exact for any split of the batch.

    With denominators W_k of the whole batch known first, the gradient of sum_k T_k / W_k is a plain sum over
    micro-batches and devices.

    Args:
      objective: as made by compose, add, scale or accumulate.
      axis_name: the mapped axis inside `jax.shard_map` or `jax.pmap`; None under plain `jax.jit`.

    Raises:
      ValueError: at trace time, a coupled loss on an axis of several devices: each would see its own examples alone.
    """
    steps = objective.steps if isinstance(objective, Accumulated) else 1
    inner = objective.objective if isinstance(objective, Accumulated) else objective

    def across(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def fn(params: Any, carry: Any, batch: Any, key: jax.Array) -> Any:
        if axis_name is not None:
            if is_coupled(inner) and jax.lax.axis_size(axis_name) > 1:
                raise ValueError(
                    f"axis_name={axis_name!r}: {described(inner)} couples the examples of a batch, and each device "
                    "would see its own alone; use plain jax.jit on a mesh, where statistics are the whole batch's"
                )
            params, carry = (varying(tree, axis_name) for tree in (params, carry))

        def part(params: Any, micro: Any, key: jax.Array, weight: Any) -> tuple[jax.Array, Any]:
            mean, metrics = inner(params, carry, micro, key)
            return Mean(mean.total, mean.weight if weight is None else weight).value, (mean, metrics)

        if steps == 1 and axis_name is None:
            (loss, (_, metrics)), grads = jax.value_and_grad(part, has_aux=True)(params, batch, key, None)
            return (loss, metrics), grads

        micros = (
            objective.split(batch)
            if isinstance(objective, Accumulated)
            else jax.tree.map(lambda x: jnp.expand_dims(x, 0), batch)
        )
        keys = key[None] if steps == 1 else jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(steps))
        weights = jax.lax.map(lambda item: inner(params, carry, *item)[0].weight, (micros, keys))
        weight = across(jax.tree.map(lambda w: jnp.sum(w, axis=0), weights))

        def body(total: Any, item: Any) -> tuple[Any, None]:
            micro, key = item
            (_, aux), grads = jax.value_and_grad(part, has_aux=True)(params, micro, key, weight)
            return jax.tree.map(jnp.add, total, (aux, grads)), None

        first, rest = (jax.tree.map(lambda x, i=i: x[i], (micros, keys)) for i in (0, slice(1, None)))
        (_, aux), grads = jax.value_and_grad(part, has_aux=True)(params, *first, weight)
        total = (aux, grads) if steps == 1 else jax.lax.scan(body, (aux, grads), rest)[0]
        (mean, metrics), grads = across(total)
        return (Mean(mean.total, weight).value, metrics), grads

    return fn


def varying(tree: Any, axis_name: str) -> Any:
    """Marks replicated arrays as per-device inside `jax.shard_map`, whose transpose would else sum gradients twice."""

    def cast(x: jax.Array) -> jax.Array:
        return x if axis_name in varies_over(x) else jax.lax.pcast(x, axis_name, to="varying")

    return jax.tree.map(cast, tree)


def make_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    refresh: Refresh | None = None,
    *,
    axis_name: str | None = None,
) -> Step:
    """step(state, batch, key) -> (state, metrics): one update, pure, to be jitted by the caller.

    Args:
      objective: the objective to minimise.
      tx: the optimizer.
      refresh: (carry, params, aux) -> carry, run after the update; aux holds `step` (updates done) and `metrics`
        ({name: Mean} of this batch). None leaves the carry as it is.
      axis_name: the mapped axis of the per-device form (`jax.shard_map`, `jax.pmap`).

    Returns:
      A function whose metrics are f32 scalars: `loss`, `grad_norm` and the objective's own.
    """
    gradients = value_and_grad(objective, axis_name)

    def step(state: State, batch: Any, key: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        (loss, metrics), grads = gradients(state.params, with_step(state), batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        done = state.step + 1
        carry = refresh(state.carry, params, {"step": done, "metrics": metrics}) if refresh else state.carry
        values = {name: mean.value for name, mean in metrics.items()}
        return State(params, opt_state, carry, done), {"loss": loss, "grad_norm": optax.global_norm(grads), **values}

    return step


class Compiled(NamedTuple):
    """What compiling a program took.

    Attributes:
      seconds: of tracing and compiling, or of reading the compile cache.
      memory: of one device, jax's `CompiledMemoryStats`; None where the backend cannot say.
    """

    seconds: float
    memory: Any

    def __str__(self) -> str:
        text = f"compiled in {self.seconds:.1f} s"
        if self.memory is None:
            return text
        held, more = (x / 1e6 for x in (self.memory.argument_size_in_bytes, self.memory.temp_size_in_bytes))
        return f"{text}; on a device it takes {held:,.1f} MB of arguments and {more:,.1f} MB of temporaries"


def compile_ahead(jitted: Any, *args: Any) -> Compiled:
    """Compiles what `jitted(*args)` will run, so that no call's time has it in it; nothing is run.

    jax keeps the program: the call finds it, and calls with other shapes compile as ever.
    """
    began = time.monotonic()
    program = jitted.lower(*args).compile()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone, which else keeps what compiling took, some 100 MB
        ctypes.CDLL(None).malloc_trim(0)
    return Compiled(time.monotonic() - began, program.memory_analysis())


def compiler_options() -> dict[str, int] | None:
    """For `jax.jit` of a step: 512-bit loops where the processor has them; XLA's 256 took 10 to 15 % more time."""
    return {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else None


def make_eval(objective: Objective) -> Callable[..., dict[str, Mean]]:
    """(params, carry, batch, key) -> {metric: Mean}, with `loss`; add the Means of all batches, then take `.value`."""

    def evaluate(params: Any, carry: Any, batch: Any, key: jax.Array) -> dict[str, Mean]:
        mean, metrics = objective(params, carry, batch, key)
        return {"loss": mean, **metrics}

    return evaluate


def snapshot(params: Any, *, name: str = "previous") -> dict[str, Any]:
    """A config's `carry`: {name: a copy of the initial parameters}; what follows them is a refresh, such as `ema`."""
    return {name: jax.tree.map(jnp.copy, params)}


def running(params: Any, *, name: str) -> dict[str, Any]:
    """A config's `carry`: {name: a mean of nothing yet}, for `running_mean`; views give its value under the name."""
    del params
    return {name: Mean(jnp.zeros(()), jnp.zeros(()))}


def ema(
    carry: Any, params: Any, aux: dict[str, Any], *, name: str = "reference", mix: float = 0.6, every: int = 512
) -> Any:
    """A refresh: carry[name] <- mix * params + (1 - mix) * carry[name] after every `every`-th step.

    mix=1 is a hard copy; every=1 with a small mix is the exponential moving average of a teacher. With name="reference"
    this is the reference update of TR-DPO.

    Args:
      carry: holds `name`, a tree like `params`.
      params: the parameters after the update.
      aux: holds `step`, the number of updates done.
      name: which entry of the carry follows.
      mix: in [0, 1], the share of `params`.
      every: steps between updates, at least 1.
    Reference: Gorbatovski et al., "Learn Your Reference Model for Real Good Alignment", 2024, arXiv:2404.09656.
      Reported: TRL's `ref_model_mixup_alpha` (0.6) and `ref_model_sync_steps` (512).
    """
    due = aux["step"] % every == 0
    held = options.choose(carry, name=name)
    mixed = jax.tree.map(lambda old, new: jnp.where(due, mix * new + (1 - mix) * old, old), held, params)
    return {**carry, name: mixed}


def running_mean(
    carry: Any, params: Any, aux: dict[str, Any], *, name: str, metric: str, decay: float | None = None
) -> Any:
    """A refresh: carry[name] follows the mean of a metric; all history alike (decay=None) or exponentially forgotten.

    Args:
      carry: holds `name`, a `Mean` of scalars (start with `Mean(0., 0.)`).
      params: not read.
      aux: holds `metrics`, {name: Mean} of the batch.
      name: which entry of the carry is updated.
      metric: which metric it follows.
      decay: in [0, 1), weight of the past per step; None keeps everything. A metric of weight 0 moves nothing.

    Raises:
      ValueError: the carry has no `name`, or the batch no such metric.
    """
    del params
    old, new = Mean(*options.choose(carry, name=name)), options.choose(aux["metrics"], metric=metric)
    if decay is None:
        return {**carry, name: old + new}
    share = jnp.where(old.weight == 0, 0.0, decay)
    mixed = share * old.value + (1 - share) * divide(new.total, new.weight)
    empty = jnp.asarray(new.weight) == 0
    return {**carry, name: Mean(jnp.where(empty, old.total, mixed), jnp.where(empty, old.weight, 1.0))}

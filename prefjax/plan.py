"""What a run would take on devices that one does not have: memory, arithmetic, communication and time of a step.

The step is compiled for as many fake CPU devices as the mesh asks for: shapes, shardings and collectives are the real
ones, since the partitioner is the same. Arithmetic is counted in the program before partitioning, loops of known length
included. Kernels for TPUs and GPUs are planned as what stands in for them on a CPU: the output head in chunks where a
device's own kernel holds no logits, attention left to "auto" as "plain" where cuDNN and splash hold no [T, T] array. So
memory there is less than planned.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prefjax import loop, mesh, recipe, train
from prefjax.config import build, did_you_mean
from prefjax.models import placement, sharding
from prefjax.models.quantized import bytes_of
from prefjax.ops.native import library as native


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device, by its maker's figures.

    Attributes:
      flops: dense bf16 products a second. memory: bytes. bandwidth: of its memory, bytes a second.
      link: bytes a second between devices, one way, all links of a device together. per_unit: devices that count in
        the name of a slice ("v5p-256" has 128 chips of two cores).
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    per_unit: float = 1.0


CHIPS: dict[str, Chip] = {
    "v4": Chip(275e12, 32e9, 1.23e12, 300e9, 0.5),
    "v5e": Chip(197e12, 16e9, 0.82e12, 200e9),
    "v5p": Chip(459e12, 95e9, 2.77e12, 600e9, 0.5),
    "v6e": Chip(918e12, 32e9, 1.64e12, 448e9),
    "a100": Chip(312e12, 80e9, 2.04e12, 300e9),
    "h100": Chip(989e12, 80e9, 3.35e12, 450e9),
    "h200": Chip(989e12, 141e9, 4.8e12, 450e9),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4,
          "s64": 8, "u64": 8, "f64": 8}  # fmt: skip


def parse(devices: str) -> tuple[str, int]:
    """("v5p", 128) for "v5p-256".

    Raises:
      ValueError: an unknown kind, or no number of devices.
    """
    kind, _, size = devices.partition("-")
    if kind not in CHIPS:
        raise ValueError(f"devices={devices!r}: {kind!r} is unknown; {did_you_mean(kind, CHIPS)}")
    if not size.isdigit() or int(size) < 1:
        raise ValueError(f"devices={devices!r}: expected a kind and a number, such as v5p-256 or h100-64")
    return kind, max(1, int(int(size) * CHIPS[kind].per_unit))


def matmul_flops(jaxpr: Any) -> int:
    """Floating-point operations of all matrix products of a jaxpr, 2 a multiply-add; loops count as often as they run.

    A loop of unknown length (`while`) counts once, the branches of a `cond` as the largest one.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            contracted = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            total += 2 * contracted * math.prod(equation.outvars[0].aval.shape)
            continue
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "shard_map":  # what it holds is one device's, along these axes
            grid = equation.params["mesh"]  # jax has renamed what says which axes are cut by hand
            axes = equation.params.get("newly_manual_axes", equation.params.get("manual_axes", grid.axis_names))
            times = math.prod(grid.shape[axis] for axis in axes)
        if equation.primitive.name == "cond":
            total += max(matmul_flops(branch) for branch in equation.params["branches"])
            continue
        for value in equation.params.values():
            inner = value if isinstance(value, list | tuple) else (value,)
            total += times * sum(matmul_flops(x) for x in inner if hasattr(x, "eqns") or hasattr(x, "jaxpr"))
    return total


def collective_bytes(hlo: str) -> dict[str, float]:
    """Bytes of the results of each kind of collective, one device, loops of known length counted as often as they run.

    A loop of unknown length counts once, and of the branches of a conditional the one that moves the most.

    Args:
      hlo: text of a compiled program.
    """
    bodies: dict[str, dict[str, float]] = {}
    calls: dict[str, list[tuple[list[str], int]]] = {}  # what is called, one of several, and how often
    entry = name = ""
    for line in hlo.splitlines():
        header = re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            name = header[2]
            entry = name if header[1] else entry
            bodies[name], calls[name] = {}, []
            continue
        found = re.search(r"= (.*?) (" + "|".join(COLLECTIVES) + r")(-start)?\(", line)
        if found:
            sizes = [_BYTES.get(kind, 4) * math.prod(int(n) for n in shape.split(",") if n)
                     for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1])]  # fmt: skip
            size = max(sizes, default=0) if found[3] else sum(sizes)
            bodies[name][found[2]] = bodies[name].get(found[2], 0) + size
        loops = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        for called in re.findall(r"(?:body|to_apply|calls)=\{?%?([\w.\-]+)", line):
            calls.setdefault(name, []).append(([called], int(loops[1]) if loops and "body=" in line else 1))
        branches = re.search(r"branch_computations=\{(.*?)\}", line)
        either = re.findall(r"[\w.\-]+", branches[1]) if branches else []
        either += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
        if either:
            calls.setdefault(name, []).append((either, 1))

    def total(name: str, depth: int = 0) -> dict[str, float]:
        out = dict(bodies.get(name, {}))
        for called, times in calls.get(name, []) if depth < 50 else ():
            most = max((total(one, depth + 1) for one in called), key=lambda found: sum(found.values()))
            for kind, size in most.items():
                out[kind] = out.get(kind, 0) + times * size
        return out

    return total(entry)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step takes; bytes and times are of one device.

    Attributes:
      devices: their number. parameters: of the whole model (trained and carried).
      state, batch, temporary: bytes held between steps, of the batch, and at most during a step beside both.
      flops: matrix products of the whole step, all devices together. tokens: in a batch.
      collectives: {kind: bytes}.
      compute, traffic, communication: seconds at the efficiency given, of reading what is held, and on the links.
    """

    devices: int
    parameters: int
    state: int
    batch: int
    temporary: int
    flops: int
    tokens: int
    collectives: dict[str, float]
    compute: float
    traffic: float
    communication: float

    @property
    def memory(self) -> int:
        """Bytes on a device."""
        return self.state + self.batch + self.temporary

    @property
    def seconds(self) -> tuple[float, float]:
        """(all overlapped, nothing overlapped) of a step."""
        parts = (self.compute, self.traffic, self.communication)
        return max(parts), sum(parts)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def make(config: Any, workdir: Any, *, chip: Chip, efficiency: float = 0.5) -> Plan:
    """The plan of a config's step on its mesh, for which enough (fake) devices must exist; no parameter is made.

    Args:
      config: resolved (`loop.resolve`); its batch is the one of all devices.
      workdir: where a tokenizer may lie.
      chip: what a device can do.
      efficiency: share of its peak that products reach, in (0, 1].
    """
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency={efficiency}: expected a number in (0, 1]")
    grid = mesh.make_mesh(config.mesh)
    dataset = loop.make_dataset(config, workdir)
    model = recipe.make_model(_elsewhere(config.model), dataset)
    objective = recipe.make_objective(config.objective, model, config.accumulate)
    tx = recipe.make_optimizer(config.optimizer, config.steps)
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(lambda key: loop.initial_state(key, config=config, model=model, tx=tx), key)
    rules = build(config.rules)() if config.rules else sharding.RULES
    placed = mesh.shardings(shapes, rules, grid)
    data = dataset.train(prefetch=0)
    example = (loop.shapes_of(data) or [next(data)])[-1]  # of several row lengths the longest, which takes the most
    cut, whole = mesh.batch_sharding(grid), jax.sharding.NamedSharding(grid, jax.sharding.PartitionSpec())
    parts = grid.shape["data"] * grid.shape["fsdp"]
    where = {name: cut if x.shape[0] % parts == 0 else whole for name, x in example.items()}
    if config.reference_store:
        example = {**example, "ref_logps": np.zeros(example["response_mask"].shape, np.float32)}
        where["ref_logps"] = where["response_mask"]
    batch = {name: _shape(np.asarray(x)) for name, x in example.items()}
    step = placement.on(grid, train.make_step(objective, tx, loop.refresh_of(config)))
    jitted = jax.jit(step, in_shardings=(placed, where, None), out_shardings=(placed, None), donate_argnums=0)
    # Other devices have no such kernels, of which nobody can count what they do, but their own for the output head
    with native.off(), placement.elsewhere():
        flops = matmul_flops(jax.make_jaxpr(step)(shapes, batch, key))
        compiled = jitted.lower(shapes, batch, key).compile()
    found = compiled.memory_analysis()
    held = _on_device(shapes, placed)
    fed = _on_device(batch, where)
    devices = grid.size
    collectives = collective_bytes(compiled.as_text() or "")
    temporary = int(found.temp_size_in_bytes) if found is not None else 0
    return Plan(
        devices=devices,
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves((shapes.params, shapes.carry))),
        state=held,
        batch=fed,
        temporary=temporary,
        flops=flops,
        tokens=int(np.prod(batch["tokens"].shape)) if "tokens" in batch else 0,
        collectives=collectives,
        compute=flops / devices / (chip.flops * efficiency),
        traffic=(2 * held + 2 * temporary) / chip.bandwidth,
        communication=sum(collectives.values()) / chip.link,
    )


def _elsewhere(node: Any) -> Any:
    """A model's config whose attention is not what "auto" would pick on the CPU that plans."""
    out = node.copy_and_resolve_references()
    inner = out.base if "base" in out else out
    if "attention" in inner and inner.attention == "auto":
        inner.attention = "plain"
    return out


def _on_device(shapes: Any, where: Any) -> int:
    """Bytes of a tree on one device."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(where), strict=True)
    total = 0
    for x, placed in leaves:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            continue
        total += bytes_of(jax.ShapeDtypeStruct(placed.shard_shape(x.shape), x.dtype))
    return total


def table(made: Plan, name: str, chip: Chip, shape: Mapping[str, int]) -> str:
    """The plan as lines of text."""

    def size(count: float) -> str:
        return f"{count / 1e9:.3f} GB" if count >= 1e8 else f"{count / 1e6:.3f} MB"

    low, high = made.seconds
    share = made.memory / chip.memory
    lines = [
        f"devices          {made.devices} x {name}, mesh " + ", ".join(f"{k}={v}" for k, v in shape.items()),
        f"parameters       {made.parameters / 1e6:,.1f} million (trained and carried)",
        f"memory a device  {size(made.memory)} of {size(chip.memory)} ({share:.0%}): state {size(made.state)}, "
        f"batch {size(made.batch)}, temporary {size(made.temporary)}",
        f"FLOPs a step     {made.flops:.3e} in matrix products, {made.flops / made.devices:.3e} a device",
        "collectives      " + (", ".join(f"{k} {size(v)}" for k, v in sorted(made.collectives.items())) or "none")
        + " a device and step",
        f"time a step      {low:.4g} s if all overlaps, {high:.4g} s if nothing does (compute {made.compute:.4g}, "
        f"memory {made.traffic:.4g}, links {made.communication:.4g})",
    ]  # fmt: skip
    if made.tokens:
        lines.append(f"tokens a second  {made.tokens / high:,.0f} to {made.tokens / low:,.0f} (padding counted)")
    if share > 1:
        lines.append("does not fit: raise fsdp or tensor in the mesh, lower the batch, or set remat='full'")
    return "\n".join(lines)

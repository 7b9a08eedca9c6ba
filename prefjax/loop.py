"""The loop: `fit(config, workdir)` trains a stage, resumes it bit for bit, and leaves a run that `load` opens again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from prefjax import checkpoint, debug, leaves, mesh, recipe, reference, rundir, train, writers
from prefjax.config import Config, build
from prefjax.models import huggingface, lora, placement, sharding
from prefjax.objective import Accumulated, Objective
from prefjax.ops.masked import Mean
from prefjax.progress import Progress

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer"
LEARNED = "learned"
# Options of a model that may differ from the stage it starts from: heads, and how (not what) it computes.
FREE_SWITCHES = ("outputs", "lm_head", "dtype", "param_dtype", "remat", "scan_layers", "attention", "max_positions")


@dataclasses.dataclass
class Run:
    """A stage with all its live parts; `state` is shapes until a checkpoint is read, and replaced as it trains."""

    config: Config
    workdir: pathlib.Path
    dataset: Any
    model: Any
    objective: Objective
    tx: optax.GradientTransformation
    mesh: Mesh
    shardings: Any
    state: train.State
    key: jax.Array

    @property
    def step(self) -> int:
        """Updates done; reads the device."""
        return int(self.state.step)

    @functools.cached_property
    def eval_objective(self) -> Objective:
        """The objective on a whole batch at once."""
        return self.objective.objective if isinstance(self.objective, Accumulated) else self.objective

    def evaluate(self) -> dict[str, float]:
        """Means over the held-out batches, as `eval/<metric>`; empty when the data has no held-out part."""
        total: dict[str, Mean] = {}
        batches = self.dataset.eval(*mesh.share(self.mesh))
        for batch in batches:
            part = self._eval_step(
                self.state.params, train.with_step(self.state), mesh.put_batch(batch, self.mesh), self.key
            )
            total = {name: total[name] + mean for name, mean in part.items()} if total else part
        more = getattr(batches, "metrics", {})  # what online data say of the responses that were sampled
        return {f"eval/{name}": float(value) for name, value in {**more, **_values(total)}.items()}

    @functools.cached_property
    def _eval_step(self) -> Any:
        return jax.jit(placement.on(self.mesh, train.make_eval(self.eval_objective)))


def fit(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    resume: bool = True,
    until: int | None = None,
) -> Run:
    """Trains the stage that `config` describes in `workdir`, from its newest whole checkpoint if there is one.

    Args:
      config: a ConfigDict or a mapping, see `prefjax.recipe.CONFIG`.
      workdir: holds config, versions, metrics, checkpoints, tokenizer and report of the run.
      resume: whether the folder may hold an earlier start of the same run.
      until: stop after this step as if interrupted (the schedule still sees all of config.steps).

    Returns:
      The run, at its last step.

    Raises:
      ValueError: before compute is spent, when the config, the data and the model do not fit together.
      NonFiniteLoss: the loss became NaN or infinite; names the batch's examples and a folder with all that is needed.
    """
    config = resolve(config)
    rundir.prepare(workdir, config, resume, defaults=recipe.CONFIG)
    with checkpoints_of(config, workdir) as saved:
        run = assemble(config, workdir, begin=saved.latest() is None)
        data_state = restore(run, saved)
        last = min(config.steps, config.steps if until is None else until)
        if run.step < last:
            train_until(run, saved, data_state, last)
    return run


def resolve(config: Config | Mapping[str, Any]) -> Config:
    """The config with its defaults filled in, unknown fields refused."""
    fields = dict(config.items())
    return recipe.config(**fields)


def _values(means: Mapping[str, Mean]) -> dict[str, float]:
    return {name: float(mean.value) for name, mean in means.items()}


def assemble(config: Config, workdir: str | pathlib.Path, *, begin: bool = True) -> Run:
    """Builds data, model, objective, optimizer, mesh and initial state, and checks that they fit before any compute.

    Args:
      config: resolved.
      workdir: of the run; a tokenizer that it holds already is used again.
      begin: whether to make the first state; not where a checkpoint has it, which is then read to where the shapes and
        places in `Run.state` say, and the stage that the run came from may be gone.

    Raises:
      ValueError: naming what does not fit what.
    """
    workdir = pathlib.Path(workdir)
    grid = mesh.make_mesh(config.mesh)
    dataset = make_dataset(config, workdir)
    print(dataset.describe(), flush=True)
    model = recipe.make_model(config.model, dataset)
    objective = recipe.make_objective(config.objective, model, config.accumulate)
    tx = recipe.make_optimizer(config.optimizer, config.steps)
    if jax.process_index() == 0 and dataset.tokenizer is not None:
        dataset.tokenizer.save(workdir / TOKENIZER)
    key = jax.random.key(config.seed)
    start = functools.partial(initial_state, config=config, model=model, tx=tx)
    shapes = jax.eval_shape(start, key)
    batch = next(dataset.train(prefetch=0))
    batch = reference.placeholder(batch) if config.reference_store else batch
    jax.eval_shape(objective, shapes.params, train.with_step(shapes), batch, key)
    rules = build(config.rules)() if config.rules else sharding.RULES
    placed = mesh.shardings(shapes, rules, grid)

    def first() -> train.State:
        if config.init_from:
            return begin_from(config, model, tx, placed)
        return jax.jit(start, out_shardings=placed)(key)

    state = first() if begin else jax.tree.map(_to_fill, shapes, placed)
    if config.reference_store:
        started = (lambda: state) if begin else first
        dataset = reference.of_run(dataset, model, config, workdir, grid, started, begin=begin)
    run = Run(config, workdir, dataset, model, objective, tx, grid, placed, state, key)
    if hasattr(dataset, "follow"):
        dataset.follow(run)  # online data: sampled from the parameters that the run has at the time
    return run


def make_dataset(config: Config, workdir: str | pathlib.Path) -> Any:
    """The data. Where it would train a tokenizer, it takes the one that the run, or the stage it starts from, has."""
    fn = build(config.data)
    source = getattr(fn, "keywords", {}).get("prompts", fn)  # online data hold the tokenizer of their prompts
    if not str(getattr(source, "keywords", {}).get("tokenizer", "")).startswith("bpe:"):
        return fn()
    folders = [pathlib.Path(workdir) / TOKENIZER]
    if config.init_from:
        folders += [pathlib.Path(config.init_from) / TOKENIZER, pathlib.Path(config.init_from)]
    elif not folders[0].is_dir():
        return fn()
    kept = next((folder for folder in folders if folder.is_dir()), folders[-1])
    print(f"tokenizer: that of {kept}", flush=True)
    kept_source = functools.partial(source, tokenizer=str(kept))
    return kept_source() if source is fn else fn(prompts=kept_source)


def _to_fill(shape: jax.ShapeDtypeStruct, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where, weak_type=shape.weak_type)


def initial_state(key: jax.Array, *, config: Config, model: Any, tx: optax.GradientTransformation) -> train.State:
    """Parameters, optimizer state and carry at step 0.

    Raises:
      ValueError: adapters with `learned` parts, or with a reference beside their base.
    """
    if isinstance(model, lora.LoraModel) and (config.learned or config.reference):
        field = "learned" if config.learned else "reference"
        why = "is frozen with the base" if config.learned else "is the base, with adapters off"
        raise ValueError(f"{field}={config[field]!r} has no effect with adapters: it {why}; leave it out")
    return state_of(initial_params(key, config=config, model=model), key, config=config, model=model, tx=tx)


def initial_params(key: jax.Array, *, config: Config, model: Any) -> Any:
    """All parameters at random, before adapters and base are parted; what is learned beside the model is with them."""
    params = model.init(jax.random.fold_in(key, 0))
    if config.learned:
        params = {**params, LEARNED: recipe.make_learned(config.learned, model, jax.random.fold_in(key, 1))}
    return params


def state_of(
    params: Any, key: jax.Array, *, config: Config, model: Any, tx: optax.GradientTransformation
) -> train.State:
    """The state at step 0 that follows from all parameters."""
    carry = build(config.carry)(params) if config.carry else {}
    if isinstance(model, lora.LoraModel):
        params, frozen = model.split(params, jax.random.fold_in(key, 2))
        carry = {**carry, **frozen}
    if config.reference:
        carry = {**carry, "reference": params}
    return train.init_state(params, tx, carry)


def begin_from(config: Config, model: Any, tx: optax.GradientTransformation, placed: Any) -> train.State:
    """The first state on the parameters of an earlier stage or a Hugging Face folder; a head they lack is a new one.

    What is read goes to its place at once, and all else is made of it.

    Args:
      placed: where each part of the state lies.

    Raises:
      ValueError: the earlier model is another function, or a parameter has another shape.
    """
    key, source = jax.random.key(config.seed), config.init_from
    make = functools.partial(initial_params, config=config, model=model)
    shapes = jax.eval_shape(make, key)
    rules = build(config.rules)() if config.rules else sharding.RULES
    # By the names they have in a state, which rules may speak of
    where = mesh.shardings({"params": shapes}, rules, placed.step.mesh)["params"]
    if huggingface.is_folder(source):
        refuse_changes(huggingface.differences(source, model), source)
        found = leaves.named_leaves(huggingface.read_params(source, model, shardings=where, key=key))
    else:
        node = config.model.base if isinstance(model, lora.LoraModel) else config.model
        refuse_changes(changed_switches(source, node), source)
        found = read_stage(source, jax.tree.map(_to_fill, shapes, where))
    places = leaves.named_leaves(where)
    found |= _drawn(make, key, {name: place for name, place in places.items() if name not in found})
    # Taken out of `found`: what follows is given the only hold on them, and leaves the parameters where they are
    params = jax.tree.unflatten(jax.tree.structure(shapes), [found.pop(name) for name in places])
    rest = functools.partial(state_of, config=config, model=model, tx=tx)
    return jax.jit(rest, out_shardings=placed, donate_argnums=0)(params, key)


def _drawn(make: Callable[[jax.Array], Any], key: jax.Array, places: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Those leaves of `make(key)` that have a place; under jit no other is computed."""

    def some(key: jax.Array) -> dict[str, jax.Array]:
        every = leaves.named_leaves(make(key))
        return {name: every[name] for name in places}

    return jax.jit(some, out_shardings=dict(places))(key) if places else {}


def refuse_changes(changed: Mapping[str, tuple[Any, Any]], source: str) -> None:
    """Raises where the model is another function than the one that `source` holds parameters of."""
    if changed:
        shown = ", ".join(f"{name}={new!r} instead of {old!r}" for name, (old, new) in sorted(changed.items()))
        raise ValueError(f"init_from={source}: this model is another one: {shown}")


def changed_switches(workdir: str, node: Config) -> dict[str, tuple[Any, Any]]:
    """{option: (the earlier stage's, this stage's)} of the model, but for heads and for how it is computed."""
    if not (pathlib.Path(workdir) / "config.json").is_file():
        return {}  # a folder of checkpoints alone: names and shapes must do
    rows = rundir.difference(rundir.load_config(workdir).model, node)
    return {name: row for name, row in rows.items() if name.split(".")[0] not in FREE_SWITCHES}


def read_stage(source: str, wanted: Any) -> dict[str, jax.Array]:
    """{name: array} of the parameters that an earlier stage has; what is new and what is left over is printed."""
    mine = leaves.named_leaves(wanted)

    def common(theirs: Mapping[str, leaves.Spec]) -> Any:
        fresh, unused = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
        if not mine.keys() & theirs.keys():
            raise ValueError(f"init_from={source}: none of its parameters has a name of this model's")
        for name in mine.keys() & theirs.keys():
            shape = tuple(theirs[name][0])
            if mine[name].shape != shape:
                raise ValueError(f"init_from={source}: {name} has shape {shape}, this model's {mine[name].shape}")
        if fresh or unused:
            said = f"freshly initialised: {', '.join(fresh) or 'none'}; not used: {', '.join(unused) or 'none'}"
            print(f"init_from: {said}")
        return leaves.nest({name: leaf for name, leaf in mine.items() if name in theirs}, unquote=True)

    return leaves.named_leaves(checkpoint.load_params(source, template=common))


def checkpoints_of(config: Config, workdir: str | pathlib.Path) -> checkpoint.Checkpoints:
    """The checkpoints of the run in `workdir`."""
    return checkpoint.Checkpoints(
        pathlib.Path(workdir) / checkpoint.FOLDER,
        keep_last=config.keep_last,
        keep_best=config.keep_best,
        best_metric=config.best_metric,
        best_mode=config.best_mode,
        every=config.checkpoint_every,
    )


def restore(run: Run, saved: checkpoint.Checkpoints, step: int | None = None) -> Any:
    """Puts the newest whole checkpoint (or that of `step`) into the run; returns the data iterator's state, or None."""
    if step is None and saved.latest() is None:
        return None
    run.state, data_state, _, at = saved.restore(run.state, step)
    print(f"resumed {run.workdir} at step {at}", flush=True)
    return data_state


def load(workdir: str | pathlib.Path, *, step: int | None = None) -> Run:
    """Opens a finished or interrupted run at its newest (or the given) checkpoint, with data and model.

    Raises:
      FileNotFoundError: no run in `workdir`. CheckpointError: no whole checkpoint.
    """
    config = resolve(rundir.load_config(workdir)).copy_and_resolve_references()
    with checkpoints_of(config, workdir) as saved:
        run = assemble(config, workdir, begin=False)
        run.state, _, _, _ = saved.restore(run.state, step)
    return run


def train_until(run: Run, saved: checkpoint.Checkpoints, data_state: Any, last: int) -> None:
    """Runs steps up to `last`; metrics are read one step late, so that the loop never waits for the device."""
    config, first = run.config, run.step
    data = run.dataset.train(config.seed, *mesh.share(run.mesh))
    if data_state is not None:
        data.set_state(data_state)
    update = train.make_step(run.objective, run.tx, refresh_of(config))
    step_fn = jax.jit(placement.on(run.mesh, update), donate_argnums=0, compiler_options=train.compiler_options())
    out = writers.make(config.writers, run.workdir, step=first, config=config)
    bar = Progress(config.steps, initial=first)
    meta = {"config": rundir.plain(config), "seed": config.seed, "versions": rundir.versions()}
    lagged = writers.Lagged()
    sampled: dict[int, Mapping[str, float]] = {}  # of each step, what online data say of its round
    once: dict[str, float] = {}  # goes into the next row alone
    waited, tokens, mark = 0.0, 0, time.monotonic()

    def settle(arrived: writers.Fetched | None) -> None:
        nonlocal tokens, mark, waited
        if arrived is None:
            return
        step, values, batch = arrived
        debug.check_loss(values["loss"], step=step, batch=batch, run=run, metrics=values)
        count = count_tokens(batch)
        more = sampled.pop(step)
        tokens += count
        bar.update(step, loss=values["loss"], tokens=count)
        if step % config.log_every == 0 or step == config.steps:
            now = time.monotonic()
            rates = {"speed/tokens_per_second": tokens / (now - mark), "speed/data_wait": waited / (now - mark)}
            out.write(step, {**values, **more, **rates, **once})
            once.clear()
            waited, tokens, mark = 0.0, 0, now

    def settle_all() -> None:
        for arrived in lagged.drain():
            settle(arrived)

    with contextlib.closing(data), contextlib.closing(out), bar, stop_requested() as stop:
        for step in range(first + 1, last + 1):
            began = time.monotonic()
            batch = next(data)
            sampled[step] = getattr(data, "metrics", {})
            waited += time.monotonic() - began
            key = jax.random.fold_in(run.key, step)
            fed = mesh.put_batch(batch, run.mesh)
            if step == first + 1:
                once |= compile_all(run, step_fn, shapes_of(data) or [batch], last, bar.message)
                mark += sum(once.values())
                bar.skip(sum(once.values()))
            run.state, metrics = step_fn(run.state, fed, key)
            del fed
            settle(lagged.push(step, metrics, batch))
            evaluated: dict[str, float] = {}
            if step % config.eval_every == 0 or step == config.steps:
                settle_all()
                evaluated = run.evaluate()
                if evaluated:
                    out.write(step, evaluated)
                mark = time.monotonic()
            stopping = stop()  # read once: what ends the run must have been saved
            if saved.due(step) or step == last or stopping:
                settle_all()
                saved.save(step, run.state, data.get_state(), meta, evaluated or None)
            if stopping:
                bar.message(f"stopped by a signal at step {step}; start again with the same command to go on")
                saved.wait()
                raise SystemExit(143)
        saved.wait()


def compile_all(
    run: Run, step_fn: Any, batches: Sequence[Mapping[str, np.ndarray]], last: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Compiles the step, and that of the evaluation if one comes up to step `last`, for each shape of their batches.

    Args:
      batches: one of each shape that training will see.
      say: takes a line of text on each program.

    Returns:
      Seconds of both, by metric.
    """
    programs: list[tuple[str, str, Any, tuple[Any, ...], Sequence[Mapping[str, np.ndarray]]]]
    programs = [("train step", "speed/compile_seconds", step_fn, (run.state,), batches)]
    if last == run.config.steps or last // run.config.eval_every > run.step // run.config.eval_every:
        held_out = shapes_of(run.dataset.eval(*mesh.share(run.mesh)))
        state = (run.state.params, train.with_step(run.state))
        programs.append(("evaluation step", "speed/eval_compile_seconds", run._eval_step, state, held_out))
    seconds: dict[str, float] = {}
    for what, metric, jitted, state, shapes in programs:
        for batch in shapes:
            compiled = train.compile_ahead(jitted, *state, mesh.put_batch(batch, run.mesh), run.key)
            of = f", rows of {batch['tokens'].shape[1]} tokens" if len(shapes) > 1 else ""
            say(f"{what}{of}: {compiled}")
            seconds[metric] = seconds.get(metric, 0.0) + compiled.seconds
    return seconds


def shapes_of(batches: Any) -> list[dict[str, np.ndarray]]:
    """A batch of each shape that a data iterator gives; none where only making them shows it, as with online data."""
    return batches.blanks() if hasattr(batches, "blanks") else []


def refresh_of(config: Config) -> train.Refresh | None:
    """The refresh that the config names, if any."""
    return build(config.refresh) if config.refresh else None


def count_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """Tokens that are no padding; rows where the batch is not of tokens."""
    if "segments" in batch:
        return int(np.count_nonzero(batch["segments"]))
    return len(next(iter(batch.values())))


@contextlib.contextmanager
def stop_requested() -> Iterator[Any]:
    """Yields a function that says whether SIGTERM (preemption) arrived; the handler is put back afterwards."""
    received: list[int] = []
    try:
        old = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    except ValueError:  # not the main thread: signals cannot be caught here
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, old)

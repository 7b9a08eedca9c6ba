"""Checkpoints that are whole or do not count: orbax writes them in the background, a manifest then vouches for them.

A step's folder holds `state` (every array leaf), `data` (where the data iterator stood), `meta` (JSON) and, written
last, MANIFEST.json with the size and digest of each file. A folder without it was interrupted; one that disagrees with
it is damaged; neither is ever resumed from. Folders are on a file system that all processes share.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from prefjax import leaves, manifest, meeting, processes
from prefjax.config import did_you_mean
from prefjax.leaves import StructureMismatch, named_leaves
from prefjax.rundir import plain

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
"""Where in a run's folder its checkpoints are, for `load_params(workdir)`."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXT = re.compile(r"no space left|disk quota|ENOSPC", re.IGNORECASE)  # tensorstore raises ValueError with text


class CheckpointError(RuntimeError):
    """A checkpoint could not be saved, or none could be restored; the message names folder, step and reason."""


# The data iterator's state, one per process.


def _pack_data(state: Any) -> list[Any]:
    if isinstance(state, bytes):
        entry = {"bytes": base64.b64encode(state).decode()}
    else:
        try:
            same = json.loads(json.dumps(state)) == state
        except (TypeError, ValueError) as error:
            raise TypeError(f"the data iterator's state must be bytes or JSON: {error}") from error
        if not same:
            raise TypeError(
                f"the data iterator's state changes in JSON (a tuple, NaN or a key that is not text): {state!r}"
            )
        entry = {"json": state}
    if jax.process_count() == 1:
        return [entry]
    text = np.frombuffer(json.dumps(entry).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.asarray(text.size))))
    rows = multihost_utils.process_allgather(np.pad(text, (0, longest - text.size), constant_values=ord(" ")))
    return [json.loads(bytes(row)) for row in rows]


def _unpack_data(entries: list[Any], where: str) -> Any:
    processes, entry = jax.process_count(), entries[0]
    if len(entries) == processes:
        entry = entries[jax.process_index()]
    elif any(other != entry for other in entries):
        raise CheckpointError(
            f"{where} was written by {len(entries)} processes whose data iterators stood at different places; "
            f"it cannot be resumed by {processes}"
        )
    return base64.b64decode(entry["bytes"]) if "bytes" in entry else entry["json"]


# Reading arrays back.


def _restore_arrays(folder: pathlib.Path, targets: Mapping[str, Any], saved: Mapping[str, list[Any]]) -> dict[str, Any]:
    """{name: array}: placed as the target says, numpy if it says None; what has no elements is made, not read."""
    arguments, items = {}, {}
    for name, sharding in targets.items():
        if leaves.is_empty(saved[name]):
            continue
        shape, dtype = tuple(saved[name][0]), jnp.dtype(saved[name][1])
        items[name] = jax.ShapeDtypeStruct(shape, dtype)
        if sharding is None:
            arguments[name] = ocp.RestoreArgs(restore_type=np.ndarray)
        else:
            arguments[name] = ocp.ArrayRestoreArgs(sharding=sharding, global_shape=shape, dtype=dtype)
    found: dict[str, Any] = {}
    if items:
        reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        order = ocp.args.PyTreeRestore(
            item=leaves.nest(items), restore_args=leaves.nest(arguments), partial_restore=True
        )
        # The keys are quoted names already; dicts of one nesting flatten alike, so order pairs them.
        names = jax.tree.leaves(leaves.nest({name: name for name in items}))
        found = dict(
            zip(names, jax.tree.leaves(reader.restore((folder / "state").absolute(), args=order)), strict=True)
        )
        reader.close()
    for name in targets.keys() - items.keys():
        zero = np.zeros(saved[name][0], jnp.dtype(saved[name][1]))
        found[name] = zero if targets[name] is None else jax.device_put(zero, targets[name])
    return found


def _read_items(folder: pathlib.Path, *items: str) -> list[Any]:
    reader = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    try:
        return [reader.restore((folder / item).absolute()) for item in items]
    finally:
        reader.close()


def steps_in(folder: str | os.PathLike[str]) -> list[int]:
    """Every step with a folder in a folder of checkpoints, whole or not, ascending."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


@dataclasses.dataclass(frozen=True)
class _Best:
    metric: str
    mode: str

    def rank(self, metrics: Mapping[str, Any] | None) -> float | None:
        """Higher is better; None for a checkpoint that was not evaluated or whose metric is not finite."""
        value = (metrics or {}).get(self.metric)
        if value is None or not math.isfinite(value):
            return None
        return float(value) if self.mode == "max" else -float(value)


class Checkpoints:
    """The checkpoints of one run: saved in the background, the newest and the best kept, damaged ones passed over.

    Reading (`latest`, `best`, `restore`) changes nothing on disk, so another process may evaluate while one trains.
    Use it as a context manager or `close` it: a save still under way when the program ends is lost (and logged).
    With several processes, each calls `save` and `restore` alike, and their folder is on a shared file system.

    Args:
      folder: where step folders go; made at the first save.
      keep_last: how many of the newest whole checkpoints to keep, >= 1.
      keep_best: how many of the best to keep besides, by `best_metric` of those saved with metrics; 0 for none.
      best_metric, best_mode: a name in `metrics`, and "min" or "max".
      every: steps between checkpoints, for `due`.

    Raises:
      ValueError: an option out of its range.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        best_metric: str = "eval/loss",
        best_mode: str = "min",
        every: int = 1000,
    ):
        if "://" in str(folder):
            raise ValueError(f"checkpoints go to a file system, not to {folder}: mount it")
        if best_mode not in ("min", "max"):
            raise ValueError(f"best_mode={best_mode!r}; {did_you_mean(best_mode, ('min', 'max'))}")
        for name, value, least in (("keep_last", keep_last, 1), ("keep_best", keep_best, 0), ("every", every, 1)):
            if value < least:
                raise ValueError(f"{name}={value}: expected at least {least}")
        self.folder = pathlib.Path(folder)
        self.keep_last, self.keep_best, self.every = keep_last, keep_best, every
        self._best = _Best(best_metric, best_mode)
        self._manager: ocp.CheckpointManager | None = None
        self._meet: Callable[..., None] = lambda **_: None  # of several processes, a `Meeting`
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None
        self._saved: int | None = None
        self._size = 0

    def due(self, step: int) -> bool:
        """Whether `step` is one to save at: a multiple of `every`, not 0, not the one just saved or restored."""
        return step > 0 and step % self.every == 0 and step != self._saved

    # Saving.

    def save(
        self,
        step: int,
        state: Any,
        data_state: Any = None,
        meta: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts saving and returns once the arrays are copied to the host; their buffers may then be donated.

        A step saved already is replaced. Later steps (of a future given up by restoring an older one) go once this
        one is whole.

        Args:
          step: how many updates `state` has seen, >= 0.
          state: any pytree of arrays and numbers.
          data_state: bytes, or what JSON gives back unchanged.
          meta: what JSON can hold: config, seed, versions.
          metrics: {name: number} of an evaluation of this state.

        Raises:
          CheckpointError: this or the previous save failed; earlier checkpoints are intact and another save may follow.
          ValueError: `metrics` lacks `best_metric`.
        """
        self.wait()
        if metrics is not None and self.keep_best and self._best.metric not in metrics:
            raise ValueError(
                f"no best_metric {self._best.metric!r} in metrics; {did_you_mean(self._best.metric, metrics)}"
            )
        values = None if metrics is None else {name: float(value) for name, value in metrics.items()}
        arrays = named_leaves(state)
        tree = {name: leaves.spec(leaf) for name, leaf in arrays.items()}
        # Orbax refuses arrays without elements, and a tree of nothing.
        stored = {name: leaves.storable(leaf) for name, leaf in arrays.items() if not leaves.is_empty(tree[name])}
        if not stored:
            raise ValueError("the state holds no array")
        self._size = sum(leaf.nbytes for leaf in stored.values())
        about = {"step": step, "tree": tree, "metrics": values, "meta": plain(meta or {}, "meta")}
        data = {"processes": _pack_data(data_state)}
        try:
            manager = self._open(step)
            items = ocp.args.Composite(
                state=ocp.args.PyTreeSave(leaves.nest(stored)),
                data=ocp.args.JsonSave(data),
                meta=ocp.args.JsonSave(about),
            )
            manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._failed(step, error) from error
        self._saved = step
        self._thread = threading.Thread(target=self._finish, args=(manager, step, values), name=f"checkpoint {step}")
        self._thread.start()

    def _open(self, step: int) -> ocp.CheckpointManager:
        """The orbax manager, with nothing in the way of `step`."""
        if self._manager is None:
            processes.together(lambda: self.folder.mkdir(parents=True, exist_ok=True))
            options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, save_root_metadata=False)
            if jax.process_count() > 1:
                self._meet = meeting.Meeting(f"checkpoints of {self.folder}")
                options.async_options = ocp.options.AsyncOptions(barrier_sync_fn=self._meet)
            names = ("state", "data", "meta")
            self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options, item_names=names)
        taken = (self.folder / str(step)).exists() or step in self._manager.all_steps()
        if jax.process_count() > 1:
            taken = bool(multihost_utils.broadcast_one_to_all(np.asarray(taken)))
        if taken:
            self._remove(step)
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices(f"removed {step}")
            self._manager.reload()
        return self._manager

    def _finish(self, manager: ocp.CheckpointManager, step: int, metrics: Mapping[str, Any] | None) -> None:
        """In the background: waits for the arrays, vouches for them, then removes what is no longer kept."""
        try:
            manager.wait_until_finished()
            if jax.process_index() == 0:
                manifest.write(self.folder / str(step), {"step": step, "metrics": metrics})
            self._meet(key="saved")
        except Exception as error:
            with contextlib.suppress(meeting.Apart):
                self._meet(key="not saved")
            self._error = self._failed(step, error)
            self._error.__cause__ = error
            log.error("%s", self._error)  # in case the program ends without another save or wait
            return
        if jax.process_index() == 0:
            try:
                self._prune(step)
            except OSError as error:  # what is left over costs space alone
                log.warning("old checkpoints of %s could not be removed: %s", self.folder, error)

    def _prune(self, newest: int) -> None:
        steps = steps_in(self.folder)
        whole = [step for step in steps if step <= newest and self._fault(step) is None]
        ranks = {step: self._best.rank(self._metrics(step)) for step in whole} if self.keep_best else {}
        ranked = [(rank, step) for step, rank in ranks.items() if rank is not None]
        keep = {*whole[-self.keep_last :], *(step for _, step in sorted(ranked, reverse=True)[: self.keep_best])}
        for step in steps:
            if step not in keep:
                if step > newest:
                    log.warning("removing checkpoint %d of %s: the run went on from before it", step, self.folder)
                self._remove(step)

    def _remove(self, step: int) -> None:
        if jax.process_index() == 0:
            folder = self.folder / str(step)
            manifest.withdraw(folder)  # first, so that half a removal leaves nothing to resume from
            shutil.rmtree(folder, ignore_errors=True)
            for left in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        """Clears what is left of a save and says what happened."""
        while isinstance(error, meeting.Apart) and isinstance(error.__context__, Exception):
            error = error.__context__  # it was this process that failed
        manager, self._manager = self._manager, None
        if manager is not None:
            try:
                manager.close()
            except Exception as again:
                log.debug("closing after a failed save: %s", again)
        there = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**20  # before the remains go
        self._remove(step)
        self._saved = None
        whole = [other for other in steps_in(self.folder) if self._fault(other) is None]
        full = _is_full(error)
        return CheckpointError(
            f"checkpoint {step} could not be saved in {self.folder}: "
            f"{'the disk is full; ' if full else ''}about {self._size / 2**20:,.1f} MiB to write, "
            f"{free:,.1f} MiB free. {_short(error)}\n"
            f"Checkpoints that are whole: {', '.join(map(str, whole)) or 'none'}."
            + (" Free some space, or lower keep_last and keep_best." if full else "")
        )

    def check(self) -> None:
        """Raises what went wrong in the background, without waiting.

        Raises:
          CheckpointError: the last save failed.
        """
        if self._thread is None or not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is whole.

        Raises:
          CheckpointError: it failed; raised once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Waits, then lets go of orbax's threads.

        Raises:
          CheckpointError: the last save failed.
        """
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Finding.

    def _fault(self, step: int, *, digests: bool = False) -> str | None:
        return manifest.fault(self.folder / str(step), digests=digests)

    def _metrics(self, step: int) -> Mapping[str, Any] | None:
        return manifest.read(self.folder / str(step))["metrics"]

    def latest(self) -> int | None:
        """The newest whole step by presence and sizes, None if no save was ever completed (`restore` reads digests).

        Raises:
          CheckpointError: there are checkpoints, but each is damaged.
        """
        faults = {}
        for step in reversed(steps_in(self.folder)):
            faults[step] = self._fault(step)
            if faults[step] is None:
                return step
        if any(manifest.exists(self.folder / str(step)) for step in faults):
            raise self._none(faults)
        for step, reason in faults.items():
            log.warning("checkpoint %d of %s does not count: %s", step, self.folder, reason)
        return None

    def best(self) -> int | None:
        """The whole step with the best metric (the newest of equals), None if none was evaluated."""
        ranks = [
            (rank, step)
            for step in steps_in(self.folder)
            if self._fault(step) is None and (rank := self._best.rank(self._metrics(step))) is not None
        ]
        return max(ranks)[1] if ranks else None

    def _none(self, faults: Mapping[int, str | None]) -> CheckpointError:
        reasons = "".join(f"\n  step {step}: {reason}" for step, reason in faults.items())
        return CheckpointError(f"no whole checkpoint in {self.folder}{reasons or ': it holds none'}")

    # Restoring.

    def _choose(self, step: int | None) -> int:
        """The step to read: `step`, or the newest whole one by digests. Process 0 decides for all."""
        chosen, faults = -1, {}
        if jax.process_index() == 0:
            for candidate in [step] if step is not None else reversed(steps_in(self.folder)):
                faults[candidate] = self._fault(candidate, digests=True)
                if not (self.folder / str(candidate)).is_dir():
                    there = ", ".join(map(str, steps_in(self.folder)))
                    faults[candidate] = f"never saved or no longer kept; there are: {there or 'none'}"
                if faults[candidate] is None:
                    chosen = candidate
                    break
        if jax.process_count() > 1:
            chosen = int(multihost_utils.broadcast_one_to_all(np.asarray(chosen)))
        if chosen < 0:
            raise self._none(faults)
        for skipped, reason in faults.items():
            if skipped != chosen:
                log.warning(
                    "checkpoint %d of %s is not whole, falling back to %d: %s", skipped, self.folder, chosen, reason
                )
        return chosen

    def restore(self, template: Any, step: int | None = None) -> tuple[Any, Any, dict[str, Any], int]:
        """The newest whole checkpoint, or that of `step`, in the form and on the devices of `template`.

        Args:
          template: a pytree like the saved state, of arrays or `jax.ShapeDtypeStruct`s; each leaf is restored to its
            sharding, whatever mesh wrote it, and uncommitted, numpy and Python leaves stay such.
          step: a step, or None for the newest whole one, passing over damaged ones with a warning.

        Returns:
          (state, data_state, meta, step).

        Raises:
          CheckpointError: no checkpoint is whole, or `step` is not; with the reason for each.
          StructureMismatch: the template differs from what was saved, naming the first path with both shapes.
        """
        self.wait()
        while True:
            chosen = self._choose(step)
            try:
                result = self._read(template, chosen)
            except (StructureMismatch, CheckpointError):
                raise
            except Exception as error:
                # A trainer may have pruned it while it was read; what is still whole fails for another reason.
                if step is not None or jax.process_count() > 1 or self._fault(chosen, digests=True) is None:
                    raise CheckpointError(f"{self.folder / str(chosen)} cannot be read: {_short(error)}") from error
                continue
            self._saved = chosen
            return *result, chosen

    def _read(self, template: Any, step: int) -> tuple[Any, Any, dict[str, Any]]:
        folder = self.folder / str(step)
        about, data = _read_items(folder, "meta", "data")
        wanted = named_leaves(template)
        saved = about["tree"]
        leaves.compare(saved, {name: leaves.spec(leaf) for name, leaf in wanted.items()}, str(folder))
        arrays = _restore_arrays(folder, {name: leaves.placement(leaf) for name, leaf in wanted.items()}, saved)
        values = [leaves.like(leaf, arrays[name], saved[name]) for name, leaf in wanted.items()]
        state = jax.tree.unflatten(jax.tree.structure(template), values)
        return state, _unpack_data(data["processes"], str(folder)), about["meta"]

    def describe(self, step: int | None = None) -> dict[str, Any]:
        """{"step", "metrics", "meta", "tree": {name: prefjax.leaves.Spec}} without reading arrays.

        Raises:
          CheckpointError: no checkpoint is whole, or `step` is not.
        """
        return _read_items(self.folder / str(self._choose(step)), "meta")[0]


def load_params(
    folder: str | os.PathLike[str],
    *,
    step: int | None = None,
    subtree: str = "params",
    template: Any = None,
) -> Any:
    """One part of a saved state, reading no other: what a new run starts from.

    Args:
      folder: a run's folder, its folder of checkpoints, or the folder of one step.
      step: a step, or None for the newest whole one.
      subtree: its name in the state, "params" or such as "carry/ema".
      template: a pytree of arrays or `jax.ShapeDtypeStruct`s; values are cast to its dtypes and put on its shardings.
        Or a function that makes it of {name: spec} of what was saved; then what it leaves out is not read.

    Returns:
      In the form of `template`, or nested dicts of uncommitted jax arrays without one.

    Raises:
      CheckpointError: no checkpoint is whole.
      StructureMismatch: no such subtree (with a did-you-mean), or a path or shape that differs from the template.
    """
    path = pathlib.Path(folder)
    if (path / FOLDER).is_dir():
        path = path / FOLDER
    elif path.name.isdigit() and (path / "state").exists():
        path, step = path.parent, int(path.name)
    reader = Checkpoints(path)
    where = path / str(reader._choose(step))
    tree = _read_items(where, "meta")[0]["tree"]
    prefix = f"{subtree}/"
    saved = {name: spec for name, spec in tree.items() if name.startswith(prefix)}
    if not saved:
        parts = {"/".join(name.split("/")[:depth]) for name in tree for depth in range(1, name.count("/") + 1)}
        raise StructureMismatch(f"{where} has no {subtree!r}; {did_you_mean(subtree, parts)}")
    if callable(template):
        template = template({name.removeprefix(prefix): spec for name, spec in saved.items()})
        chosen = {prefix + name for name in named_leaves(template)}
        saved = {name: spec for name, spec in saved.items() if name in chosen}
    wanted = {name: jax.ShapeDtypeStruct(spec[0], jnp.dtype(spec[1])) for name, spec in saved.items()}
    if template is not None:
        wanted = {prefix + name: leaf for name, leaf in named_leaves(template).items()}
        leaves.compare(saved, {name: leaves.spec(leaf) for name, leaf in wanted.items()}, str(where), dtypes=False)
    arrays = _restore_arrays(where, {name: leaves.placement(leaf) for name, leaf in wanted.items()}, saved)
    values = {}
    for name, leaf in wanted.items():
        cast = saved[name][2] is None and hasattr(leaf, "dtype")
        value = arrays[name].astype(leaf.dtype) if cast else arrays[name]
        values[name] = leaves.like(leaf, value, saved[name])
    if template is not None:
        return jax.tree.unflatten(jax.tree.structure(template), list(values.values()))
    return leaves.nest({name.removeprefix(prefix): v for name, v in values.items()}, unquote=True)


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _FULL_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= 400 else f"{text[:150]} ... {text[-250:]}"  # the cause is often said last
    return f"{type(error).__name__}: {text}"

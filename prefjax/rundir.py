"""The folder of a run: its resolved config, versions, seed and commit; a folder of another config is refused."""

from __future__ import annotations

import datetime
import fnmatch
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FieldReference

import prefjax
from prefjax import processes
from prefjax.config import completed

log = logging.getLogger(__name__)

FREE = (
    "steps",
    "name",
    "workdir",
    "mesh",
    "mesh.*",
    "rules",
    "rules.*",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_last",
    "keep_best",
    "best_metric",
    "best_mode",
    "evaluate",
    "evaluate.*",
    "writers",
)
"""What may change between two starts of one run: its length, its devices, how it logs, evaluates and saves.

A schedule over the whole run (`steps`) then differs from the one the run began with; all else stays as it was.
"""

_PACKAGES = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "numpy": "numpy",
    "grain": "grain",
}


class ConfigMismatch(ValueError):
    """The folder holds a run with another config; `differences` maps a dotted key to (old, new)."""

    def __init__(self, message: str, differences: Mapping[str, tuple[Any, Any]]):
        super().__init__(message)
        self.differences = dict(differences)


def plain(value: Any, name: str = "config") -> Any:
    """`value` as what JSON holds: dicts with sorted text keys, lists, numbers, text, booleans and None.

    Args:
      value: nested ConfigDicts, mappings, sequences, numpy or jax scalars and small arrays (become lists), paths.
      name: what to call the value in an error; the dotted key is appended to it.

    Raises:
      TypeError: a key that is not text, or a value with no JSON form, named by its dotted key.
    """
    if isinstance(value, FieldReference):
        value = value.get()
    if isinstance(value, ConfigDict):
        value = dict(value.items())
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name}: key {key!r} is {type(key).__name__}, expected text")
        return {key: plain(value[key], f"{name}.{key}") for key in sorted(value)}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(item, f"{name}.{i}") for i, item in enumerate(items)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name}: {type(value).__name__} {value!r} cannot be written as JSON; refer to it with prefjax.config.ref"
    )


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` whole or not at all: to a temporary file, flushed to disk, then renamed over `path`."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
      ValueError: naming the file and the line where it stops being JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: expected JSON, {error.msg}") from error


def git_commit(folder: str | os.PathLike[str] | None = None) -> dict[str, Any] | None:
    """{"commit": hash, "dirty": bool} of the repository that tracks `folder` (default: this package), else None.

    A folder that merely lies inside a repository which does not track it (a virtual environment) gives None, and so
    does a machine without git.
    """
    where = pathlib.Path(folder) if folder is not None else pathlib.Path(prefjax.__file__).parent
    commit = _git(where, "rev-parse", "HEAD")
    if commit is None or not _git(where, "ls-files", "."):
        return None
    status = _git(where, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status)}


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, Any]:
    """Python, packages, platform and devices of this process."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name, package in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    try:
        found["prefjax"] = importlib.metadata.version("prefjax")
    except importlib.metadata.PackageNotFoundError:
        found["prefjax"] = "source"  # imported from a checkout that is not installed; the commit says which
    kinds = [device.device_kind for device in jax.devices()]
    found["platform"] = platform.platform()
    found["devices"] = {"backend": jax.default_backend(), "processes": jax.process_count()}
    found["devices"]["kinds"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return found


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists and empty dicts stay values."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return rows


_ABSENT = object()


def difference(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """{dotted key: (old, new)} where two configs differ; `...` stands for a key that one of them lacks."""
    before, after = flatten(plain(old)), flatten(plain(new))
    rows = {}
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key, _ABSENT), after.get(key, _ABSENT)
        # Compared as JSON, so that NaN equals itself and True is not 1.
        if a is _ABSENT or b is _ABSENT or json.dumps(a) != json.dumps(b):
            rows[key] = (... if a is _ABSENT else a, ... if b is _ABSENT else b)
    return rows


def _show(value: Any) -> str:
    return "(absent)" if value is ... else json.dumps(value)


def _table(rows: Mapping[str, tuple[Any, Any]]) -> str:
    cells = [("key", "old", "new"), *((key, _show(old), _show(new)) for key, (old, new) in rows.items())]
    wide = [max(len(row[column]) for row in cells) for column in range(2)]
    return "\n".join(f"  {key:<{wide[0]}}  {old:<{wide[1]}}  {new}".rstrip() for key, old, new in cells)


def prepare(
    workdir: str | os.PathLike[str],
    config: Any,
    resume: bool = True,
    *,
    seed: int | None = None,
    free: Sequence[str] = FREE,
    defaults: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Makes the run's folder and records what it takes to repeat the run; refuses a folder of a different run.

    Writes config.json (resolved, sorted), run.json (seed, commit, versions, command of this start) and appends the
    same to starts.jsonl. Only process 0 writes; every process checks, and an error of one is raised in all.

    Args:
      workdir: the folder; created if absent.
      config: a ConfigDict or mapping that JSON can hold.
      resume: whether the folder may hold an earlier start of this run.
      seed: the seed in use, `config["seed"]` if not given.
      free: glob patterns of dotted keys that may differ from the earlier start.
      defaults: top-level fields that an earlier version may not have known; left at these, they are no difference. Nor
        are options that a function has gained since.

    Raises:
      ConfigMismatch: the folder's config differs in a key that is not free; the message shows key, old and new.
      FileExistsError: `resume=False` and the folder holds a run.
    """
    folder, new = pathlib.Path(workdir), plain(config)
    path = folder / "config.json"

    def look() -> bool:
        again = path.exists()
        if again and not resume:
            raise FileExistsError(f"{folder} holds a run already: pass resume=True to continue it, or another workdir")
        if again:
            _compare(path, read_json(path), new, free, defaults or {})
        return again

    again = processes.together(look)  # by all, before the first writes
    if seed is None:
        seed = new.get("seed") if isinstance(new, Mapping) else None
    start = {"seed": seed, "git": git_commit(), "versions": versions(), "command": sys.argv}

    def record() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, new)
        if again and (folder / "run.json").exists():
            _warn_of_versions(read_json(folder / "run.json").get("versions"), start["versions"])
        write_json(folder / "run.json", start)
        write_json(folder / "versions.json", start["versions"])
        with open(folder / "starts.jsonl", "a", encoding="utf-8") as file:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            file.write(json.dumps({"time": now, "resumed": again, **start}) + "\n")

    processes.together(record if jax.process_index() == 0 else lambda: None)
    return folder


def _compare(path: pathlib.Path, old: Any, new: Any, free: Sequence[str], defaults: Mapping[str, Any]) -> None:
    gained = flatten(plain(completed({**defaults, **old})))  # what the earlier version did not know, at its default
    fixed = {
        key: (was, now)
        for key, (was, now) in difference(old, new).items()
        if not any(fnmatch.fnmatchcase(key, p) for p in free)
        and not (was is ... and key in gained and json.dumps(gained[key]) == json.dumps(now))
    }
    if not fixed:
        return
    raise ConfigMismatch(
        f"{path} belongs to a run with another config:\n{_table(fixed)}\n"
        f"Use another workdir, or the old values. Free to change: {', '.join(free) or 'nothing'}.",
        fixed,
    )


def _warn_of_versions(old: Any, new: Any) -> None:
    rows = difference(old or {}, new)
    if rows:
        log.warning(
            "the run goes on with other versions or devices, so it may not repeat bit for bit:\n%s", _table(rows)
        )


def load_config(workdir: str | os.PathLike[str]) -> ConfigDict:
    """The resolved config of a run, from its folder.

    Raises:
      FileNotFoundError: the folder holds no config.json.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is absent: expected the folder of a run made by prefjax.rundir.prepare")
    return ConfigDict(read_json(path), type_safe=False)

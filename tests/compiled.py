"""Losses whose every call is one program: operation by operation, each operation would be compiled alone.

That a loss gives the same compiled and not is shown for every loss in test_contract.py.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

import jax
import numpy as np


def _varies(value: Any) -> bool:
    """Arrays; what is passed as a number, a word or nothing stays what it is."""
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves)


@functools.cache
def _program(function: Any, fixed: tuple[tuple[str, type, Any], ...]) -> Any:
    return jax.jit(lambda arrays: function(**arrays, **{name: value for name, _, value in fixed}))


def _one_program(function: Any) -> Any:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options).arguments
        arrays = {name: value for name, value in given.items() if _varies(value)}
        fixed = tuple((name, type(value), value) for name, value in given.items() if name not in arrays)
        try:
            hash(fixed)
        except TypeError:
            return function(*args, **options)
        return _program(function, fixed)(arrays)

    return call


def compile_losses(names: dict[str, Any]) -> None:
    """Puts compiled functions in place of those of the loss modules that a file (its `globals()`) has imported."""
    for name, module in list(names.items()):
        if isinstance(module, types.ModuleType) and module.__name__.startswith("prefjax.losses."):
            own = {
                key: _one_program(value)
                for key, value in vars(module).items()
                if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
            }
            names[name] = types.SimpleNamespace(**{**vars(module), **own})

"""Configs as data: `ref` writes a function and all its options into a ConfigDict, `build` makes it callable again."""

from __future__ import annotations

import difflib
import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

# A ConfigDict whose fields are read: what types they have is the config's own affair, not known before it runs.
Config = Any


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A phrase for error messages: the closest of `options`, or all of them."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(options) or 'nothing'}"


def _options(fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a config may set: the keyword-only parameters of a function."""
    return {name: p for name, p in inspect.signature(fn).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _check(fn: Callable[..., Any], name: str, given: Iterable[str]) -> None:
    options = _options(fn)
    for key in given:
        if key not in options:
            raise ValueError(f"{name} has no option {key!r}; {did_you_mean(key, options)}")


def ref(fn: Callable[..., Any], **options: Any) -> ConfigDict:
    """`fn` as data: its import name and every keyword-only option, defaults written out so that a flag can change them.

    Args:
      fn: a public function of a module; its keyword-only parameters are its options.
      **options: values that differ from the defaults; nested `ref`s are allowed.

    Returns:
      ConfigDict{fn: "module:name", option: value, ...}; options without a default that are not given stay out, to be
      bound by the caller of `build`.

    Raises:
      ValueError: an option that `fn` does not have (with a did-you-mean), or a function without an import name.
    """
    name = f"{fn.__module__}:{fn.__qualname__}"
    if "<" in name:
        raise ValueError(f"{name} cannot be imported by name; a config can only refer to a module's functions")
    _check(fn, name, options)
    defaults = {k: p.default for k, p in _options(fn).items() if p.default is not inspect.Parameter.empty}
    node = ConfigDict({"fn": name}, type_safe=False)
    for key, value in {**defaults, **options}.items():
        node[key] = ref(value) if inspect.isfunction(value) else value
    return node


def build(node: Any) -> Any:
    """The callable (functools.partial) that a `ref` describes; dicts and lists item by item, the rest is kept.

    Raises:
      ValueError: the name cannot be imported, or an option is unknown (with a did-you-mean).
    """
    if isinstance(node, Mapping | ConfigDict):
        items = dict(node.items())
        if "fn" not in items:
            return {key: build(value) for key, value in items.items()}
        name = str(items.pop("fn"))
        try:
            fn = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"fn={name!r} cannot be imported: {error}") from error
        _check(fn, name, items)
        return functools.partial(fn, **{key: build(value) for key, value in items.items()})
    if isinstance(node, list | tuple):
        return type(node)(build(value) for value in node)
    return node


def completed(node: Any) -> Any:
    """A config as plain data with options that its functions have gained since it was written, at their defaults."""
    if isinstance(node, list | tuple):
        return type(node)(completed(value) for value in node)
    if not isinstance(node, Mapping | ConfigDict):
        return node
    items = {key: completed(value) for key, value in node.items()}
    if "fn" not in items:
        return items
    try:
        return {**ref(pkgutil.resolve_name(str(items["fn"]))).to_dict(), **items}
    except (ImportError, AttributeError, ValueError):
        return items  # the function is gone: `build` says so


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Parses the text after the colon of `--config=file.py:data=hh,runlocal` against `defaults`.

    Args:
      arg: comma-separated `name=value` items; a bare `name` sets a boolean.
      **defaults: every argument the config knows, with its default; a value takes the default's type (None keeps text).

    Raises:
      ValueError: an unknown name (with a did-you-mean), a value of the wrong type, or one given twice.
    """
    values, seen = dict(defaults), set()
    for item in filter(None, (arg or "").split(",")):
        name, has_value, text = item.partition("=")
        if name not in defaults:
            raise ValueError(f"config argument {name!r} is unknown; {did_you_mean(name, defaults)}")
        if name in seen:
            raise ValueError(f"config argument {name!r} is given twice")
        seen.add(name)
        default = defaults[name]
        if not has_value and not isinstance(default, bool):
            raise ValueError(f"config argument {name!r} needs a value: {name}=...")
        values[name] = _convert(name, text if has_value else "true", default)
    return ConfigDict(values)


def _convert(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"config argument {name}={text!r}: expected true or false")
        return text.lower() in ("true", "1")
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError as error:
            raise ValueError(f"config argument {name}={text!r}: expected {type(default).__name__}") from error
    return text

"""Objectives: a view bound to a loss by parameter names, and the few ways to combine them.

    View      = (params, carry, batch, key) -> {name: array}
    Objective = (params, carry, batch, key) -> (Mean, {metric: Mean})

Objectives return a `Mean` (numerator and denominator), never a scalar, so that padding, micro-batches and devices give
exactly the full-batch value.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prefjax.config import did_you_mean
from prefjax.ops.masked import Mean
from prefjax.views import MASK_OF, Named

View = Callable[..., Mapping[str, jax.Array]]
Objective = Callable[..., tuple[Mean, dict[str, Mean]]]


def _unwrap(fn: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def name_of(fn: Callable[..., Any]) -> str:
    """The name of a function, partial or callable object, for messages."""
    inner = _unwrap(fn)
    return getattr(inner, "__name__", type(inner).__name__)


def described(objective: Objective) -> str:
    """The name of an objective's loss, for messages; a sum of terms has none of its own."""
    loss = getattr(objective, "loss", None)
    return "a term of the objective" if loss is None else name_of(loss)


def is_coupled(fn: Callable[..., Any]) -> bool:
    """Whether a loss or an objective looks across the examples of its batch."""
    return bool(getattr(_unwrap(fn), "coupled", False))


def call(
    fn: Callable[..., Any],
    named: Mapping[str, jax.Array],
    key: jax.Array | None = None,
    bind: Mapping[str, str] | None = None,
    source: str = "the view",
) -> Any:
    """Calls `fn` with arrays taken from `named` by its parameter names.

    Parameters without a default are required. Keyword-only parameters whose default (or configured value) is None are
    optional arrays, bound where `named` has them; `where` means the mask that belongs to the first array; a leading
    `key` receives the random key. `bind` says which array serves a parameter: {parameter: array name}. Arrays are read
    in the order of `named`, so that a view can list first what others then need not compute again.

    Raises:
      ValueError: a required array is missing (the names on both sides are listed), or `bind` names no parameter.
    """
    parameters = inspect.signature(fn).parameters
    bind = dict(bind or {})
    for name in bind:
        if name not in parameters:
            raise ValueError(f"bind: {name_of(fn)} has no parameter {name!r}; {did_you_mean(name, parameters)}")
    arguments, sources, first = {}, {}, None
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name == "key" and name not in bind:
            if parameter.default is parameter.empty:
                arguments[name] = key
            continue
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        array = bind.get(name, name)
        first = array if first is None and positional else first
        if name == "where" and name not in bind:
            array = MASK_OF.get(first or "", name)
        if name in bind or parameter.default is parameter.empty:
            if array not in named:
                raise ValueError(f"{name_of(fn)} needs {array}; {source} gives {', '.join(named) or 'nothing'}")
            sources[name] = array
        elif parameter.default is None and array in named:
            sources[name] = array
    read = {array: named[array] for array in named if array in sources.values()}
    arguments |= {name: read[array] for name, array in sources.items()}
    positionals = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    args = [arguments.pop(n) for n in positionals if n in arguments]
    return fn(*args, **arguments)


def _per_example(role: str, array: Any, shape: tuple[int, ...]) -> Any:
    """`array`, refused unless it has one value per example: [B, 1] would broadcast to [B, B]."""
    if jnp.shape(array) != shape:
        raise ValueError(
            f"{role} has shape {list(jnp.shape(array))}; expected one value per example {list(shape)}, as example_mask"
        )
    return array


def _column(
    role: str, what: str | Callable[..., Any], named: Mapping[str, jax.Array], shape: tuple[int, ...], source: str
) -> jax.Array:
    """[B], the array of that name, or what the function makes of the named arrays."""
    if not isinstance(what, str):
        return _per_example(f"{role} {name_of(what)}", call(what, named, source=source), shape)
    if what not in named:
        raise ValueError(f"{role}: {source} gives no {what!r}; {did_you_mean(what, named)}")
    return _per_example(f"{role} {what}", named[what], shape)


@dataclasses.dataclass(frozen=True)
class Composed:
    """A view bound to a loss; made by `compose`."""

    view: View
    loss: Callable[..., jax.Array]
    metrics: Mapping[str, Callable[..., Any]]
    weight: str | Callable[..., jax.Array] | None
    count: str | Callable[..., jax.Array] | None
    bind: Mapping[str, str]

    @property
    def coupled(self) -> bool:
        return is_coupled(self.loss) or is_coupled(self.view)

    def __call__(
        self, params: Any, carry: Any, batch: Any, key: jax.Array, *, cache: dict[int, Any] | None = None
    ) -> tuple[Mean, dict[str, Mean]]:
        cache = {} if cache is None else cache
        if id(self.view) not in cache:
            cache[id(self.view)] = self.view(params, carry, batch, key)
        return self.on(cache[id(self.view)], key)

    def on(self, named: Mapping[str, jax.Array], key: jax.Array) -> tuple[Mean, dict[str, Mean]]:
        """The objective on arrays that are already there (no model), as notebooks and tests want it."""
        source = f"view {name_of(self.view)}"
        values = call(self.loss, named, jax.random.fold_in(key, 1), self.bind, source)
        mask = named["example_mask"] if "example_mask" in named else jnp.ones(values.shape, bool)
        _per_example(f"loss {name_of(self.loss)}", values, mask.shape)
        column = functools.partial(_column, named=named, shape=mask.shape, source=source)
        if self.weight is not None:
            values = values * jax.lax.stop_gradient(column("weight", self.weight))
        count = None if self.count is None else column("count", self.count)
        metrics = {}
        for name, metric in self.metrics.items():
            result = jax.lax.stop_gradient(call(metric, named, source=source))
            if not isinstance(result, Mean):
                result = Mean.of(_per_example(f"metric {name!r}", result, mask.shape), mask)
            metrics[name] = result
        return Mean.of(values, mask, count), metrics


def compose(
    view: View,
    loss: Callable[..., jax.Array],
    *,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    weight: str | Callable[..., jax.Array] | None = None,
    count: str | Callable[..., jax.Array] | None = None,
    bind: Mapping[str, str] | None = None,
) -> Composed:
    """Binds a loss to a view by parameter names: mean over examples of weight * loss.

    value = sum_i m_i w_i l_i / sum_i m_i c_i, with m = example_mask.

    Args:
      view: (params, carry, batch, key) -> {name: array}.
      loss: arrays -> [B]; a functools.partial where hyper-parameters are set.
      metrics: {name: function of named arrays -> [B] or Mean}, averaged over examples unless a Mean.
      weight: what multiplies the loss: an array's name or a function of named arrays -> [B]; its gradient is stopped.
      count: what the denominator counts: an array's name or a function of named arrays -> [B]; None counts examples.
        `count="lengths"` on a loss summed over tokens gives the token mean over the whole batch.
      bind: {parameter of the loss: array of the view} where the names differ.

    Returns:
      An objective. Raises ValueError at trace time when the view lacks what the loss, weight, count or a metric needs,
      or one of them has another shape than [B].
    """
    return Composed(view, loss, dict(metrics or {}), weight, count, dict(bind or {}))


def add(terms: Mapping[str, tuple[float | jax.Array, Objective]]) -> Objective:
    """sum_k c_k * objective_k, each term with its own denominator; terms with one view share its forward pass.

    Args:
      terms: {name: (coefficient, objective)}; each term's value is reported as the metric `loss/<name>`.

    Raises:
      ValueError: no terms, or two terms report a metric under one name.
    """
    if not terms:
        raise ValueError("add needs at least one term: {name: (coefficient, objective)}")

    def total(
        params: Any, carry: Any, batch: Any, key: jax.Array, *, cache: dict[int, Any] | None = None
    ) -> tuple[Mean, dict[str, Mean]]:
        cache = {} if cache is None else cache
        totals, weights, metrics = {}, {}, {}
        for name, (coefficient, objective) in terms.items():
            mean, own = objective(params, carry, batch, key, cache=cache)
            totals[name] = jax.tree.map(lambda x, c=coefficient: c * x, mean.total)
            weights[name] = mean.weight
            plain = {} if isinstance(mean.total, dict) else {f"loss/{name}": jax.lax.stop_gradient(mean)}
            for metric, value in {**plain, **own}.items():
                if metric in metrics:
                    raise ValueError(f"add: the metric {metric!r} is reported by two terms; rename it in {name!r}")
                metrics[metric] = value
        return Mean(totals, weights), metrics

    total.coupled = any(is_coupled(objective) for _, objective in terms.values())
    return total


def scale(objective: Objective, factor: float | jax.Array | Callable[[jax.Array], jax.Array]) -> Objective:
    """The objective times a number, or times a schedule of the step (read from `carry["step"]`)."""

    def scaled(params: Any, carry: Any, batch: Any, key: jax.Array, **shared: Any) -> tuple[Mean, dict[str, Mean]]:
        mean, metrics = objective(params, carry, batch, key, **shared)
        by = factor(carry["step"]) if callable(factor) else factor
        return Mean(jax.tree.map(lambda x: by * x, mean.total), mean.weight), metrics

    scaled.coupled = is_coupled(objective)
    return scaled


def rename(view: View, names: Mapping[str, str]) -> View:
    """The view with some arrays under other names: {new name: name in the view}; the rest stays.

    Raises:
      ValueError: at trace time, a name that the view does not give.
    """

    def renamed(params: Any, carry: Any, batch: Any, key: jax.Array) -> Named:
        named = view(params, carry, batch, key)
        for old in names.values():
            if old not in named:
                raise ValueError(f"rename: view {name_of(view)} gives no {old!r}; {did_you_mean(old, named)}")
        kept = set(named) - set(names.values())
        sources = {**{name: name for name in named if name in kept}, **names}
        return Named({new: functools.partial(named.__getitem__, old) for new, old in sources.items()})

    return renamed


@dataclasses.dataclass(frozen=True)
class Accumulated:
    """An objective evaluated micro-batch by micro-batch; made by `accumulate`."""

    objective: Objective
    steps: int

    coupled = False

    def split(self, batch: Any) -> Any:
        """The batch with every array cut into `steps` micro-batches along its leading axis: [steps, n / steps, ...]."""

        def cut(path: Any, x: jax.Array) -> jax.Array:
            if x.shape[0] % self.steps:
                raise ValueError(
                    f"accumulate: batch{jax.tree_util.keystr(path)} has leading axis {x.shape[0]}, which "
                    f"{self.steps} micro-batches do not divide"
                )
            return jnp.reshape(x, (self.steps, x.shape[0] // self.steps, *x.shape[1:]))

        return jax.tree_util.tree_map_with_path(cut, batch)

    def __call__(
        self, params: Any, carry: Any, batch: Any, key: jax.Array, *, cache: dict[int, Any] | None = None
    ) -> tuple[Mean, dict[str, Mean]]:
        def body(total: Any, item: Any) -> tuple[Any, None]:
            index, micro = item
            part = self.objective(params, carry, micro, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, part), None

        micros = self.split(batch)
        shapes = jax.eval_shape(lambda: self.objective(params, carry, jax.tree.map(lambda x: x[0], micros), key))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(jax.checkpoint(body), zeros, (jnp.arange(self.steps), micros))
        return total


def accumulate(objective: Objective, steps: int) -> Objective:
    """The same objective and gradient from `steps` micro-batches, in the memory of one.

    Args:
      objective: one whose loss does not couple the examples of a batch.
      steps: micro-batches; must divide every leading axis of the batch.

    Raises:
      ValueError: a coupled loss (its batch statistics would change with the split), or `steps` < 1.
    """
    if steps < 1:
        raise ValueError(f"accumulate: steps must be at least 1, got {steps}")
    if steps == 1:
        return objective
    if is_coupled(objective):
        raise ValueError(
            f"accumulate: {described(objective)} couples the examples of a batch; "
            "splitting it would change the loss. Use a larger batch or more devices."
        )
    return Accumulated(objective, steps)

"""Nelder-Mead, one evaluation at a time: for a search inside a run, such as over the thresholds of rewards."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# Reflection, expansion, contraction and shrinking of the simplex.
REFLECT, EXPAND, CONTRACT, SHRINK = 1.0, 2.0, 0.5, 0.5


@dataclasses.dataclass(frozen=True)
class Search:
    """A simplex [D + 1, D] with the values found at its vertices (NaN: not yet), and the trial under way.

    `ask(search)` is the point to try next and `tell(search, value)` the search that knows its value; everything is
    plain arrays and strings. Larger values are better.
    """

    points: np.ndarray
    values: np.ndarray
    stage: str = "start"
    trial: np.ndarray | None = None
    reflected: tuple[np.ndarray, float] | None = None


def start(point: np.ndarray, *, step: float | np.ndarray) -> Search:
    """A search from the simplex of `point` [D] and `step` away along each axis."""
    point = np.asarray(point, np.float64)
    corners = point + np.concatenate([np.zeros((1, len(point))), np.diag(np.broadcast_to(step, point.shape))])
    return Search(corners, np.full(len(corners), np.nan))


def ask(search: Search) -> np.ndarray:
    """[D] the point whose value `tell` expects."""
    if search.trial is not None:
        return search.trial
    return search.points[int(np.argmax(np.isnan(search.values)))]


def best(search: Search) -> tuple[np.ndarray, float]:
    """The best vertex so far and its value; NaN before the first `tell`."""
    index = int(np.nanargmax(search.values)) if not np.all(np.isnan(search.values)) else 0
    return search.points[index], float(search.values[index])


def _along(search: Search, distance: float) -> np.ndarray:
    """From the centre of all but the worst vertex, which is the last, away from that worst one."""
    centre = search.points[:-1].mean(axis=0)
    return centre + distance * (centre - search.points[-1])


def _reflect(search: Search) -> Search:
    order = np.argsort(-search.values, kind="stable")
    ordered = Search(search.points[order], search.values[order])
    return dataclasses.replace(ordered, stage="reflect", trial=_along(ordered, REFLECT))


def _accept(search: Search, point: np.ndarray, value: float) -> Search:
    points, values = search.points.copy(), search.values.copy()
    points[-1], values[-1] = point, value
    return _reflect(Search(points, values))


def tell(search: Search, value: float) -> Search:
    """The search after its trial point turned out to be worth `value`.

    Args:
      search: made by `start` or `tell`. value: finite; larger is better.
    Returns: Search. Raises: ValueError if the value is not finite.
    Reference: Classical (Nelder and Mead, 1965); over the thresholds of constrained RLHF Moskovitz et al., "Confronting
      Reward Model Overoptimization with Constrained RLHF", 2023, arXiv:2310.04373. Reconstructed: the paper's variant
      was not read; these are the textbook's moves.
    """
    if not np.isfinite(value):
        raise ValueError(f"tell: value={value} must be finite")
    if search.trial is None:
        values = search.values.copy()
        values[int(np.argmax(np.isnan(values)))] = value
        known = dataclasses.replace(search, values=values)
        return known if np.any(np.isnan(values)) else _reflect(known)
    if search.stage == "reflect":
        if value > search.values[0]:
            tried: Any = dict(stage="expand", trial=_along(search, EXPAND), reflected=(search.trial, value))
            return dataclasses.replace(search, **tried)
        if value > search.values[-2]:
            return _accept(search, search.trial, value)
        outside = value > search.values[-1]
        tried = dict(
            stage="contract",
            trial=_along(search, CONTRACT if outside else -CONTRACT),
            reflected=(search.trial, value if outside else search.values[-1]),
        )
        return dataclasses.replace(search, **tried)
    assert search.reflected is not None
    if search.stage == "expand":
        return _accept(search, *((search.trial, value) if value > search.reflected[1] else search.reflected))
    if value > search.reflected[1]:
        return _accept(search, search.trial, value)
    points = search.points[0] + SHRINK * (search.points - search.points[0])
    values = np.where(np.arange(len(points)) == 0, search.values, np.nan)
    return Search(points, values)

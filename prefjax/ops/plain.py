"""Plain forms, of which jax takes every derivative; the fast ones know first derivatives in reverse mode alone."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_ASKED: contextvars.ContextVar[bool] = contextvars.ContextVar("plain_forms", default=False)


def asked() -> bool:
    """Whether what is traced now is to take plain forms."""
    return _ASKED.get()


@contextlib.contextmanager
def forms() -> Iterator[None]:
    """What is traced inside takes no kernel, chunk or block: for forward mode and for second derivatives of a model.

        with plain.forms():
            curvature = jax.jvp(jax.grad(loss), (params,), (direction,))[1]

    It holds [T, T] attention weights and [tokens, vocabulary] logits. A function that was jitted and called before
    keeps the form it was traced with.
    """
    token = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(token)

"""A progress bar of steps, loss and tokens per second; plain lines where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import jax
from tqdm import tqdm


def _seconds(seconds: float) -> str:
    return tqdm.format_interval(max(0, round(seconds)))


class Progress:
    """A bar on a terminal, a line every `every` seconds elsewhere, nothing on processes other than the first.

    Args:
      total: the step the run ends at.
      initial: the step it starts from; rates and ETA count from here.
      every: seconds between two lines where `stream` is no terminal, and over which the rate is averaged.
      stream: where to write, standard error if None.
      clock: seconds from any origin.
      enabled: whether to show anything; None asks for process 0.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        every: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        enabled: bool | None = None,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._total, self._step, self._every, self._clock = total, initial, every, clock
        self._enabled = jax.process_index() == 0 if enabled is None else enabled
        self._marks = [(clock(), initial, 0)]  # (time, step, tokens) at the last few updates, the rate's window
        self._tokens, self._loss, self._last_line = 0, None, clock()
        self._bar: Any = None
        if self._enabled and self._stream.isatty():
            self._bar = tqdm(total=total, initial=initial, file=self._stream, dynamic_ncols=True, unit="step")

    def update(self, step: int, *, loss: float | None = None, tokens: int = 0) -> None:
        """Moves to `step`; `loss` is the newest one known, `tokens` those consumed since the last call."""
        now = self._clock()
        self._tokens += tokens
        self._loss = loss if loss is not None else self._loss
        moved, self._step = step - self._step, step
        self._marks.append((now, step, self._tokens))
        while len(self._marks) > 2 and now - self._marks[1][0] >= self._every:
            self._marks.pop(0)
        if not self._enabled:
            return
        if self._bar is not None:
            shown = {}
            if self._loss is not None:
                shown["loss"] = f"{self._loss:.4g}"
            if self._tokens:
                shown["tokens/s"] = f"{self.tokens_per_second:,.0f}"
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(moved)
        elif now - self._last_line >= self._every or step >= self._total:
            self._last_line = now
            print(self.line(), file=self._stream, flush=True)

    def skip(self, seconds: float) -> None:
        """Takes time that was no step's, such as compiling, out of the rates."""
        self._marks = [(when + seconds, step, tokens) for when, step, tokens in self._marks]
        self._last_line += seconds

    @property
    def tokens_per_second(self) -> float:
        """Over the last `every` seconds."""
        (start, _, before), (end, _, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds to the last step at the recent rate, None before the first step."""
        (start, before, _), (end, after, _) = self._marks[0], self._marks[-1]
        if after <= before or end <= start:
            return None
        return (self._total - after) * (end - start) / (after - before)

    def line(self) -> str:
        """The state of the run in one line of text."""
        parts = [f"step {self._step}/{self._total}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if self._tokens:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.eta is not None:
            parts.append(f"ETA {_seconds(self.eta)}")
        return "  ".join(parts)

    def message(self, text: str) -> None:
        """A line of text that does not break the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._enabled:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

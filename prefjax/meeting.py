"""A barrier that tells where the others are: one that failed, and waits elsewhere, does not keep them for minutes."""

from __future__ import annotations

import collections
from typing import Any

import jax
from orbax.checkpoint import multihost

TIMEOUT_MS = 20 * 60 * 1000  # orbax's own
_MADE: collections.Counter[str] = collections.Counter()


class Apart(RuntimeError):
    """The processes of a job met, but not at the same place of their program."""


class Meeting:
    """The barrier of orbax's background threads (`AsyncOptions.barrier_sync_fn`), for one manager of checkpoints.

    A thread that failed to write goes straight to a later barrier than the others, and each would wait out orbax's 20
    minutes. Here whoever comes to a barrier meets the others where they are, and all learn that they are apart. From
    then on none waits any more.

    Args:
      name: the same in all processes, which make the meetings of a name in the same order.
    """

    def __init__(self, name: str):
        _MADE[name] += 1
        self._name, self._count, self._apart = f"{name}/{_MADE[name]}", 0, ""

    def __call__(self, *, key: str, timeout_ms: int = TIMEOUT_MS) -> None:
        if not self._apart:
            self._count += 1
            self._apart = self._compared(key, timeout_ms)
        if self._apart:
            raise Apart(self._apart)

    def _compared(self, key: str, timeout_ms: int) -> str:
        """What is wrong: nothing where all are at `key`."""
        client: Any = multihost.get_jax_distributed_client()
        before, now = (f"{self._name}/{count}/" for count in (self._count - 1, self._count))
        client.key_value_set(f"{now}{jax.process_index()}", key)
        client.wait_at_barrier(now, timeout_ms)
        if jax.process_index() == 0:
            client.key_value_delete(before)  # all have read it
        places = {path.rsplit("/", 1)[1]: place for path, place in client.key_value_dir_get(now)}
        if len(set(places.values())) == 1:
            return ""
        told = "; ".join(f"process {index} at {places[index]}" for index in sorted(places, key=int))
        return f"a process could not write its part, its log says why: {told}"

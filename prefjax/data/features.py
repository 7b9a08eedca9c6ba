"""A store of embeddings on disk: each distinct text is embedded once by each encoder, whatever runs ask for it.

`<folder>/<encoder fingerprint>/part-*.safetensors` hold `keys` [n, 16] (of SHA-256 of the text) and `features` [n, D];
a part is written whole every `CHUNK` texts, so that an interrupted pass goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CHUNK = 1024
KEY = 16  # bytes


class Embedder(Protocol):
    """What embeds texts, such as `prefjax.models.embedding.TextEncoder`."""

    @property
    def size(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of all that an embedding depends on beside its text."""
        ...

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[N, size] float32."""
        ...


def key_of(text: str) -> bytes:
    """The content hash that a text's embedding is stored under."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY]


class FeatureStore:
    """Embeddings of an encoder by text, from disk where they are and else computed and stored.

    Attributes:
      computed, found: distinct texts that were embedded, and that were on disk already.
    """

    def __init__(self, embedder: Embedder, folder: str | os.PathLike[str] | None = None):
        """Opens the parts of this encoder under `folder`; None keeps nothing beyond this object."""
        self.embedder, self.computed, self.found = embedder, 0, 0
        self.folder = None if folder is None else pathlib.Path(folder) / embedder.fingerprint
        self._where: dict[bytes, tuple[pathlib.Path, int]] = {}
        self._memory: dict[bytes, np.ndarray] = {}
        for part in sorted(self.folder.glob("part-*.safetensors")) if self.folder and self.folder.is_dir() else ():
            self._index(part)

    def _index(self, part: pathlib.Path) -> None:
        try:
            with safe_open(part, framework="np") as file:
                keys, shape = file.get_tensor("keys"), file.get_slice("features").get_shape()
        except SafetensorError as error:
            raise ValueError(f"{part}: not a whole part of a feature store: {error}; remove it") from error
        if shape != [len(keys), self.embedder.size]:
            raise ValueError(f"{part}: features have shape {shape}; expected {[len(keys), self.embedder.size]}")
        self._where.update((key.tobytes(), (part, row)) for row, key in enumerate(keys))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] float32 embeddings in the order of `texts`; prints what was found and what was computed."""
        began, keys = time.monotonic(), [key_of(text) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        absent = [key for key in distinct if key not in self._where and key not in self._memory]
        for start in range(0, len(absent), CHUNK):
            self._add(absent[start : start + CHUNK], [distinct[key] for key in absent[start : start + CHUNK]])
        self.computed, self.found = self.computed + len(absent), self.found + len(distinct) - len(absent)
        print(
            f"features: {len(texts)} texts, {len(distinct)} distinct: {len(distinct) - len(absent)} stored, "
            f"{len(absent)} embedded in {time.monotonic() - began:.1f} s; encoder {self.embedder.fingerprint}",
            flush=True,
        )
        return self._gather(keys)

    def _add(self, keys: list[bytes], texts: list[str]) -> None:
        made = np.asarray(self.embedder(texts), np.float32)
        if self.folder is None:
            self._memory.update(zip(keys, made, strict=True))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Named by content: processes that embed the same texts at once write the same part
        name = f"part-{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}.safetensors"
        temporary = self.folder / f".{name}.{os.getpid()}"
        flat = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY)
        save_file({"keys": flat, "features": made}, temporary)
        os.replace(temporary, self.folder / name)
        self._where.update((key, (self.folder / name, row)) for row, key in enumerate(keys))

    def _gather(self, keys: list[bytes]) -> np.ndarray:
        """Reads part by part, from mapped files: beside the result the host holds one part."""
        out = np.empty((len(keys), self.embedder.size), np.float32)
        wanted: dict[pathlib.Path, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            if key in self._memory:
                out[place] = self._memory[key]
            else:
                part, row = self._where[key]
                wanted.setdefault(part, []).append((place, row))
        for part, pairs in wanted.items():
            with safe_open(part, framework="np") as file:
                places, rows = np.array(pairs).T
                out[places] = file.get_tensor("features")[rows]
        return out

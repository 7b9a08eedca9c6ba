"""A store of reference log-probs on disk: each response's is computed once for each reference, whatever runs need it.

`<folder>/<reference's fingerprint>/part-*.safetensors` hold `keys` [n, 16] (of SHA-256 of prompt and response tokens)
and `logps` [n] in nats; a part is written whole, so that an interrupted pass goes on where it was. Several processes
write parts of their own, and read those of all.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from prefjax.data.packing import Corpus

KEY = 16  # bytes
CONTEXT = "context_lengths"  # tokens that a response begins with, seen but not scored


def key_of(prompt: np.ndarray, response: np.ndarray, context: int = 0) -> bytes:
    """The content hash that a response's log-prob is stored under; its first `context` tokens are not scored."""
    digest = hashlib.sha256(np.asarray([len(prompt), *([context] if context else [])], np.int64).tobytes())
    digest.update(np.ascontiguousarray(prompt, np.int32).tobytes() + np.ascontiguousarray(response, np.int32).tobytes())
    return digest.digest()[:KEY]


def keys_of(corpus: Corpus) -> list[list[bytes]]:
    """The keys of the responses of each example; responses that do not exist have none."""
    contexts = corpus.fields.get(CONTEXT, np.zeros((len(corpus), corpus.responses)))
    out = []
    for ends, sizes in zip(corpus.bounds, contexts, strict=True):
        prompt = corpus.tokens[ends[0] : ends[1]]
        spans = zip(ends[1:-1], ends[2:], sizes, strict=True)
        out.append([key_of(prompt, corpus.tokens[a:b], int(size)) for a, b, size in spans if b > a])
    return out


class ReferenceStore:
    """Log-probs of responses under one reference, by content."""

    def __init__(self, folder: str | os.PathLike[str], reference: str, *, writer: int = 0):
        """Reads the parts of the reference of that fingerprint under `folder`; `writer` is which process adds some."""
        self.folder, self._writer = pathlib.Path(folder) / reference, writer
        self._logps: dict[bytes, float] = {}
        for part in sorted(self.folder.glob("part-*.safetensors")) if self.folder.is_dir() else ():
            try:
                found = load_file(part)
            except SafetensorError as error:
                raise ValueError(f"{part}: not a whole part of a reference store: {error}; remove it") from error
            self._logps.update(zip((key.tobytes() for key in found["keys"]), found["logps"].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._logps)

    def __contains__(self, key: bytes) -> bool:
        return key in self._logps

    def add(self, keys: Sequence[bytes], logps: np.ndarray) -> None:
        """Keeps log-probs of responses, and writes them as a part."""
        if not keys:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}-{self._writer}.safetensors"
        temporary = self.folder / f".{name}.{os.getpid()}"
        flat = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY)
        save_file({"keys": flat, "logps": np.asarray(logps, np.float32)}, temporary)
        os.replace(temporary, self.folder / name)
        self._logps.update(zip(keys, np.asarray(logps, np.float32).tolist(), strict=True))

    def field(self, corpus: Corpus) -> np.ndarray:
        """[n, K] float32: `ref_logps` of a corpus, 0 where a response does not exist.

        Raises:
          KeyError: a response is not in the store.
        """
        out = np.zeros((len(corpus), corpus.responses), np.float32)
        for row, keys in enumerate(keys_of(corpus)):
            out[row, : len(keys)] = [self._logps[key] for key in keys]
        return out

"""Texts to vectors: an encoder with its tokenizer behind one call, and a fingerprint of all that decides the result."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from prefjax import leaves
from prefjax.models import encoder as encoders
from prefjax.models import hf_encoder
from prefjax.models.encoder import Encoder

TOKENS = 4096  # padded tokens a device call
STEP = 32  # lengths are rounded up to a multiple, so that few shapes are compiled
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
    """Embeds texts; the result for a text does not depend on the texts beside it (to rounding).

    Attributes:
      model, params: the encoder.
      tokenize: texts -> ids of each, special tokens put, cut to `max_length`.
      max_length: most tokens of a text.
      rule: names how texts become ids, for the fingerprint.
    """

    model: Encoder
    params: Any
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    max_length: int
    rule: str

    @property
    def size(self) -> int:
        """Length of an embedding."""
        return self.model.config.hidden_size

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of config, parameters, tokenizer and cut: what an embedding depends on beside its text."""
        config = {k: v for k, v in dataclasses.asdict(self.model.config).items() if k not in ("remat", "attention")}
        digest = hashlib.sha256(json.dumps([config, self.max_length, self.rule], sort_keys=True).encode())
        for name, leaf in sorted(leaves.named_leaves(self.params).items()):
            digest.update(f"{name}{leaf.dtype}{leaf.shape}".encode())
            digest.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
        return digest.hexdigest()[:16]

    @functools.cached_property
    def _embed(self) -> Callable[..., jax.Array]:
        return jax.jit(lambda params, tokens, segments: self.model.embed(params, tokens, None, segments)[:, 0])

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[N, size] float32; texts are sorted by length, so that little is padded."""
        ids = self.tokenize(texts)
        out = np.empty((len(texts), self.size), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for length, chosen in _groups(order, ids, self.max_length):
            rows = max(1, TOKENS // length)
            tokens, segments = np.zeros((2, rows, length), np.int32)
            for row, i in enumerate(chosen):
                tokens[row, : len(ids[i])], segments[row, : len(ids[i])] = ids[i], 1
            out[chosen] = np.asarray(self._embed(self.params, tokens, segments))[: len(chosen)]
        return out


def _groups(order: list[int], ids: list[list[int]], max_length: int) -> list[tuple[int, list[int]]]:
    """(padded length, indices) of each device call."""
    padded = {i: min(-(-max(len(ids[i]), 1) // STEP) * STEP, max_length) for i in order}
    out: list[tuple[int, list[int]]] = []
    for i in order:
        if not out or out[-1][0] != padded[i] or len(out[-1][1]) >= max(1, TOKENS // padded[i]):
            out.append((padded[i], []))
        out[-1][1].append(i)
    return out


def pretrained(folder: str = "minilm", *, max_length: int | None = None, dtype: str = "float32") -> TextEncoder:
    """The encoder of a BERT folder, with its WordPiece tokenizer.

    Args:
      folder: a folder with config.json, safetensors and tokenizer.json; "minilm" for the installed package's.
      max_length: tokens at which a text is cut; None as the folder says (MiniLM: 256).
      dtype: of computation.

    Raises:
      FileNotFoundError: no such folder, no tokenizer.json, or the package with MiniLM is not installed.
    """
    import tokenizers

    path = hf_encoder.minilm() if folder == "minilm" else pathlib.Path(folder)
    file = path / "tokenizer.json"
    model = hf_encoder.encoder_from(path, dtype=dtype)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected the tokenizer beside the weights")
    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.no_padding()
    limit = hf_encoder.max_length(path) if max_length is None else max_length
    if not 2 < limit <= model.config.max_positions:
        raise ValueError(f"max_length={limit}: expected 3 to {model.config.max_positions}, the encoder's positions")
    backend.enable_truncation(limit)

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts))]

    params = hf_encoder.read_encoder(path, model)
    return TextEncoder(model, params, tokenize, limit, hashlib.sha256(backend.to_str().encode()).hexdigest())


def random(*, seed: int = 0, size: int = 128, vocab_size: int = 2048, max_length: int = 128) -> TextEncoder:
    """An encoder that learned nothing: two random layers on words, each word's id a hash of it.

    What a pretrained encoder must beat: its embeddings still say which words a text has, and a little of their order.

    Args:
      seed: of the parameters. size: of embeddings. vocab_size: ids that words are hashed to. max_length: words kept.
    """
    model = encoders.encoder(
        vocab_size=vocab_size, hidden_size=size, num_layers=2, num_heads=4, max_positions=max_length, init_std=0.1
    )

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        words = (_WORD.findall(text.lower())[:max_length] or [""] for text in texts)
        return [[zlib.crc32(word.encode()) % vocab_size for word in text] for text in words]

    return TextEncoder(model, model.init(jax.random.key(seed)), tokenize, max_length, "hashed words")

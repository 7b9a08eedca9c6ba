"""A tokenizer's files in a Hugging Face folder, such that transformers makes of a text the ids that training saw."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

from prefjax.models import hf_files

CONFIG, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
FILES = (TOKENIZER, CONFIG, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
         "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")  # fmt: skip


def write(folder: pathlib.Path, tokenizer: Any, *, max_length: int, pad_token: str | None = None) -> None:
    """Writes the tokenizer's files.

    Here the pipeline adds the start token and in transformers the file's post-processor does, so one that adds
    something else is replaced.

    Args:
      folder: where to.
      tokenizer: a `prefjax.data.tokenization.Tokenizer`.
      max_length: the model's positions.
      pad_token: text of one of its tokens; None for none.
    """
    tokenizer.save(folder)
    plain = tokenizer.backend.encode("a", add_special_tokens=False).ids
    start = [tokenizer.bos_id] if tokenizer.add_bos else []
    if tokenizer.backend.encode("a").ids != [*start, *plain]:
        spec = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        spec["post_processor"] = _starting_with(tokenizer.bos_token, tokenizer.bos_id) if start else None
        (folder / TOKENIZER).write_text(json.dumps(spec, indent=2, ensure_ascii=False), encoding="utf-8")
    fields = {"model_max_length": max_length, **({} if pad_token is None else {"pad_token": pad_token})}
    hf_files.write_json(folder / CONFIG, hf_files.read_json(folder / CONFIG) | fields)


def _starting_with(token: str, number: int) -> dict[str, Any]:
    """A post-processor of the tokenizers library that puts one token before a text."""
    start, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 0}}
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text, other],
            "special_tokens": special}  # fmt: skip


def copy(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the tokenizer's files of a folder, those that it has."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)

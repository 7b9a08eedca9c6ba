"""A run as a folder that transformers (or peft) loads: parameters, tokenizer, chat template, special ids."""

from __future__ import annotations

import dataclasses
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp

from prefjax import checkpoint, recipe, rundir
from prefjax.data import templates, tokenization
from prefjax.data.sources import read_text
from prefjax.models import huggingface, lora, peft
from prefjax.models.decoder import LanguageModel

TOKENIZER = "tokenizer"


def export(
    workdir: str | pathlib.Path,
    folder: str | pathlib.Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    architecture: str | None = None,
    pad_token: str | None = None,
    adapter: bool = False,
) -> None:
    """Writes a checkpoint of a run; neither its data nor its mesh are needed.

    A run that started from a Hugging Face folder keeps that folder's config.json as spelled, and its tokenizer files
    where the run's tokenizer is the same. Parts that were learned beside the model are not written.

    Args:
      workdir: of the run. folder: new or empty.
      step: which checkpoint; None for the newest whole one.
      dtype: of the parameters, such as "bfloat16"; None keeps the run's.
      architecture, pad_token: see `huggingface.write_folder`.
      adapter: the adapters alone, in PEFT's format; else they are merged into their base.

    Raises:
      FileNotFoundError: no run, or no tokenizer in it.
      ValueError: no decoder, `adapter` of a run without adapters, or what `write_folder` refuses.
    """
    workdir = pathlib.Path(workdir)
    config: Any = rundir.load_config(workdir)
    tokenizer = tokenization.load(workdir / TOKENIZER)
    model = recipe.make_model(config.model, types.SimpleNamespace(tokenizer=tokenizer))
    if not isinstance(model, LanguageModel):
        raise ValueError(f"{workdir}: {config.model.fn} makes no decoder of prefjax.models.decoder")
    base = config.model.get("base", config.model)
    source = base.get("folder", None)
    if adapter:
        if not isinstance(model, lora.LoraModel):
            raise ValueError(f"{workdir}: the run has no adapters; leave out adapter=True")
        trained = checkpoint.load_params(workdir, step=step, template=_parts(model)[0])
        peft.write_adapter(folder, model, _cast(trained, dtype), base_model=source or "", architecture=architecture)
        return
    params = _cast(_merged(workdir, model, step), dtype)
    like = source if source and architecture is None and huggingface.is_folder(source) else None
    tokenizer = dataclasses.replace(tokenizer, chat_template=_template(config.data, tokenizer))
    same = like is not None and pad_token is None and _tokenizer_of(like) == tokenizer.fingerprint
    huggingface.write_folder(
        folder,
        model,
        params,
        tokenizer=None if same else tokenizer,
        architecture=architecture,
        pad_token=pad_token,
        like=like,
    )


def _parts(model: lora.LoraModel) -> Any:
    return jax.eval_shape(lambda key: model.split(model.init(key), key), jax.random.key(0))


def _merged(workdir: pathlib.Path, model: Any, step: int | None) -> Any:
    if not isinstance(model, lora.LoraModel):
        return checkpoint.load_params(workdir, step=step)
    trained, carry = _parts(model)
    params = checkpoint.load_params(workdir, step=step, template=trained)
    frozen = checkpoint.load_params(workdir, step=step, subtree=f"carry/{lora.BASE}", template=carry[lora.BASE])
    return model.merged(params, {lora.BASE: frozen})


def _cast(params: Any, dtype: str | None) -> Any:
    return params if dtype is None else jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), params)


def _template(data: Any, tokenizer: tokenization.Tokenizer) -> str | None:
    """The chat template by which the run read conversations; of data that has none, the tokenizer's."""
    while data.get("prompts", None) is not None:  # online data hold those of their prompts
        data = data.prompts
    if "chat_template" not in data:
        return tokenizer.chat_template
    named = data.chat_template or tokenizer.chat_template or templates.DEFAULT
    return read_text(pathlib.Path(named)) if named.endswith(".jinja") else named


def _tokenizer_of(folder: str) -> str | None:
    try:
        return tokenization.load(folder).fingerprint
    except (FileNotFoundError, ValueError):
        return None

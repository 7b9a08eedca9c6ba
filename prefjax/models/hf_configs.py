"""A config.json of Hugging Face and a decoder's config, each from the other."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

from prefjax.config import did_you_mean
from prefjax.models import rope
from prefjax.models.decoder import DecoderConfig, decoder
from prefjax.models.hf_families import FAMILIES, Family, Fields, Switches

# Fields that change what a model computes in ways no switch of `decoder` follows; they must be absent or false.
_REFUSED = (
    "quantization_config",
    "use_bidirectional_attention",
    "scale_attn_by_inverse_layer_idx",
    "add_cross_attention",
)
# Switches that say how a model is computed or begins, not which function of its parameters it is.
_FREE = {"dtype", "param_dtype", "remat", "scan_layers", "attention", "init_std", "global_every", "global_layers"}
_HEADS = {"lm_head", "outputs", "tied", "logit_softcap", "head_bias", "score_bias"}
ENCODERS = ("bert",)
_OF_IMAGES = ("text_config", "vision_config", "mm_tokens_per_image")
_WITH_IMAGES = ("Gemma3ForConditionalGeneration", "Gemma3ForSequenceClassification")


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a config.json describes.

    Attributes:
      family: its family.
      head: "lm", "score" or "bare": which head its tensors have.
      switches: keyword arguments of `decoder`.
      tied: whether the output head, if there is one, is the embedding.
    """

    family: Family
    head: str
    switches: Switches
    tied: bool


def parse(config: Mapping[str, Any], where: str) -> Folder:
    """Reads a config.json.

    Args:
      config: its content.
      where: its path, for messages.

    Raises:
      ValueError: a family, class, activation, rope type or other field that is not known, named with what is.
    """
    classes, config = config.get("architectures"), of_text(config)
    kind = config.get("model_type")
    if kind in ENCODERS:
        raise ValueError(f"{where}: model_type={kind!r} is an encoder; read it with prefjax.models.hf_encoder")
    if kind not in FAMILIES:
        raise ValueError(f"{where}: model_type={kind!r} is unknown; {did_you_mean(str(kind), FAMILIES)}")
    family = FAMILIES[kind]
    fields = Fields(where, config, family.defaults)
    for name in _REFUSED:
        if fields.get(name):
            raise ValueError(f"{where}: {name}={fields.get(name)!r} is not supported; expected it absent or false")
    head = _head(family, classes, where)
    switches = family.read(fields)
    fields.refuse_unread()
    tied = switches["tied"]
    if head == "score":
        labels = fields.get("id2label")
        switches = without_lm_head(switches) | {"outputs": len(labels) if labels else fields.get("num_labels") or 2}
    elif head == "bare" and not tied:
        switches = without_lm_head(switches)
    return Folder(family, head, switches, tied)


def of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json, or of one with an image encoder (Gemma 3) what it says of the text model."""
    if config.get("model_type") != "gemma3" or not isinstance(config.get("text_config"), Mapping):
        return config
    outer = {name: value for name, value in config.items() if name not in _OF_IMAGES}
    tied = config.get("tie_word_embeddings", True)
    return {"tie_word_embeddings": tied, **outer, **config["text_config"], "model_type": "gemma3_text"}


def _head(family: Family, classes: Any, where: str) -> str:
    if not classes:
        return "lm"
    known = {family.lm: "lm", family.score: "score", family.bare: "bare"}
    if family.model_type == "gemma3_text":
        known |= dict(zip(_WITH_IMAGES, ("lm", "score"), strict=True))
    if classes[0] not in known:
        raise ValueError(f"{where}: architectures[0]={classes[0]!r} is unknown; {did_you_mean(classes[0], known)}")
    return known[classes[0]]


def without_lm_head(switches: Switches) -> Switches:
    """The switches of the same body with no output head."""
    return {**switches, "lm_head": False, "tied": False, "logit_softcap": None}


def describe(cfg: DecoderConfig, architecture: str | None) -> tuple[Family, str, dict[str, Any]]:
    """The family, the head ("lm" or "score") and the fields of config.json for a decoder.

    Args:
      cfg: `LanguageModel.config`.
      architecture: a model_type or a class name; None takes the first family that computes the same function, with the
        score head where the decoder has one.

    Raises:
      ValueError: an unknown architecture, or a switch that no family (or not the named one) has.
    """
    names = {f.model_type: (f, "score" if cfg.outputs else "lm") for f in FAMILIES.values()}
    names |= {getattr(f, head): (f, head) for f in FAMILIES.values() for head in ("lm", "score")}
    if architecture is not None and architecture not in names:
        raise ValueError(f"architecture={architecture!r} is unknown; {did_you_mean(architecture, names)}")
    tried = [names[name] for name in (FAMILIES if architecture is None else [architecture])]
    found = []
    for family, head in tried:
        wrong = _missing_head(cfg, head) + _lost(family, cfg, head)
        if not wrong:
            return family, head, _fields(family, cfg, head)
        found.append((len(wrong), family.model_type, wrong))
    _, nearest, wrong = min(found, key=lambda item: item[0])
    what = f"architecture={architecture!r} is not" if architecture else "no Hugging Face family is"
    raise ValueError(f"{what} this decoder; what {nearest} does not have: {', '.join(wrong)}")


def like(config: Mapping[str, Any], cfg: DecoderConfig, where: str) -> tuple[Family, str, dict[str, Any]]:
    """As `describe`, with the fields of a config.json that a decoder was read from, spelled as there.

    Args:
      config: its content.
      cfg: `LanguageModel.config`; it may have a new score head.
      where: its path, for messages.

    Raises:
      ValueError: the decoder computes another function than `config` says, naming the switches.
    """
    described = parse(config, where)
    head = "score" if cfg.outputs else "lm"
    wrong = _missing_head(cfg, head)
    wrong += [f"{name}={own!r}" for name, (_, own) in differences(described.switches, cfg).items()]
    if head == "lm":
        if described.head != "lm":
            wrong.append("lm_head=True")
        wrong += _other_heads(described.switches, cfg)
    if wrong:
        raise ValueError(f"{where} is not this decoder; what it does not have: {', '.join(wrong)}")
    fields = dict(of_text(config)) | {"architectures": [getattr(described.family, head)]}
    if head == "score" and len(fields.get("id2label") or ()) != cfg.outputs:
        fields |= _labels(cfg)
    return described.family, head, fields


def _labels(cfg: DecoderConfig) -> dict[str, Any]:
    labels = [f"LABEL_{i}" for i in range(cfg.outputs)]
    return {"id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)}}  # fmt: skip


def _fields(family: Family, cfg: DecoderConfig, head: str) -> dict[str, Any]:
    fields = {"architectures": [getattr(family, head)], "model_type": family.model_type, **family.write(cfg)}
    return fields | (_labels(cfg) if head == "score" else {})


def _missing_head(cfg: DecoderConfig, head: str) -> list[str]:
    if head == "lm":
        return [] if cfg.lm_head else ["lm_head=False"]
    return (["score_bias=True"] if cfg.score_bias else []) if cfg.outputs else ["outputs=0"]


def differences(switches: Switches, cfg: DecoderConfig) -> dict[str, tuple[Any, Any]]:
    """{switch: (its value in `switches`, in `cfg`)} for what makes another function of the body, heads left aside."""
    theirs, own = _canonical(_resolved(switches)), _canonical(dataclasses.asdict(cfg))
    names = [name for name in own if name not in _HEADS and not _same(own[name], theirs[name])]
    if "sliding_window" in names:  # says which layers slide as well
        names.remove("local_layers")
    return {name: (theirs[name], own[name]) for name in names}


def _lost(family: Family, cfg: DecoderConfig, head: str) -> list[str]:
    """Switches of `cfg` that are lost on the way through the family's config.json."""
    switches = parse(_fields(family, cfg, head), "config.json").switches
    wrong = [f"{name}={own!r}" for name, (_, own) in differences(switches, cfg).items()]
    return wrong + (_other_heads(switches, cfg) if head == "lm" else [])


def _other_heads(switches: Switches, cfg: DecoderConfig) -> list[str]:
    back, own = _resolved(switches), dataclasses.asdict(cfg)
    return [f"{n}={own[n]!r}" for n in ("tied", "logit_softcap", "head_bias") if not _same(own[n], back[n])]


def _resolved(switches: Switches) -> Switches:
    """All switches with what `decoder` makes of its defaults, without building a model."""
    out = {name: p.default for name, p in inspect.signature(decoder).parameters.items()} | switches
    scale, bias = out["attention_scale"], out["norm_bias"]
    out["attention_scale"] = out["head_dim"] ** -0.5 if scale is None else scale
    out["norm_bias"] = out["norm"] == "layer" if bias is None else bias
    out["rope_scaling"] = rope.parse_scaling(out["rope_scaling"])
    return out


def _canonical(switches: Switches) -> Switches:
    """Switches that differ only where the function differs."""
    out = {name: value for name, value in switches.items() if name not in _FREE}
    layers, window = range(out["num_layers"]), out["sliding_window"]
    every, full = switches["global_every"], switches["global_layers"]
    local = tuple(bool(window) and not (every and (i + 1) % every == 0) and i not in full for i in layers)
    scaling = out["rope_scaling"]
    if scaling is not None and scaling["rope_type"] == "dynamic":
        length = scaling["original_max_position_embeddings"] or out["max_positions"]
        out |= {"max_positions": length, "rope_scaling": {**scaling, "original_max_position_embeddings": 0}}
    if not any(local):
        out |= {"sliding_window": None, "rope_local_theta": None}
    elif out["rope_local_theta"] == out["rope_theta"] and scaling is None:
        out["rope_local_theta"] = None
    if out["positions"] != "rope":
        out["rope_theta"] = None
    return {**out, "local_layers": local}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-7)
    return a == b

"""Names and layouts of a family's tensors: which parameters of a decoder each tensor of Hugging Face holds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from prefjax.models.decoder import DecoderConfig

Index = tuple[slice, ...]  # with start and stop
SCORE = "score.weight"
# What the names of the body start with, beside the family's own: saved without a head, or beside an image encoder
OTHER_BASES = ("", "language_model.model.", "model.language_model.")
HEADS = ("lm_head.weight", "embed_out.weight", "language_model.lm_head.weight")
# Masks and frequencies that older versions stored, and the image part of a model that is read for its text alone
IGNORED = re.compile(
    r"rotary_emb\.inv_freq$|\.(attn|attention)\.(masked_)?bias$"
    r"|^(model\.)?(vision_tower|multi_modal_projector)\."
)


class Form(Protocol):
    """How one tensor holds one or several parameters (parts); a layer's axis is not part of a shape here.

    Attributes:
      first: the axis of a part that lies along the tensor's first.
    """

    first: int

    def shape(self, parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The tensor's shape."""
        ...

    def read(self, source: Any, number: int, index: Index, widths: Sequence[int]) -> np.ndarray:
        """`parts[number][index]` from a source that can be sliced; `widths` are the parts' last axes."""
        ...

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The tensor."""
        ...


class _Same:
    """The parameter as it is."""

    first = 0

    def shape(self, parts):
        return parts[0]

    def read(self, source, number, index, widths):
        return source[index]

    def join(self, parts):
        return parts[0]


class _Transposed:
    """A linear layer of torch, [outputs, inputs]."""

    first = -1

    def shape(self, parts):
        return parts[0][::-1]

    def read(self, source, number, index, widths):
        return source[index[::-1]].T

    def join(self, parts):
        return parts[0].T


class _Columns:
    """Parts side by side on the last axis: GPT-2's q, k and v."""

    first = 0

    def shape(self, parts):
        return (*parts[0][:-1], sum(part[-1] for part in parts))

    def read(self, source, number, index, widths):
        start = sum(widths[:number])
        return source[(*index[:-1], slice(start + index[-1].start, start + index[-1].stop))]

    def join(self, parts):
        return np.concatenate(parts, axis=-1)


@dataclasses.dataclass(frozen=True)
class _Interleaved:
    """Transposed, and head by head q, k and v: GPT-NeoX."""

    heads: int
    first = -1

    def shape(self, parts):
        return (sum(part[-1] for part in parts), *parts[0][:-1])

    def read(self, source, number, index, widths):
        head = widths[number] // self.heads
        rows, out = index[-1], []
        for one in range(rows.start // head, -(-rows.stop // head)):
            low, high = max(rows.start - one * head, 0), min(rows.stop - one * head, head)
            begin = (one * len(widths) + number) * head
            out.append(source[(slice(begin + low, begin + high), *index[:-1])])
        return np.concatenate(out).T

    def join(self, parts):
        split = [part.T.reshape(self.heads, -1, *part.shape[:-1]) for part in parts]
        return np.stack(split, axis=1).reshape(-1, *parts[0].shape[:-1])


SAME, TRANSPOSED, COLUMNS = _Same(), _Transposed(), _Columns()


class Tensor(NamedTuple):
    """A tensor of a folder.

    Attributes:
      name: with "{}" for the layer's number where there is one of each layer; without the body's base.
      paths: the parameters it holds, "layers/attn/q/kernel".
      form: how.
    """

    name: str
    paths: tuple[str, ...]
    form: Form

    @property
    def layered(self) -> bool:
        """Whether there is one for each layer."""
        return "{}" in self.name


def _linear(name: str, path: str, bias: bool, form: Form = TRANSPOSED) -> list[Tensor]:
    weight = Tensor(f"{name}.weight", (f"{path}/kernel",), form)
    return [weight, Tensor(f"{name}.bias", (f"{path}/bias",), SAME)] if bias else [weight]


def _norm(name: str, path: str, bias: bool) -> list[Tensor]:
    weight = Tensor(f"{name}.weight", (f"{path}/scale",), SAME)
    return [weight, Tensor(f"{name}.bias", (f"{path}/bias",), SAME)] if bias else [weight]


def _fused(name: str, bias: bool, weight: Form, of_bias: Form) -> list[Tensor]:
    def paths(leaf):
        return tuple(f"layers/attn/{part}/{leaf}" for part in "qkv")

    out = [Tensor(f"{name}.weight", paths("kernel"), weight)]
    return [*out, Tensor(f"{name}.bias", paths("bias"), of_bias)] if bias else out


def _llama_like(cfg: DecoderConfig) -> list[Tensor]:
    own, both = "layers.{}.", cfg.norm_placement == "both"
    names = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if both:
        names |= {
            "attn_post_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    out = [Tensor("embed_tokens.weight", ("embed/kernel",), SAME), *_norm("norm", "norm", False)]
    for path, name in names.items():
        out += _norm(own + name, f"layers/{path}", False)
    for part in "qkvo":
        bias = cfg.out_bias if part == "o" else cfg.qkv_bias
        out += _linear(f"{own}self_attn.{part}_proj", f"layers/attn/{part}", bias)
    for part in "qk" if cfg.qk_norm else "":
        out += _norm(f"{own}self_attn.{part}_norm", f"layers/attn/{part}_norm", False)
    for part in ("gate", "up", "down"):
        out += _linear(f"{own}mlp.{part}_proj", f"layers/mlp/{part}", cfg.mlp_bias)
    return out


def _gpt2(cfg: DecoderConfig) -> list[Tensor]:
    own = "h.{}."
    return [
        Tensor("wte.weight", ("embed/kernel",), SAME),
        Tensor("wpe.weight", ("positions/kernel",), SAME),
        *_norm("ln_f", "norm", True),
        *_norm(f"{own}ln_1", "layers/attn_norm", True),
        *_norm(f"{own}ln_2", "layers/mlp_norm", True),
        *_fused(f"{own}attn.c_attn", True, COLUMNS, COLUMNS),
        *_linear(f"{own}attn.c_proj", "layers/attn/o", True, SAME),
        *_linear(f"{own}mlp.c_fc", "layers/mlp/up", True, SAME),
        *_linear(f"{own}mlp.c_proj", "layers/mlp/down", True, SAME),
    ]


def _gpt_neox(cfg: DecoderConfig) -> list[Tensor]:
    own, heads = "layers.{}.", _Interleaved(cfg.num_heads)
    return [
        Tensor("embed_in.weight", ("embed/kernel",), SAME),
        *_norm("final_layer_norm", "norm", True),
        *_norm(f"{own}input_layernorm", "layers/attn_norm", True),
        *_norm(f"{own}post_attention_layernorm", "layers/mlp_norm", True),
        *_fused(f"{own}attention.query_key_value", cfg.qkv_bias, heads, heads),
        *_linear(f"{own}attention.dense", "layers/attn/o", cfg.out_bias),
        *_linear(f"{own}mlp.dense_h_to_4h", "layers/mlp/up", True),
        *_linear(f"{own}mlp.dense_4h_to_h", "layers/mlp/down", True),
    ]


_BODIES = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}


def body(model_type: str, cfg: DecoderConfig) -> list[Tensor]:
    """The tensors of a family's body, the embedding first; heads are not among them."""
    return _BODIES.get(model_type, _llama_like)(cfg)


def lm_head(model_type: str) -> str:
    """The name under which a family's output head is written."""
    return "embed_out.weight" if model_type == "gpt_neox" else "lm_head.weight"

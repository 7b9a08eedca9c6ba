"""All layers of a decoder by one kernel (`ops.native.layers`): for which models, and how it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from prefjax.models.layers import Table, pays
from prefjax.ops.native import layers as kernel
from prefjax.ops.native import library as native

if TYPE_CHECKING:
    from prefjax.models.decoder import DecoderConfig

# What the kernel computes: the layers of Llama in float32, nothing made twice
_IS: dict[str, Any] = {
    "norm": "rms",
    "norm_placement": "pre",
    "activation": "silu",
    "gated": True,
    "positions": "rope",
    "remat": "none",
    "dtype": "float32",
    "param_dtype": "float32",
    "attention": "auto",
}
_HAS_NO = (
    "parallel_residual",
    "sliding_window",
    "attention_softcap",
    "qk_norm",
    "qkv_bias",
    "out_bias",
    "mlp_bias",
)


def runs(cfg: DecoderConfig, x: jax.Array, stacked: Any) -> bool:
    """Whether the kernel is to run the layers: it knows the model, is faster at this size, and is usable here.

    Args:
      x: [R, T, D], the input of the first layer.
      stacked: parameters of the layers; matrices with adapters are merged for it, quantised ones are not its.
    """
    if any(getattr(cfg, name) != value for name, value in _IS.items()) or any(getattr(cfg, name) for name in _HAS_NO):
        return False
    arrays = (x, *_weights(stacked))
    if not all(isinstance(array, jax.Array) and array.dtype == jnp.float32 for array in arrays):
        return False
    return pays(cfg.hidden_size, cfg.intermediate_size, x.size) and native.usable("layers")


def layers(
    cfg: DecoderConfig,
    x: jax.Array,
    stacked: Any,
    mask: jax.Array,
    table: Table | None,
    segments: jax.Array | None,
    where: jax.Array | None,
) -> jax.Array:
    """[R, T, D] after all layers; 0 for padding, and for tokens that `where` [R, T] does not ask for.

    Args:
      mask: bool [R or 1, T, T]. table: cos and sin of the rotation. segments: [R, T], 0 for padding, or None.
    """
    assert table is not None
    facts = kernel.Facts(cfg.num_heads, cfg.num_kv_heads, cfg.norm_eps, cfg.attention_scale, cfg.norm_offset)
    real = jnp.ones(x.shape[:2], bool) if segments is None else segments > 0
    asked = real if where is None else real & where
    return kernel.run(facts, x, _weights(stacked), *table, mask & real[:, :, None], real, asked)


def _weights(stacked: Any) -> kernel.Weights:
    attn, mlp = ({name: _merged(part["kernel"]) for name, part in stacked[kind].items()} for kind in ("attn", "mlp"))
    return kernel.Weights(stacked["attn_norm"]["scale"], mlp_norm=stacked["mlp_norm"]["scale"], **attn, **mlp)


def _merged(matrix: Any) -> Any:
    """A matrix with adapters (`lora.Adapted`) over an array as one array; others as they are."""
    return matrix.merged() if isinstance(getattr(matrix, "base", None), jax.Array) else matrix

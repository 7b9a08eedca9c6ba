"""The modules of a decoder block (flax.nnx): they define parameters and their initial values, and apply them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from prefjax.models import rope
from prefjax.ops.native import library as native
from prefjax.ops.native import mlp as native_mlp

if TYPE_CHECKING:
    from prefjax.models.decoder import DecoderConfig

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
}
NATIVE_SIZE = 2**19  # tokens times the wide layer's units from which the MLP's kernel in C++ pays
NATIVE_WIDTH = 512  # the widest residual stream for which it was faster, on a processor without tiles


def pays(width: int, inner: int, size: int) -> bool:
    """Whether kernels in C++ are faster: an input of `size` numbers, `width` wide, `inner` in the MLP."""
    return size // width * inner >= NATIVE_SIZE and (width <= NATIVE_WIDTH or native.tiles())


Table = tuple[jax.Array, jax.Array]
Noise = Callable[[tuple[int, ...]], jax.Array]  # shape -> independent standard normal draws, new ones at each call


def noise_of(key: jax.Array) -> Noise:
    """Draws from a key of their own at each call."""
    calls = itertools.count()
    return lambda shape: jax.random.normal(jax.random.fold_in(key, next(calls)), shape)


def noise_from(flat: jax.Array) -> Noise:
    """Draws handed out from one array: a layer compiles one random kernel (0.5 s on a CPU) instead of a dozen."""
    start = 0

    def noise(shape):
        nonlocal start
        start, first = start + math.prod(shape), start
        return flat[first:start].reshape(shape)

    return noise


def _normal(noise: Noise, std: float, shape: tuple[int, ...], cfg: DecoderConfig) -> jax.Array:
    return (std * noise(shape)).astype(cfg.param_dtype)


def project(x: jax.Array, kernel: Any) -> jax.Array:
    """x kernel over the last axis of x; one matrix product on a CPU, where its gradients took 1.4 to 2 times less."""
    if hasattr(kernel, "project"):  # a matrix in parts, such as one with adapters
        return kernel.project(x, project)
    if jax.default_backend() != "cpu":
        return x @ kernel
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nnx.Module):
    """x kernel + bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool,
        std: float,
        cfg: DecoderConfig,
        noise: Noise,
        dtype: str = "",
    ):
        self.dtype = dtype or cfg.dtype
        self.kernel = nnx.Param(_normal(noise, std, (inputs, outputs), cfg))
        self.bias = nnx.Param(jnp.zeros((outputs,), cfg.param_dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        out = project(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return out if self.bias is None else out + self.bias[...].astype(self.dtype)


class Norm(nnx.Module):
    """RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016) over the last axis, computed in float32.

    The factor is `norm_offset + scale`: Gemma stores scale around 0 with offset 1, the others around 1 with offset 0.
    """

    def __init__(self, size: int, *, centred: bool, bias: bool, cfg: DecoderConfig):
        self.centred, self.eps, self.offset = centred, cfg.norm_eps, cfg.norm_offset
        self.scale = nnx.Param(jnp.full((size,), 1.0 - cfg.norm_offset, cfg.param_dtype))
        self.bias = nnx.Param(jnp.zeros((size,), cfg.param_dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.checkpoint(self._normed)(x)  # for the backward pass x alone is kept

    def _normed(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.centred:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        y = y * (self.offset + self.scale[...].astype(y.dtype))
        return (y if self.bias is None else y + self.bias[...].astype(y.dtype)).astype(x.dtype)


def norm(cfg: DecoderConfig) -> Norm:
    """The norm of the residual stream."""
    return Norm(cfg.hidden_size, centred=cfg.norm == "layer", bias=cfg.norm_bias, cfg=cfg)


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al., 2023, arXiv 2305.13245): projections; the caller mixes the tokens."""

    def __init__(self, cfg: DecoderConfig, noise: Noise):
        self.cfg = cfg
        size, head_dim = cfg.hidden_size, cfg.head_dim

        def project(heads):
            return Linear(size, heads * head_dim, bias=cfg.qkv_bias, std=cfg.init_std, cfg=cfg, noise=noise)

        self.q, self.k, self.v = project(cfg.num_heads), project(cfg.num_kv_heads), project(cfg.num_kv_heads)
        self.o = Linear(cfg.num_heads * head_dim, size, bias=cfg.out_bias, std=cfg.residual_std, cfg=cfg, noise=noise)
        self.q_norm, self.k_norm = (
            Norm(head_dim, centred=False, bias=False, cfg=cfg) if cfg.qk_norm else None for _ in range(2)
        )

    def __call__(self, x: jax.Array, table: Table | None, mix: Callable[..., tuple[jax.Array, Any]]):
        q, k, v = (self._heads(linear(x)) for linear in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rope.rotate(q, table), rope.rotate(k, table)
        out, aux = mix(q, k, v)
        return self.o(out.swapaxes(1, 2).reshape(*x.shape[:2], -1)), aux

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1, self.cfg.head_dim).swapaxes(1, 2)


class Mlp(nnx.Module):
    """down(act(up x)), or down(act(gate x) * up x) (Shazeer, GLU Variants, 2020, arXiv 2002.05202)."""

    def __init__(self, cfg: DecoderConfig, noise: Noise):
        self.activation = cfg.activation

        def linear(inputs, outputs, std):
            return Linear(inputs, outputs, bias=cfg.mlp_bias, std=std, cfg=cfg, noise=noise)

        self.gate = linear(cfg.hidden_size, cfg.intermediate_size, cfg.init_std) if cfg.gated else None
        self.up = linear(cfg.hidden_size, cfg.intermediate_size, cfg.init_std)
        self.down = linear(cfg.intermediate_size, cfg.hidden_size, cfg.residual_std)

    def __call__(self, x: jax.Array) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        if self.gate is None:
            return jax.checkpoint(lambda up: self.down(act(up)))(self.up(x))
        if self._native(x):
            kernels = (linear.kernel[...] for linear in (self.gate, self.up, self.down))
            return native_mlp.gated(x.reshape(-1, x.shape[-1]), *kernels).reshape(x.shape)
        # For the backward pass the two products alone are kept; what lies between is cheaper to make again
        return jax.checkpoint(lambda gate, up: self.down(act(gate) * up))(self.gate(x), self.up(x))

    def _native(self, x: jax.Array) -> bool:
        """Whether the kernel of `ops.native` does the work: as Llama's, in float32, of a size where it was faster."""
        linears = [linear for linear in (self.gate, self.up, self.down) if linear is not None]
        kernels = [linear.kernel[...] for linear in linears]
        single = all(isinstance(a, jax.Array) and a.dtype == jnp.float32 for a in (x, *kernels))
        fits = single and all(linear.bias is None and linear.dtype == "float32" for linear in linears)
        if not fits or self.activation != "silu":
            return False
        return pays(x.shape[-1], kernels[0].shape[-1], x.size) and native.usable("mlp")


class Block(nnx.Module):
    """One layer: attention and MLP on the residual stream, in sequence or (GPT-NeoX) side by side."""

    def __init__(self, cfg: DecoderConfig, noise: Noise):
        self.parallel = cfg.parallel_residual
        before, after = cfg.norm_placement in ("pre", "both"), cfg.norm_placement in ("post", "both")
        self.attn_norm, self.mlp_norm = (norm(cfg) if before else None for _ in range(2))
        self.attn_post_norm, self.mlp_post_norm = (norm(cfg) if after else None for _ in range(2))
        self.attn = Attention(cfg, noise)
        self.mlp = Mlp(cfg, noise)

    def __call__(self, x: jax.Array, table: Table | None, mix: Callable[..., tuple[jax.Array, Any]]):
        """The residual stream [B, T, D] after the layer, and what `mix(q, k, v) -> (out, aux)` returned as aux."""
        out, aux = self.attn(_maybe(self.attn_norm, x), table, mix)
        y = x + _maybe(self.attn_post_norm, out)
        out = self.mlp(_maybe(self.mlp_norm, x if self.parallel else y))
        return y + _maybe(self.mlp_post_norm, out), aux


def _maybe(module: Norm | None, x: jax.Array) -> jax.Array:
    return x if module is None else module(x)


class Lookup(nnx.Module):
    """Rows of a table; an index outside it gives NaN rather than a neighbour's row."""

    def __init__(self, rows: int, cfg: DecoderConfig, noise: Noise):
        self.kernel = nnx.Param(_normal(noise, cfg.init_std, (rows, cfg.hidden_size), cfg))

    def __call__(self, index: jax.Array) -> jax.Array:
        return jnp.take(self.kernel[...], index, axis=0, mode="fill")


class Ends(nnx.Module):
    """What is not a layer: embeddings, the last norm, the output head and the score head."""

    def __init__(self, cfg: DecoderConfig, noise: Noise):
        self.cfg = cfg
        self.embed = Lookup(cfg.vocab_size, cfg, noise)
        self.positions = Lookup(cfg.max_positions, cfg, noise) if cfg.positions == "learned" else None
        self.norm = norm(cfg)
        has_head = cfg.lm_head and (cfg.head_bias or not cfg.tied)
        self.head = Head(cfg, noise) if has_head else None
        self.score = self._score(cfg, noise) if cfg.outputs else None

    @staticmethod
    def _score(cfg: DecoderConfig, noise: Noise) -> Linear:
        # The initial spread of Stiennon et al., Learning to summarize from human feedback, 2020: scores of unit size
        std, wide = (cfg.hidden_size + 1) ** -0.5, jnp.promote_types(cfg.param_dtype, jnp.float32).name
        return Linear(cfg.hidden_size, cfg.outputs, bias=cfg.score_bias, std=std, cfg=cfg, noise=noise, dtype=wide)

    def embedded(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Input of the first layer, [B, T, D] in the compute dtype."""
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        x = x.astype(self.cfg.dtype)
        return x if self.cfg.embed_scale == 1 else x * jnp.asarray(self.cfg.embed_scale, x.dtype)


class Head(nnx.Module):
    """Parameters of the output projection; a tied model has the bias alone."""

    def __init__(self, cfg: DecoderConfig, noise: Noise):
        shape = (cfg.hidden_size, cfg.vocab_size)
        self.kernel = None if cfg.tied else nnx.Param(_normal(noise, cfg.init_std, shape, cfg))
        self.bias = nnx.Param(jnp.zeros((cfg.vocab_size,), cfg.param_dtype)) if cfg.head_bias else None

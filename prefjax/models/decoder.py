"""Decoder-only language models as pure functions over a nested dict of parameters: Llama, Qwen, Gemma, GPT and kin."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prefjax.config import did_you_mean
from prefjax.models import attention, fused, layers, placement, rope, splash

Params = Any

_CHOICES: dict[str, tuple[str, ...]] = {
    "norm": ("rms", "layer"),
    "norm_placement": ("pre", "post", "both"),
    "activation": tuple(layers.ACTIVATIONS),
    "positions": ("rope", "learned", "none"),
    "dtype": ("float32", "bfloat16", "float16", "float64"),
    "param_dtype": ("float32", "bfloat16", "float16", "float64"),
    "remat": ("none", "dots", "full"),
    "attention": attention.BACKENDS,
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Every hyper-parameter of `decoder`, resolved (no default left open); `dataclasses.asdict` of it is JSON."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    activation: str
    gated: bool
    norm: str
    norm_eps: float
    norm_offset: float
    norm_bias: bool
    norm_placement: str
    parallel_residual: bool
    positions: str
    max_positions: int
    rope_theta: float
    rope_local_theta: float | None
    rope_fraction: float
    rope_scaling: dict[str, Any] | None = dataclasses.field(hash=False)
    sliding_window: int | None
    global_every: int
    global_layers: tuple[int, ...]
    attention_scale: float
    attention_softcap: float | None
    logit_softcap: float | None
    qk_norm: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    head_bias: bool
    score_bias: bool
    tied: bool
    embed_scale: float
    lm_head: bool
    outputs: int
    init_std: float
    dtype: str
    param_dtype: str
    remat: str
    scan_layers: bool
    attention: str

    @property
    def rope_dim(self) -> int:
        """Rotated dimensions of a head."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def residual_std(self) -> float:
        """Initial spread of the projections that write to the residual stream (GPT-2's 1 / sqrt(2 layers))."""
        return self.init_std / (2 * self.num_layers) ** 0.5

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Which layers see the sliding window alone."""

        def is_global(layer):
            every = self.global_every > 0 and (layer + 1) % self.global_every == 0
            return self.sliding_window is None or every or layer in self.global_layers

        return tuple(not is_global(layer) for layer in range(self.num_layers))


class Unembed(NamedTuple):
    """What turns hidden states into logits: softcap(hidden kernel + bias)."""

    kernel: jax.Array  # [D, V]
    bias: jax.Array | None  # [V]
    softcap: float | None


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Pure functions over `params`, a nested dict of arrays (layers stacked on a leading axis).

    Attributes:
      config: the resolved hyper-parameters.
      init: key -> params.
      hidden: (params, tokens [R, T], positions, segments, branches) -> [R, T, D], the final norm's output. `segments`
        None is one segment a row, `branches` None is branch 0, `positions` None is 0 .. T-1 (one segment, one branch).
        `where` [R, T] bool: tokens asked for, whose states alone are right (others: the norm of 0), which spares work.
        `steer` [L, D] is added to the residual stream after each layer; with `exits`, numbers of layers (0 .. L), it
        returns (states, early), early [E, R, T, D] the residual stream after so many layers, not yet normed.
      unembed: params -> Unembed.
      scores: (params, hidden [..., D]) -> [..., outputs] in float32.
      init_cache: (batch, length) -> cache, an empty key-value cache of `length` slots.
      decode: (params, cache, tokens [B, t], positions [B, t], valid [B, t]) -> (hidden [B, t, D], cache); with `exits`
        (hidden, cache, early); `exits` and `steer` as of `hidden`.
      normed: (params, states [..., D]) -> [..., D], the final norm alone: what an early state lacks before the head.
    """

    config: DecoderConfig
    init: Callable[[jax.Array], Params]
    hidden: Callable[..., jax.Array]
    unembed: Callable[[Params], Unembed]
    scores: Callable[[Params, jax.Array], jax.Array]
    init_cache: Callable[[int, int], Cache]
    decode: Callable[..., tuple[jax.Array, Cache]]
    normed: Callable[[Params, jax.Array], jax.Array]


class Cache(NamedTuple):
    """Keys and values of the tokens so far; slots fill from 0, the same for all rows."""

    keys: jax.Array  # [L, B, KV, S, head_dim]
    values: jax.Array  # [L, B, KV, S, head_dim]
    positions: jax.Array  # [B, S] int32
    valid: jax.Array  # [B, S] bool: the slot holds a real token
    filled: jax.Array  # scalar int32: slots written


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of batch rows `rows` [N] int, repeats allowed: one prompt for K responses, or a beam's survivors."""
    return Cache(cache.keys[:, rows], cache.values[:, rows], cache.positions[rows], cache.valid[rows], cache.filled)


def repeat_rows(cache: Cache, count: int) -> Cache:
    """The cache with each batch row `count` times, one beside the other: rows that are cut over devices stay there."""
    keys, values = (jnp.repeat(x, count, axis=1) for x in (cache.keys, cache.values))
    positions, valid = (jnp.repeat(x, count, axis=0) for x in (cache.positions, cache.valid))
    return Cache(keys, values, positions, valid, cache.filled)


def keep_candidate(cache: Cache, count: int, chosen: jax.Array, valid: jax.Array) -> Cache:
    """The cache with one of the last `count` slots of each row kept and the others forgotten.

    Candidates for one place are decoded together as tokens that are not valid, so that none sees another.

    Args:
      chosen: [B] int, 0 .. count - 1, which is kept. valid: [B] bool, whether later tokens see it.
    """
    start, at = cache.filled - count, (cache.filled - count + chosen)[:, None]
    put = jax.lax.dynamic_update_slice_in_dim

    def moved(stack: jax.Array) -> jax.Array:
        return put(stack, jnp.take_along_axis(stack, at[None, :, None, :, None], axis=3), start, axis=3)

    positions = put(cache.positions, jnp.take_along_axis(cache.positions, at, axis=1), start, axis=1)
    seen = put(cache.valid, valid[:, None], start, axis=1)
    return Cache(moved(cache.keys), moved(cache.values), positions, seen, start + 1)


def decoder(
    *,
    vocab_size: int,
    hidden_size: int = 512,
    num_layers: int = 8,
    num_heads: int = 8,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    activation: str = "silu",
    gated: bool = True,
    norm: str = "rms",
    norm_eps: float = 1e-5,
    norm_offset: float = 0.0,
    norm_bias: bool | None = None,
    norm_placement: str = "pre",
    parallel_residual: bool = False,
    positions: str = "rope",
    max_positions: int = 2048,
    rope_theta: float = 10000.0,
    rope_local_theta: float | None = None,
    rope_fraction: float = 1.0,
    rope_scaling: Mapping[str, Any] | None = None,
    sliding_window: int | None = None,
    global_every: int = 0,
    global_layers: Sequence[int] = (),
    attention_scale: float | None = None,
    attention_softcap: float | None = None,
    logit_softcap: float | None = None,
    qk_norm: bool = False,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    head_bias: bool = False,
    score_bias: bool = False,
    tied: bool = False,
    embed_scale: float = 1.0,
    lm_head: bool = True,
    outputs: int = 0,
    init_std: float = 0.02,
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: str = "none",
    scan_layers: bool = True,
    attention: str = "auto",
) -> LanguageModel:
    """A decoder-only transformer; the defaults make a small Llama, `prefjax.models.presets` the known families.

    Args:
      vocab_size, hidden_size, num_layers, num_heads: sizes V, D, L, H.
      num_kv_heads, head_dim, intermediate_size: None for H, D / H, and 4 D (gated: 8 D / 3, up to a multiple of 32).
      activation, gated: the MLP: "silu", "gelu" (exact), "gelu_tanh", "relu" or "relu_squared", with or without a gate.
      norm, norm_eps, norm_offset, norm_bias, norm_placement: "rms" or "layer"; factor = offset + scale; "pre", "post"
        or "both" sides of attention and MLP.
      positions, max_positions: "rope", "learned" or "none"; the learned table's rows, or the length trained at.
      rope_*: base, base of sliding layers, rotated fraction of a head, and scaling (`rope.parse_scaling`).
      sliding_window, global_every, global_layers: keys less than `sliding_window` behind the query, but in every
        `global_every`-th layer and in `global_layers` all of them.
      *_softcap, attention_scale, embed_scale: Gemma's caps; factors (None: 1 / sqrt(head_dim)).
      outputs, lm_head: size of the score head (0 for none); whether there is an output head.
      dtype, param_dtype: of computation and of parameters; norms, softmax and scores are float32 at least.
      remat: what the backward pass recomputes: "none", all but matrix products ("dots"), or the layer ("full").
      scan_layers, attention: one compiled layer for all; one of `attention.BACKENDS`, "auto" as `attention.pick` says.

    Raises:
      ValueError: a value or combination that makes no model, naming the argument.
    """
    return _model(_resolve(dict(locals())))


@functools.cache
def _model(cfg: DecoderConfig) -> LanguageModel:
    """One model for one config, so that what was compiled for it serves every run that has it."""
    spec = _Spec(cfg)
    return LanguageModel(
        config=cfg,
        init=spec.init,
        hidden=spec.hidden,
        unembed=spec.unembed,
        scores=spec.scores,
        init_cache=spec.init_cache,
        decode=spec.decode,
        normed=spec.normed,
    )


def _resolve(given: dict[str, Any]) -> DecoderConfig:
    out = dict(given)
    for name, options in _CHOICES.items():
        if given[name] not in options:
            raise ValueError(f"{name}={given[name]!r} is unknown; {did_you_mean(str(given[name]), options)}")
    heads, size = given["num_heads"], given["hidden_size"]
    if given["head_dim"] is None:
        if size % heads:
            raise ValueError(f"num_heads={heads} does not divide hidden_size={size}; give head_dim")
        out["head_dim"] = size // heads
    if given["num_kv_heads"] is None:
        out["num_kv_heads"] = heads
    if given["intermediate_size"] is None:
        out["intermediate_size"] = -(-8 * size // 96) * 32 if given["gated"] else 4 * size
    for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
                 "intermediate_size", "max_positions", "norm_eps", "rope_theta", "init_std"):  # fmt: skip
        if not out[name] > 0:
            raise ValueError(f"{name}={out[name]} must be positive")
    for name in ("rope_local_theta", "sliding_window", "attention_scale", "attention_softcap", "logit_softcap"):
        if out[name] is not None and not out[name] > 0:
            raise ValueError(f"{name}={out[name]} must be positive or None")
    for name in ("global_every", "outputs"):
        if out[name] < 0:
            raise ValueError(f"{name}={out[name]} must not be negative")
    if heads % out["num_kv_heads"]:
        raise ValueError(f"num_kv_heads={out['num_kv_heads']} does not divide num_heads={heads}")
    if given["attention_scale"] is None:
        out["attention_scale"] = out["head_dim"] ** -0.5
    if given["norm_bias"] is None:
        out["norm_bias"] = given["norm"] == "layer"
    elif given["norm_bias"] and given["norm"] == "rms":
        raise ValueError("norm_bias=True needs norm='layer'; an RMSNorm has no bias")
    out["global_layers"] = tuple(int(layer) for layer in given["global_layers"])
    out["rope_scaling"] = rope.parse_scaling(given["rope_scaling"])
    _check_positions(out)
    _check_combinations(out)
    return DecoderConfig(**out)


def _check_positions(out: dict[str, Any]) -> None:
    if out["positions"] != "rope":
        set_anyway = {"rope_scaling": None, "rope_local_theta": None, "rope_fraction": 1.0}
        for name, default in set_anyway.items():
            if out[name] != default:
                raise ValueError(f"{name}={out[name]!r} needs positions='rope', not {out['positions']!r}")
        return
    if not 0 < out["rope_fraction"] <= 1:
        raise ValueError(f"rope_fraction={out['rope_fraction']} must be in (0, 1]")
    dim = int(out["head_dim"] * out["rope_fraction"])
    if dim < 2 or dim % 2:
        raise ValueError(
            f"rope_fraction={out['rope_fraction']} of head_dim={out['head_dim']} is {dim}; it must be even"
        )


def _check_combinations(out: dict[str, Any]) -> None:
    for layer in out["global_layers"]:
        if not 0 <= layer < out["num_layers"]:
            raise ValueError(f"global_layers has {layer}; there are num_layers={out['num_layers']}")
    if out["sliding_window"] is None:
        for name in ("global_every", "global_layers", "rope_local_theta"):
            if out[name]:
                raise ValueError(f"{name}={out[name]!r} needs sliding_window")
    if out["parallel_residual"] and out["norm_placement"] == "post":
        raise ValueError("norm_placement='post' and parallel_residual=True exclude each other")
    if out["attention_softcap"] is not None and out["attention"] in ("xla", "cudnn", "native"):
        raise ValueError(f"attention={out['attention']!r} knows no attention_softcap; use 'auto' or 'plain'")
    if out["attention"] == "splash" and out["dtype"] not in splash.DTYPES:
        raise ValueError(f"attention='splash' computes {' and '.join(splash.DTYPES)}, not dtype={out['dtype']!r}")
    if not out["lm_head"]:
        for name in ("tied", "head_bias", "logit_softcap"):
            if out[name]:
                raise ValueError(f"{name}={out[name]!r} needs lm_head=True")
    if out["score_bias"] and not out["outputs"]:
        raise ValueError("score_bias=True needs outputs > 0")


_REMAT: dict[str, Callable[..., Any]] = {
    "none": lambda f, prevent_cse: f,
    "dots": functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "full": jax.checkpoint,
}


class _Context(NamedTuple):
    """What a layer needs beside its parameters: the mask and rotation of a global or of a sliding layer."""

    mask: jax.Array  # bool [R or 1, T, S]
    table: tuple[jax.Array, jax.Array] | None  # cos, sin [R or 1, T, rope_dim / 2]


class _Spec:
    """The functions of a LanguageModel, closed over its config and the structure of its modules."""

    def __init__(self, cfg: DecoderConfig):
        self.cfg = cfg
        block = nnx.eval_shape(lambda: layers.Block(cfg, jnp.zeros))
        self.block = nnx.graphdef(block)
        self.ends = nnx.graphdef(nnx.eval_shape(lambda: layers.Ends(cfg, jnp.zeros)))
        self.layer_size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_pure(block)))
        self.init = jax.jit(self._init)
        self.shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(self._init, jax.random.key(0)))

    def _init(self, key: jax.Array) -> Params:
        cfg = self.cfg
        keys = jax.random.split(key, cfg.num_layers + 1)

        def block(layer_key):
            flat = jax.random.normal(layer_key, (self.layer_size,))
            return _pure(layers.Block(cfg, layers.noise_from(flat)))

        # One layer at a time: the flat draw cannot be sharded as its parameters are, so only one should be alive
        stacked = jax.lax.map(block, keys[1:])
        return {**_pure(layers.Ends(cfg, layers.noise_of(keys[0]))), "layers": stacked}

    def hidden(
        self,
        params,
        tokens,
        positions=None,
        segments=None,
        branches=None,
        *,
        where=None,
        exits: Sequence[int] = (),
        steer=None,
    ) -> Any:
        length = tokens.shape[1]
        if positions is None:
            if segments is not None or branches is not None:
                raise ValueError("positions=None means one segment and one branch; give positions with segments")
            positions = jnp.arange(length)[None]
        for name, array in {"segments": segments, "branches": branches, "where": where}.items():
            if array is not None and array.shape != tokens.shape:
                raise ValueError(f"{name} has shape {list(array.shape)} but tokens has {list(tokens.shape)}")
        mask = placement.tokens(attention.layout_mask(segments, branches, length))
        contexts = self._contexts(mask, positions, positions, self._lengths(positions, segments))
        ends = self._merge_ends(params)

        def layer(x, layer_params, context):
            block = nnx.merge(self.block, nnx.State(layer_params))
            mix = lambda q, k, v: (self._attend(q, k, v, context.mask, causal=True), None)  # noqa: E731
            return placement.tokens(block(placement.tokens(x), context.table, mix)[0]), None

        x = placement.embedded(ends.embedded(tokens, positions))
        if not exits and steer is None and fused.runs(self.cfg, x, params["layers"]):
            return ends.norm(fused.layers(self.cfg, x, params["layers"], *contexts[0], segments, where))
        x, early, _ = self._run(layer, x, params["layers"], contexts, exits, steer)
        x = ends.norm(x if where is None else jnp.where(where[..., None], x, 0))
        return (x, early) if exits else x

    def normed(self, params, states) -> jax.Array:
        return self._merge_ends(params).norm(states)

    def unembed(self, params) -> Unembed:
        if not self.cfg.lm_head:
            raise ValueError("this model has no output head: decoder(lm_head=False)")
        self._check(params)
        head = params.get("head", {})
        kernel = params["embed"]["kernel"].T if self.cfg.tied else head["kernel"]
        return Unembed(kernel, head.get("bias"), self.cfg.logit_softcap)

    def scores(self, params, hidden) -> jax.Array:
        score = self._merge_ends(params).score
        if score is None:
            raise ValueError("this model has no score head: give decoder(outputs=...)")
        return score(hidden)

    def init_cache(self, batch: int, length: int) -> Cache:
        cfg = self.cfg
        if cfg.positions == "learned" and length > cfg.max_positions:
            raise ValueError(f"length={length} exceeds max_positions={cfg.max_positions} of the learned positions")
        shape = (cfg.num_layers, batch, cfg.num_kv_heads, length, cfg.head_dim)
        return Cache(
            keys=placement.cache(jnp.zeros(shape, cfg.dtype)),
            values=placement.cache(jnp.zeros(shape, cfg.dtype)),
            positions=jnp.zeros((batch, length), jnp.int32),
            valid=jnp.zeros((batch, length), bool),
            filled=jnp.zeros((), jnp.int32),
        )

    def decode(
        self, params, cache: Cache, tokens, positions, valid, *, exits: Sequence[int] = (), steer=None
    ) -> tuple[Any, ...]:
        slots, length = cache.valid.shape[1], tokens.shape[1]
        if length > slots:
            raise ValueError(f"tokens has {length} columns but the cache has {slots} slots")
        start = cache.filled
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
        key_positions = write(cache.positions, positions.astype(jnp.int32))
        key_valid = write(cache.valid, valid)
        # A token counts itself, also one that is not valid (a candidate, which no later token will see)
        lengths = jnp.max(jnp.where(key_valid, key_positions + 1, 0), axis=1, keepdims=True)
        mask = attention.cache_mask(key_valid, start, length)
        contexts = self._contexts(mask, positions, key_positions, jnp.maximum(lengths, positions + 1))
        ends = self._merge_ends(params)

        def layer(x, stacked, context):
            layer_params, *old = stacked

            def mix(q, k, v):
                new = [placement.rows(part) for part in (k, v)]
                put = jax.lax.dynamic_update_slice_in_dim
                keys, values = (put(stack, part, start, axis=2) for stack, part in zip(old, new, strict=True))
                return self._attend(q, keys, values, context.mask), new

            x, new = nnx.merge(self.block, nnx.State(layer_params))(placement.rows(x), context.table, mix)
            return placement.rows(x), new

        # The layers read the cache, and it is written once, after them: in turns, XLA copies all of it in each layer
        stacked = (params["layers"], cache.keys, cache.values)
        x, early, new = self._run(layer, ends.embedded(tokens, positions), stacked, contexts, exits, steer)
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=3)
        keys, values = (placement.cache(put(old, part)) for old, part in zip(stacked[1:], new, strict=True))
        # A full cache cannot raise under jit, and writing over the last slots would be silent: NaN is neither
        x = jnp.where(start + length <= slots, ends.norm(x), jnp.nan)
        after = Cache(keys, values, key_positions, key_valid, start + length)
        return (x, after, early) if exits else (x, after)

    def _run(
        self, layer, x, stacked, contexts: tuple[_Context, _Context], exits: Sequence[int] = (), steer=None
    ) -> tuple[Any, Any, Any]:
        """(x, early, out) after all layers; `layer(x, own, context) -> (x, out)`, `own` and `out` of `stacked` and the
        last with a leading axis of layers; `early` is what x was after each number of layers in `exits`."""
        cfg = self.cfg
        _check_watch(cfg, exits, steer)
        full, sliding = contexts
        kinds = set(cfg.local_layers)

        def choose(local):
            if len(kinds) == 1:
                return sliding if kinds == {True} else full
            return jax.tree.map(lambda a, b: jnp.where(local, a, b), sliding, full)

        def body(state, own, local, index):
            x, out = layer(state[0], own, choose(local))
            if steer is not None:
                x = x + jnp.asarray(steer)[index].astype(x.dtype)
            return (x, kept(state[1], x, index + 1)), out

        def kept(early, x, layers):
            return jnp.where(jnp.reshape(jnp.asarray(exits) == layers, (-1, 1, 1, 1)), x, early) if exits else early

        state = (x, kept(jnp.zeros((), x.dtype), x, 0) if exits else ())
        remat = _REMAT[cfg.remat]
        indices, local = np.arange(cfg.num_layers), np.array(cfg.local_layers)
        if cfg.scan_layers:
            step = remat(lambda state, xs: body(state, *xs), prevent_cse=False)
            (x, early), out = jax.lax.scan(step, state, (stacked, local, indices))
            return x, early, out
        step, outs = remat(body, prevent_cse=True), []
        for index in indices:
            own = jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
            state, out = step(state, own, local[index], index)
            outs.append(out)
        return state[0], state[1], jax.tree.map(lambda *parts: jnp.stack(parts), *outs)

    def _contexts(self, mask, positions, key_positions, lengths) -> tuple[_Context, _Context]:
        """The contexts of global and of sliding layers; what no layer uses is dropped by the compiler."""
        cfg = self.cfg
        near = mask
        if cfg.sliding_window is not None:
            near = mask & attention.near(positions, key_positions, cfg.sliding_window)
            mask = jnp.broadcast_to(mask, near.shape)
        if cfg.positions != "rope":
            return _Context(mask, None), _Context(near, None)
        table = functools.partial(
            rope.tables, positions, dim=cfg.rope_dim, max_positions=cfg.max_positions, lengths=lengths
        )
        full = table(theta=cfg.rope_theta, scaling=cfg.rope_scaling)
        local = full if cfg.rope_local_theta is None else table(theta=cfg.rope_local_theta, scaling=None)
        return _Context(mask, full), _Context(near, local)

    def _lengths(self, positions, segments) -> jax.Array | None:
        """Tokens in the text of each token, [R, T]; only dynamic rope scaling asks."""
        if self.cfg.rope_scaling is None or self.cfg.rope_scaling["rope_type"] != "dynamic":
            return None
        if segments is None:
            return jnp.broadcast_to(jnp.max(positions, axis=1, keepdims=True) + 1, positions.shape)
        same = segments[:, :, None] == segments[:, None, :]
        return jnp.max(jnp.where(same, positions[:, None, :] + 1, 0), axis=2)

    def _attend(self, q, k, v, mask, *, causal: bool = False) -> jax.Array:
        cfg = self.cfg
        cap, backend = cfg.attention_softcap, cfg.attention
        return attention.attend(q, k, v, mask, scale=cfg.attention_scale, softcap=cap, backend=backend, causal=causal)

    def _merge_ends(self, params) -> layers.Ends:
        self._check(params)
        return nnx.merge(self.ends, nnx.State({name: params[name] for name in self.shapes if name != "layers"}))

    def _check(self, params) -> None:
        """Raises where `params` are not those of this model; further entries at the top level are let be."""
        for path, shape in jax.tree_util.tree_leaves_with_path(self.shapes, is_leaf=lambda x: isinstance(x, tuple)):
            names, node = [entry.key for entry in path], params
            for name in names:
                node = node.get(name) if isinstance(node, Mapping) else None
            if node is None:
                raise ValueError(f"params has no {'/'.join(names)}; expected an array of shape {list(shape)}")
            if node.shape != shape:
                raise ValueError(f"params: {'/'.join(names)} has shape {list(node.shape)}; expected {list(shape)}")


def _check_watch(cfg: DecoderConfig, exits: Sequence[int], steer: jax.Array | None) -> None:
    if bad := [n for n in exits if not 0 <= n <= cfg.num_layers]:
        raise ValueError(f"exits has {bad[0]}; this model has {cfg.num_layers} layers")
    if steer is not None and jnp.shape(steer) != (cfg.num_layers, cfg.hidden_size):
        raise ValueError(f"steer has shape {list(jnp.shape(steer))}; expected {[cfg.num_layers, cfg.hidden_size]}")


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))

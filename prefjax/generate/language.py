"""Sampling responses from a language model: one prefill a prompt, then token by token with the KV cache, under jit."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prefjax.generate import sampling
from prefjax.models.decoder import LanguageModel, take_rows
from prefjax.ops.logprobs import token_logps


class Samples(NamedTuple):
    """N = prompts * num_samples responses, prompt by prompt, as numpy arrays."""

    tokens: np.ndarray  # [N, T] int32, with the EOS where there is one; 0 after the end
    lengths: np.ndarray  # [N] int32, the EOS counted
    logps: np.ndarray  # [N, T] f32, nats under the model at temperature 1 with nothing cut; 0 after the end
    finished: np.ndarray  # [N] bool: ended by EOS, not by max_new_tokens
    prompt_index: np.ndarray  # [N] int32: which of the prompts

    @property
    def mask(self) -> np.ndarray:
        """[N, T] bool: the token belongs to the response."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def responses(self) -> list[np.ndarray]:
        """The N responses without padding, each with its EOS if it has one."""
        return [row[:length] for row, length in zip(self.tokens, self.lengths, strict=True)]


def sample(
    model: LanguageModel,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    key: jax.Array,
    max_new_tokens: int,
    eos_id: int | None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    num_samples: int = 1,
    batch_size: int = 32,
    prompt_ids: Sequence[int] | None = None,
    guide: Any = None,
    combine: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    process: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    mesh: Mesh | None = None,
) -> Samples:
    """Responses to `prompts`; what a prompt gets depends on its id and `key`, not on its neighbours or on padding.

    Args:
      prompts: token ids, each of >= 1 token; lengths are padded to buckets, so new lengths rarely compile anew.
      max_new_tokens: T, >= 1.
      eos_id: ends a response and is its last token; None never ends one early.
      temperature: >= 0; 0 takes the likeliest token. Then top_k, top_p and min_p cut, in this order; None: no cut.
      num_samples: responses a prompt; they share its prefill.
      batch_size: prompts a device call.
      prompt_ids: one id a prompt for its random stream; default 0, 1, 2, ...
      guide: further parameters of the model that read along; `combine(logits, guide_logits)` [N, V] then says what to
        draw from (`sampling.mixture`, `sampling.contrast`). `logps` stay those of `params` alone.
      process: (logits [N, V], tokens so far [N, T], step) -> logits, before the temperature (`sampling.no_repeat`).
        It and `combine` are compiled in: give a module's function, or a partial that is made once.
      mesh: shares the prompts of a call among its devices; all processes give the same prompts and get all responses.

    Raises:
      ValueError: an empty prompt, a token outside the vocabulary, or an option out of range.
    """
    _check_options(max_new_tokens, temperature, top_k, top_p, min_p, num_samples, batch_size)
    if (guide is None) != (combine is None):
        raise ValueError("sample: guide and combine go together, who reads along and what to make of it")
    prompts = _checked_prompts(prompts, model.config.vocab_size)
    ids = np.arange(len(prompts)) if prompt_ids is None else np.asarray(prompt_ids)
    if ids.shape != (len(prompts),):
        raise ValueError(f"prompt_ids has {ids.size} entries for {len(prompts)} prompts")
    size, room = _sizes(model, max(map(len, prompts), default=0), max_new_tokens)
    count = len(prompts) * num_samples
    tokens, logps = np.zeros((count, max_new_tokens), np.int32), np.zeros((count, max_new_tokens), np.float32)
    lengths, finished = np.zeros(count, np.int32), np.zeros(count, bool)
    cuts = {"temperature": temperature, "top_p": top_p, "min_p": min_p}
    for chosen, block, sizes in _batches(prompts, batch_size, room, _parts(mesh)):
        out = _generate(
            params,
            *_spread(mesh, block, sizes, _padded(ids[chosen], len(block))),
            key,
            {name: np.float32(value) for name, value in cuts.items() if value is not None},
            np.int32(max_new_tokens),
            np.int32(-1 if eos_id is None else eos_id),
            guide,
            model=model,
            size=size,
            num_samples=num_samples,
            top_k=top_k,
            combine=combine,
            process=process,
        )
        rows = (chosen[:, None] * num_samples + np.arange(num_samples)).reshape(-1)
        for target, source in zip((tokens, logps, lengths, finished), _gather(mesh, out), strict=True):
            target[rows] = source[: len(rows), :max_new_tokens] if target.ndim == 2 else source[: len(rows)]
    return Samples(tokens, lengths, logps, finished, np.repeat(np.arange(len(prompts), dtype=np.int32), num_samples))


def stop_at(samples: Samples, tokenizer: Any, stops: Sequence[str]) -> Samples:
    """Responses cut after the first token at which their text holds one of `stops`; these count as finished.

    The text decides, not the tokens, so that it does not matter how a stop string happens to be tokenised.

    Args:
      tokenizer: gives `decode(ids)`. stops: texts, none empty.
    """
    if not stops or not all(stops):
        raise ValueError(f"stops={stops!r}: expected texts, none of them empty")
    lengths, finished = samples.lengths.copy(), samples.finished.copy()

    def holds(tokens: np.ndarray) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in stops)

    for row, response in enumerate(samples.responses()):
        text = response[: len(response) - int(samples.finished[row])]
        if holds(text):
            lengths[row] = 1 + bisect.bisect_left(range(len(text)), True, key=lambda i, t=text: holds(t[: i + 1]))
            finished[row] = True
    kept = np.arange(samples.tokens.shape[1]) < lengths[:, None]
    return samples._replace(
        tokens=np.where(kept, samples.tokens, 0),
        logps=np.where(kept, samples.logps, 0),
        lengths=lengths,
        finished=finished,
    )


def response_logps(
    model: LanguageModel,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    tokens: np.ndarray,
    lengths: np.ndarray,
    *,
    batch_size: int = 32,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """[N, T] log-prob in nats of each token of given responses, by a plain forward pass; 0 after the end.

    Args:
      prompts: N prompts, one a response.
      tokens: [N, T] int32; only the first `lengths` of a row are read.
      lengths: [N] int32; a row of length 0 is left out.
      batch_size: rows a device call.
      mesh: see `sample`.
    """
    return _per_token(_score, model, params, prompts, tokens, lengths, batch_size, mesh)


def response_values(
    model: LanguageModel,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    tokens: np.ndarray,
    lengths: np.ndarray,
    *,
    batch_size: int = 32,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """[N, T] the score head's value of the state that each token is chosen in; arguments as of `response_logps`."""
    return _per_token(_value, model, params, prompts, tokens, lengths, batch_size, mesh)


def response_scores(
    model: LanguageModel,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    tokens: np.ndarray,
    lengths: np.ndarray,
    *,
    batch_size: int = 32,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """[N] the score head's first output at each response's last token; arguments as of `response_logps`."""
    rows = [np.concatenate([p, row[:n]]) for p, row, n in zip(prompts, tokens, lengths, strict=True)]
    out = np.zeros(len(rows), np.float32)
    for chosen, block, sizes in _batches(rows, batch_size, parts=_parts(mesh)):
        values = _gather(mesh, _value(params, *_spread(mesh, np.pad(block, ((0, 0), (0, 1))), sizes), model=model))
        out[chosen] = values[np.arange(len(chosen)), sizes[: len(chosen)] - 1]
    return out


def _per_token(
    compute: Any,
    model: LanguageModel,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    tokens: np.ndarray,
    lengths: np.ndarray,
    batch_size: int,
    mesh: Mesh | None,
) -> np.ndarray:
    prompts = _checked_prompts(prompts, model.config.vocab_size)
    if len(prompts) != len(tokens) or len(lengths) != len(tokens):
        raise ValueError(f"{len(prompts)} prompts, {len(tokens)} rows of tokens and {len(lengths)} lengths must agree")
    rows = [np.concatenate([p, row[:n]]) for p, row, n in zip(prompts, tokens, lengths, strict=True)]
    starts = np.array([len(p) for p in prompts])
    out = np.zeros(tokens.shape, np.float32)
    for chosen, block, sizes in _batches(rows, batch_size, parts=_parts(mesh)):
        values = _gather(mesh, compute(params, *_spread(mesh, block, sizes), model=model))
        for row, index in zip(values, chosen, strict=False):
            # Column t of a row is about its token t + 1.
            out[index, : lengths[index]] = row[starts[index] - 1 : starts[index] - 1 + lengths[index]]
    return out


def bucket(length: int, smallest: int = 16) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: few distinct shapes; padding adds less than a half."""
    size = smallest
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


@functools.partial(jax.jit, static_argnames=("model", "size", "num_samples", "top_k", "combine", "process"))
def _generate(
    params: Any,
    tokens: jax.Array,
    lengths: jax.Array,
    ids: jax.Array,
    key: jax.Array,
    cuts: dict[str, jax.Array],
    limit: jax.Array,
    eos_id: jax.Array,
    guide: Any,
    *,
    model: LanguageModel,
    size: int,
    num_samples: int,
    top_k: int | None,
    combine: Callable[..., jax.Array] | None,
    process: Callable[..., jax.Array] | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """tokens, logps [B * num_samples, size]; lengths, finished [B * num_samples]. A row of length 0 is padding."""
    rows, width = tokens.shape
    streams = jax.vmap(lambda i: jax.vmap(lambda j: fold(fold(key, i), j))(jnp.arange(num_samples)))(ids).reshape(-1)
    temperature = cuts["temperature"]
    readers = [params] if combine is None else [params, guide]

    def pick(hidden: list[jax.Array], state: dict[str, Any], done: jax.Array) -> tuple[jax.Array, jax.Array]:
        heads = [_logits(model, weights, h) for weights, h in zip(readers, hidden, strict=True)]
        logits, step = heads[0], state["step"]
        drawn_from = logits if combine is None else combine(*heads)
        drawn_from = drawn_from if process is None else process(drawn_from, state["tokens"], step)
        shaped = sampling.transform(
            drawn_from, temperature=temperature, k=top_k, p=cuts.get("top_p"), relative=cuts.get("min_p")
        )
        token = sampling.draw(jax.vmap(lambda k: fold(k, step))(streams), shaped, temperature)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        return jnp.where(done, 0, token), jnp.where(done, 0, logp)

    def record(state: dict[str, Any], token: jax.Array, logp: jax.Array, done: jax.Array) -> dict[str, Any]:
        step = state["step"]
        return {
            "step": step + 1,
            "token": token,
            "done": done | (token == eos_id),
            "lengths": state["lengths"] + ~done,
            "tokens": jax.lax.dynamic_update_index_in_dim(state["tokens"], token, step, 1),
            "logps": jax.lax.dynamic_update_index_in_dim(state["logps"], logp, step, 1),
        }

    def decode(caches: list[Any], *block: jax.Array) -> tuple[list[jax.Array], list[Any]]:
        read = [model.decode(weights, cache, *block) for weights, cache in zip(readers, caches, strict=True)]
        return [hidden for hidden, _ in read], [cache for _, cache in read]

    columns = jnp.broadcast_to(jnp.arange(width), tokens.shape)
    empty_caches = [model.init_cache(rows, width + size) for _ in readers]
    hidden, caches = decode(empty_caches, tokens, columns, columns < lengths[:, None])
    ends = jnp.maximum(lengths - 1, 0)[:, None, None]
    last = [jnp.repeat(jnp.take_along_axis(h, ends, axis=1)[:, 0], num_samples, axis=0) for h in hidden]
    starts, empty = (jnp.repeat(x, num_samples, axis=0) for x in (lengths, lengths == 0))
    caches = [take_rows(cache, jnp.repeat(jnp.arange(rows), num_samples)) for cache in caches]
    count = rows * num_samples
    state = {
        "step": jnp.int32(0),
        "lengths": jnp.zeros(count, jnp.int32),
        "tokens": jnp.zeros((count, size), jnp.int32),
        "logps": jnp.zeros((count, size), jnp.float32),
    }
    state = record(state, *pick(last, state, empty), empty)

    def unfinished(carry: tuple[dict[str, Any], Any]) -> jax.Array:
        return (carry[0]["step"] < limit) & ~jnp.all(carry[0]["done"])

    def advance(carry: tuple[dict[str, Any], Any]) -> tuple[dict[str, Any], Any]:
        state, caches = carry
        done, at = state["done"], (starts + state["step"] - 1)[:, None]
        hidden, caches = decode(caches, state["token"][:, None], at, ~done[:, None])
        return record(state, *pick([h[:, 0] for h in hidden], state, done), done), caches

    state, _ = jax.lax.while_loop(unfinished, advance, (state, caches))
    return state["tokens"], state["logps"], state["lengths"], state["done"] & ~empty


@functools.partial(jax.jit, static_argnames=("model",))
def _score(params: Any, tokens: jax.Array, lengths: jax.Array, *, model: LanguageModel) -> jax.Array:
    """[B, W - 1]: log-prob of token t + 1 given the first t + 1, as if all rows had W tokens."""
    hidden = _states(params, tokens, lengths, model)
    head = model.unembed(params)
    flat = hidden.reshape(-1, hidden.shape[-1])
    logps = token_logps(flat, head.kernel, tokens[:, 1:].reshape(-1), bias=head.bias, softcap=head.softcap)
    return logps.reshape(hidden.shape[:2])


@functools.partial(jax.jit, static_argnames=("model",))
def _value(params: Any, tokens: jax.Array, lengths: jax.Array, *, model: LanguageModel) -> jax.Array:
    """[B, W - 1]: the first output of the score head before token t + 1."""
    return model.scores(params, _states(params, tokens, lengths, model))[..., 0].astype(jnp.float32)


def _states(params: Any, tokens: jax.Array, lengths: jax.Array, model: LanguageModel) -> jax.Array:
    columns = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    inside = columns < lengths[:, None]
    return model.hidden(params, tokens, jnp.where(inside, columns, 0), inside.astype(jnp.int32), None)[:, :-1]


fold = jax.random.fold_in


def _logits(model: LanguageModel, params: Any, hidden: jax.Array) -> jax.Array:
    """[N, V] f32 next-token logits of states [N, D]."""
    head = model.unembed(params)
    logits = jnp.dot(hidden, head.kernel, preferred_element_type=jnp.float32)
    logits = logits if head.bias is None else logits + head.bias
    return logits if head.softcap is None else head.softcap * jnp.tanh(logits / head.softcap)


def _sizes(model: LanguageModel, longest: int, max_new_tokens: int) -> tuple[int, int | None]:
    """Slots for new tokens, and the most columns a prompt may be padded to (None: any number)."""
    if model.config.positions != "learned":
        return bucket(max_new_tokens), None
    limit = model.config.max_positions
    if longest + max_new_tokens > limit:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed max_positions={limit} of the "
            "learned positions"
        )
    size = min(bucket(max_new_tokens), limit - longest)
    return size, limit - size


def _batches(
    rows: Sequence[np.ndarray], batch_size: int, room: int | None = None, parts: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(which rows, tokens [B, W], lengths [B]) of similar lengths; empty rows have length 0.

    B and W are bucketed, and B is a multiple of `parts`.
    """
    sizes = np.array([len(row) for row in rows], np.int32)
    order = np.argsort(sizes, kind="stable")
    for start in range(0, len(rows), batch_size):
        chosen = order[start : start + batch_size]
        height = -(-min(batch_size, 1 << (len(chosen) - 1).bit_length()) // parts) * parts
        width = bucket(int(sizes[chosen].max()))
        block = np.zeros((height, width if room is None else min(width, room)), np.int32)
        for slot, index in enumerate(chosen):
            block[slot, : sizes[index]] = rows[index]
        yield chosen, block, _padded(sizes[chosen], height)


def _parts(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def _spread(mesh: Mesh | None, *arrays: np.ndarray) -> Sequence[Any]:
    """The rows shared among the devices of the mesh; each process holds all of them and gives its own."""
    if mesh is None:
        return arrays
    cut = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return [jax.make_array_from_callback(x.shape, cut, x.__getitem__) for x in arrays]


@functools.cache
def _replicate(mesh: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _gather(mesh: Mesh | None, tree: Any) -> Any:
    """Everything as numpy on every process."""
    if mesh is not None and mesh.size > 1:
        tree = _replicate(mesh)(tree)
    return jax.tree.map(np.asarray, tree)


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values.astype(np.int32), (0, size - len(values)))


def _checked_prompts(prompts: Sequence[Sequence[int] | np.ndarray], vocab_size: int) -> list[np.ndarray]:
    out = [np.asarray(prompt, np.int32).reshape(-1) for prompt in prompts]
    for index, prompt in enumerate(out):
        if not prompt.size:
            raise ValueError(f"prompt {index} is empty; expected at least one token")
        if prompt.min() < 0 or prompt.max() >= vocab_size:
            raise ValueError(f"prompt {index} holds a token outside the vocabulary, 0 to {vocab_size - 1}")
    return out


def _check_options(
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    num_samples: int,
    batch_size: int,
) -> None:
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("top_k", top_k),
        ("num_samples", num_samples),
        ("batch_size", batch_size),
    ):
        if value is not None and value < 1:
            raise ValueError(f"sample: {name} must be at least 1, got {value}")
    if temperature < 0:
        raise ValueError(f"sample: temperature must be at least 0 (0 is greedy), got {temperature}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"sample: top_p must lie in (0, 1], got {top_p}")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ValueError(f"sample: min_p must lie in [0, 1], got {min_p}")

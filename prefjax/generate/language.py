"""Sampling responses from a language model: one prefill a prompt, then token by token with the KV cache, under jit."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prefjax.generate import batches, sampling
from prefjax.models import placement
from prefjax.models.decoder import LanguageModel, Unembed, repeat_rows
from prefjax.ops.logprobs import row_logps


class Samples(NamedTuple):
    """N = prompts * num_samples responses, prompt by prompt, as numpy arrays."""

    tokens: np.ndarray  # [N, T] int32, with the EOS where there is one; 0 after the end
    lengths: np.ndarray  # [N] int32, the EOS counted
    logps: np.ndarray  # [N, T] f32, nats under the model at temperature 1 with nothing cut; 0 after the end
    finished: np.ndarray  # [N] bool: ended by EOS or a stop string, not by max_new_tokens
    prompt_index: np.ndarray  # [N] int32: which of the prompts

    @property
    def mask(self) -> np.ndarray:
        """[N, T] bool: the token belongs to the response."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def responses(self) -> list[np.ndarray]:
        """The N responses without padding, each with its EOS if it has one."""
        return [row[:length] for row, length in zip(self.tokens, self.lengths, strict=True)]

    def bodies(self, eos_id: int | None) -> list[np.ndarray]:
        """`responses` without their end token, where that is the last one: what a stop string cut has none."""
        ended = [len(row) > 0 and eos_id is not None and row[-1] == eos_id for row in self.responses()]
        return [row[: len(row) - int(end)] for row, end in zip(self.responses(), ended, strict=True)]


class Reader(NamedTuple):
    """Who reads along in `sample`: parameters of the model, and what they read instead of the prompts (None: those)."""

    params: Any
    prompts: Sequence[Sequence[int] | np.ndarray] | None = None


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
    combine: Callable[..., jax.Array] | None = None,
    process: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    exits: Sequence[int] = (),
    early_norm: bool = True,
    steer: jax.Array | None = None,
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
      guide: further parameters of the model that read along, or a list of `Reader`; `combine(logits, guide_logits)`
        [N, V] then says what to draw from (`sampling.mixture`, `sampling.contrast`). `logps` stay those of `params`.
      process: (logits [N, V], tokens so far [N, T], step) -> logits, before the temperature (`sampling.no_repeat`).
        It and `combine` are compiled in: give a module's function, or a partial that is made once.
      exits: after how many layers (0 .. L) the head reads too; `combine` gets `early=`, a tuple of [E, N, V] for the
        model and each guide (`contrast.layer_contrast`). early_norm: whether through the final norm, or without it.
      steer: [L, D] added to the model's residual stream after each layer (`contrast.steering`); `logps` know of it.
      mesh: shares the prompts of a call among its devices; all processes give the same prompts and get all responses.

    Raises:
      ValueError: an empty prompt, a token outside the vocabulary, or an option out of range.
    """
    _check_options(max_new_tokens, temperature, top_k, top_p, min_p, num_samples, batch_size)
    if (guide is None and not exits) != (combine is None):
        raise ValueError("sample: guide or exits go together with combine: what is read, and what to make of it")
    prompts = batches.checked(prompts, model.config.vocab_size)
    ids = np.arange(len(prompts)) if prompt_ids is None else np.asarray(prompt_ids)
    if ids.shape != (len(prompts),):
        raise ValueError(f"prompt_ids has {ids.size} entries for {len(prompts)} prompts")
    guides = [(reader.params, _read_by(reader, prompts, model)) for reader in _readers(guide)]
    longest = max((len(prompt) for rows in (prompts, *(rows for _, rows in guides)) for prompt in rows), default=0)
    size, room = batches.sizes(model, longest, max_new_tokens)
    count = len(prompts) * num_samples
    tokens, logps = np.zeros((count, max_new_tokens), np.int32), np.zeros((count, max_new_tokens), np.float32)
    lengths, finished = np.zeros(count, np.int32), np.zeros(count, bool)
    cuts = {"temperature": temperature, "top_p": top_p, "min_p": min_p}
    for chosen, block, sizes in batches.blocks(prompts, batch_size, room, batches.parts(mesh)):
        place = functools.partial(batches.spread, mesh)
        beside = [(own, *place(*batches.block(rows, chosen, len(block), room))) for own, rows in guides]
        out = _generate(mesh)(
            params,
            *place(block, sizes, batches.padded(ids[chosen], len(block))),
            key,
            {name: np.float32(value) for name, value in cuts.items() if value is not None},
            np.int32(max_new_tokens),
            np.int32(-1 if eos_id is None else eos_id),
            tuple(beside),
            steer,
            model=model,
            size=size,
            num_samples=num_samples,
            top_k=top_k,
            combine=combine,
            process=process,
            exits=tuple(exits),
            early_norm=early_norm,
        )
        rows = (chosen[:, None] * num_samples + np.arange(num_samples)).reshape(-1)
        for target, source in zip((tokens, logps, lengths, finished), batches.gather(mesh, out), strict=True):
            target[rows] = source[: len(rows), :max_new_tokens] if target.ndim == 2 else source[: len(rows)]
    return Samples(tokens, lengths, logps, finished, np.repeat(np.arange(len(prompts), dtype=np.int32), num_samples))


def _readers(guide: Any) -> Sequence[Reader]:
    if guide is None:
        return ()
    if isinstance(guide, Reader):
        return (guide,)
    return guide if isinstance(guide, list | tuple) else (Reader(guide),)


def _read_by(reader: Reader, prompts: list[np.ndarray], model: LanguageModel) -> list[np.ndarray]:
    if reader.prompts is None:
        return prompts
    if len(reader.prompts) != len(prompts):
        raise ValueError(f"a guide reads {len(reader.prompts)} prompts beside {len(prompts)}")
    return batches.checked(reader.prompts, model.config.vocab_size)


def stop_at(samples: Samples, tokenizer: Any, stops: Sequence[str]) -> Samples:
    """Responses cut after the first token at which their text holds one of `stops`; these count as finished.

    The text decides, not the tokens, so that it does not matter how a stop string happens to be tokenised.

    Args:
      tokenizer: gives `decode(ids)` and `eos_id`. stops: texts, none empty.
    """
    if not stops or not all(stops):
        raise ValueError(f"stops={stops!r}: expected texts, none of them empty")
    lengths, finished = samples.lengths.copy(), samples.finished.copy()

    def holds(tokens: np.ndarray) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in stops)

    for row, text in enumerate(samples.bodies(tokenizer.eos_id)):
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

    def compute(*block: np.ndarray) -> jax.Array:
        return _score(mesh)(params, *batches.spread(mesh, *block), model=model)

    return _per_token(compute, model, prompts, tokens, lengths, batch_size, mesh)


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

    def compute(tokens: np.ndarray, lengths: np.ndarray, _: np.ndarray) -> jax.Array:
        return _value(mesh)(params, *batches.spread(mesh, tokens, lengths), model=model)

    return _per_token(compute, model, prompts, tokens, lengths, batch_size, mesh)


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
    for chosen, block, sizes in batches.blocks(rows, batch_size, parts=batches.parts(mesh)):
        values = batches.gather(mesh, _value(mesh)(params, *batches.spread(mesh, block, sizes), model=model))
        out[chosen] = values[np.arange(len(chosen)), sizes[: len(chosen)] - 1]
    return out


def _per_token(
    compute: Callable[[np.ndarray, np.ndarray, np.ndarray], jax.Array],
    model: LanguageModel,
    prompts: Sequence[Sequence[int] | np.ndarray],
    tokens: np.ndarray,
    lengths: np.ndarray,
    batch_size: int,
    mesh: Mesh | None,
) -> np.ndarray:
    """[N, T] of what `compute` gives of tokens [B, W], their lengths [B] and the responses' first tokens [B]."""
    prompts = batches.checked(prompts, model.config.vocab_size)
    if len(prompts) != len(tokens) or len(lengths) != len(tokens):
        raise ValueError(f"{len(prompts)} prompts, {len(tokens)} rows of tokens and {len(lengths)} lengths must agree")
    rows = [np.concatenate([p, row[:n]]) for p, row, n in zip(prompts, tokens, lengths, strict=True)]
    starts = np.array([len(p) for p in prompts])
    out = np.zeros(tokens.shape, np.float32)
    for chosen, block, sizes in batches.blocks(rows, batch_size, parts=batches.parts(mesh)):
        values = batches.gather(mesh, compute(block, sizes, batches.padded(starts[chosen], len(block))))
        for row, index in zip(values, chosen, strict=False):
            # Column t of a row is about its token t + 1.
            out[index, : lengths[index]] = row[starts[index] - 1 : starts[index] - 1 + lengths[index]]
    return out


@batches.jitted("model", "size", "num_samples", "top_k", "combine", "process", "exits", "early_norm")
def _generate(
    params: Any,
    tokens: jax.Array,
    lengths: jax.Array,
    ids: jax.Array,
    key: jax.Array,
    cuts: dict[str, jax.Array],
    limit: jax.Array,
    eos_id: jax.Array,
    guides: tuple[tuple[Any, jax.Array, jax.Array], ...],
    steer: jax.Array | None,
    *,
    model: LanguageModel,
    size: int,
    num_samples: int,
    top_k: int | None,
    combine: Callable[..., jax.Array] | None,
    process: Callable[..., jax.Array] | None,
    exits: tuple[int, ...],
    early_norm: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """tokens, logps [B * num_samples, size]; lengths, finished [B * num_samples]. A row of length 0 is padding."""
    streams = jax.vmap(lambda i: jax.vmap(lambda j: fold(fold(key, i), j))(jnp.arange(num_samples)))(ids).reshape(-1)
    temperature = cuts["temperature"]
    readers = ((params, tokens, lengths), *guides)
    weights = [reader[0] for reader in readers]

    def read(index: int, cache: Any, *block: jax.Array) -> tuple[list[jax.Array], Any]:
        """([last states, early states], cache) of a reader."""
        options: dict[str, Any] = {"exits": exits} if exits else {}
        options |= {"steer": steer} if steer is not None and index == 0 else {}
        hidden, cache, *early = model.decode(weights[index], cache, *block, **options)
        return [hidden, *early], cache

    def heads_of(states: list[list[jax.Array]]) -> tuple[list[jax.Array], dict[str, Any]]:
        """Positional and keyword arguments of `combine`."""
        last = [next_logits(model, own, part[0]) for own, part in zip(weights, states, strict=True)]
        if not exits:
            return last, {}
        early = [
            model.normed(own, part[1]) if early_norm else part[1] for own, part in zip(weights, states, strict=True)
        ]
        return last, {"early": tuple(next_logits(model, own, x) for own, x in zip(weights, early, strict=True))}

    def pick(states: list[list[jax.Array]], state: dict[str, Any], done: jax.Array) -> tuple[jax.Array, jax.Array]:
        heads, early = heads_of(states)
        logits, step = heads[0], state["step"]
        drawn_from = logits if combine is None else combine(*heads, **early)
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

    def each(x: jax.Array, axis: int = 0) -> jax.Array:
        return x if num_samples == 1 else jnp.repeat(x, num_samples, axis=axis)

    def prefill(index: int) -> tuple[list[jax.Array], Any]:
        _, tokens, lengths = readers[index]
        rows, width = tokens.shape
        columns = jnp.broadcast_to(jnp.arange(width), tokens.shape)
        states, cache = read(index, model.init_cache(rows, width + size), tokens, columns, columns < lengths[:, None])
        ends = jnp.maximum(lengths - 1, 0)[:, None, None]
        last = [
            jnp.take_along_axis(x, jnp.broadcast_to(ends, (*x.shape[:-3], rows, 1, 1)), -2)[..., 0, :] for x in states
        ]
        cache = cache if num_samples == 1 else repeat_rows(cache, num_samples)
        return [each(x, axis=x.ndim - 2) for x in last], cache

    last, caches = (list(x) for x in zip(*(prefill(index) for index in range(len(readers))), strict=True))
    starts, empty = [each(reader[2]) for reader in readers], each(lengths == 0)
    state = {
        "step": jnp.int32(0),
        "lengths": jnp.zeros(empty.shape, jnp.int32),
        "tokens": jnp.zeros((len(empty), size), jnp.int32),
        "logps": jnp.zeros((len(empty), size), jnp.float32),
    }
    state = record(state, *pick(last, state, empty), empty)

    def unfinished(carry: tuple[dict[str, Any], Any]) -> jax.Array:
        return (carry[0]["step"] < limit) & ~jnp.all(carry[0]["done"])

    def advance(carry: tuple[dict[str, Any], Any]) -> tuple[dict[str, Any], Any]:
        state, caches = carry
        done, token = state["done"], state["token"][:, None]
        found = [
            read(index, cache, token, (start + state["step"] - 1)[:, None], ~done[:, None])
            for index, (cache, start) in enumerate(zip(caches, starts, strict=True))
        ]
        now = [[x[..., 0, :] for x in states] for states, _ in found]
        return record(state, *pick(now, state, done), done), [cache for _, cache in found]

    state, _ = jax.lax.while_loop(unfinished, advance, (state, caches))
    return state["tokens"], state["logps"], state["lengths"], state["done"] & ~empty


@batches.jitted("model")
def _score(params: Any, tokens: jax.Array, lengths: jax.Array, starts: jax.Array, *, model: LanguageModel) -> jax.Array:
    """[B, W]: log-prob of token t + 1 given those before it, from a row's token `starts` on; else 0."""
    columns, head = jnp.arange(tokens.shape[1]), model.unembed(params)
    asked = (columns >= starts[:, None] - 1) & (columns < lengths[:, None] - 1)
    parts = placement.token_parts(*tokens.shape)

    def logps(head: Unembed, *rows: jax.Array) -> jax.Array:
        return row_logps(rows[0], head.kernel, *rows[1:], bias=head.bias, softcap=head.softcap, parts=parts)

    states = _states(params, tokens, lengths, model)
    return placement.by_token(logps, head, states, jnp.roll(tokens, -1, axis=1), asked)


@batches.jitted("model")
def _value(params: Any, tokens: jax.Array, lengths: jax.Array, *, model: LanguageModel) -> jax.Array:
    """[B, W]: the first output of the score head before token t + 1."""
    return model.scores(params, _states(params, tokens, lengths, model))[..., 0].astype(jnp.float32)


def _states(params: Any, tokens: jax.Array, lengths: jax.Array, model: LanguageModel) -> jax.Array:
    columns = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    inside = columns < lengths[:, None]
    return model.hidden(params, tokens, jnp.where(inside, columns, 0), inside.astype(jnp.int32), None)


fold = jax.random.fold_in


def next_logits(model: LanguageModel, params: Any, hidden: jax.Array) -> jax.Array:
    """[N, V] f32 next-token logits of states [N, D], bias and soft cap included."""
    head = model.unembed(params)
    logits = jnp.dot(hidden, head.kernel, preferred_element_type=jnp.float32)
    logits = logits if head.bias is None else logits + head.bias
    return logits if head.softcap is None else head.softcap * jnp.tanh(logits / head.softcap)


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

"""A language model that compiles at once: a token's state is the sum of the embeddings before it in its row."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prefjax.models.decoder import Unembed


class Config(NamedTuple):
    vocab_size: int
    hidden_size: int
    outputs: int


class Model(NamedTuple):
    """What views ask of a `LanguageModel`."""

    config: Config
    init: Any
    hidden: Any
    unembed: Any
    scores: Any


def model(*, vocab_size: int, outputs: int = 0, hidden_size: int = 8) -> Model:
    cfg = Config(vocab_size, hidden_size, outputs)

    def init(key: jax.Array) -> dict[str, Any]:
        params = {"embed": 0.3 * jax.random.normal(key, (vocab_size, hidden_size))}
        return {**params, "score": 0.3 * jax.random.normal(key, (hidden_size, outputs))} if outputs else params

    def hidden(params, tokens, positions, segments, branches):
        del positions, segments, branches
        states = params["embed"][tokens]
        return jnp.tanh(states + jnp.cumsum(states, axis=1) / 4)

    return Model(
        cfg,
        init,
        hidden,
        lambda params: Unembed(params["embed"].T, None, None),
        functools.partial(lambda params, states: states @ params["score"]),
    )

"""Reference log-probs ahead of training: one pass over the data by the frozen reference, stored for all runs.

With `reference_store` in a config batches hold `ref_logps` [E, S, K], and neither a second forward pass nor a second
copy of the parameters is needed in the step.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from prefjax import leaves, mesh, processes, rundir
from prefjax.data import iterate, packing
from prefjax.data.reference_store import CONTEXT, ReferenceStore, keys_of
from prefjax.models import lora, placement
from prefjax.models.decoder import LanguageModel
from prefjax.views import language

RECORD = "reference.json"
FIELD = "ref_logps"
BATCHES = 64  # between two parts of the store
# Switches of a model that say how, and not what, it computes
_FREE = ("remat", "scan_layers", "attention", "init_std", "outputs", "score_bias", "param_dtype")


def _checksum(x: jax.Array) -> jax.Array:
    """Two 32-bit sums over a leaf's bits and places; whole numbers, so the same for any sharding."""
    bits = x.astype(jnp.uint8) if x.dtype == bool else x
    if bits.dtype.itemsize > 4:
        bits = jax.lax.bitcast_convert_type(bits, jnp.uint32)
    elif not jnp.issubdtype(bits.dtype, jnp.unsignedinteger):
        bits = jax.lax.bitcast_convert_type(bits, jnp.dtype(f"uint{8 * bits.dtype.itemsize}"))
    bits, place = bits.astype(jnp.uint32), jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        place = place * jnp.uint32(bits.shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    sums = []
    for seed in (0x9E3779B1, 0x85EBCA6B):
        mixed = bits ^ (place * jnp.uint32(seed))
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, seed)):
            mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
        sums.append(jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32))
    return jnp.stack(sums)


def fingerprint(model: LanguageModel, params: Any) -> str:
    """A hash of what a log-prob depends on beside the tokens: the model's function and its parameters."""
    named = {name: x for name, x in leaves.named_leaves(params).items() if not name.startswith(("score/", "learned/"))}
    sums = mesh.fetch(jax.jit(lambda tree: jax.tree.map(_checksum, tree))(named))
    config = {name: v for name, v in dataclasses.asdict(model.config).items() if name not in _FREE}
    digest = hashlib.sha256(json.dumps(rundir.plain(config), sort_keys=True).encode())
    for name, leaf in sorted(named.items()):
        digest.update(f"{name}{leaf.dtype}{leaf.shape}".encode() + np.asarray(sums[name]).tobytes())
    return digest.hexdigest()[:16]


def placeholder(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch as it will be, for shapes."""
    return {**batch, FIELD: np.zeros(batch["response_mask"].shape, np.float32)}


def attach(
    dataset: Any,
    model: LanguageModel,
    folder: str | pathlib.Path,
    params: Callable[[], Any],
    *,
    grid: Mesh,
    known: str | None = None,
) -> tuple[Any, str]:
    """The data set with `ref_logps` in its batches, and the reference's fingerprint.

    Args:
      dataset: of `prefjax.data.pipeline`.
      model: computes the log-probs.
      folder: of the store.
      params: gives the reference's parameters; not called where the store has everything and `known` is given.
      grid: the mesh of the pass.
      known: the fingerprint, where the run has recorded it.

    Raises:
      ValueError: data without responses, something to compute by parameters that are no longer those of `known`, or
        a store that several processes do not all see.
    """
    corpora: list[Any] = [getattr(dataset, name, None) for name in ("training", "held_out")]
    if not all(isinstance(corpus, packing.Corpus) for corpus in corpora) or not dataset.layout.responses:
        raise ValueError("reference_store needs data of prompts and responses that are known before training")
    reference = None if known is not None else params()
    name = fingerprint(model, reference) if known is None else known
    store = ReferenceStore(folder, name, writer=jax.process_index())
    began = time.monotonic()
    keys = [own for corpus in corpora for own in keys_of(corpus)]
    # What the first process finds counts for all; none writes before all have looked
    absent = processes.agreed(np.array([any(key not in store for key in own) for own in keys], np.float64))
    examples = (corpus[i] for corpus in corpora for i in range(len(corpus)))
    todo = [example for example, lacks in zip(examples, absent, strict=True) if lacks]
    if todo:
        reference = params() if reference is None else reference
        if (found := fingerprint(model, reference)) != name:
            raise ValueError(
                f"{folder}: log-probs of {len(todo)} examples are missing under the reference {name}, which this run "
                f"began with, and what it would compute them by is now {found}; bring the store back"
            )
        _fill(store, todo, dataset.layout, model, reference, grid)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("reference store filled")
            store = ReferenceStore(folder, name)
    fields = processes.together(lambda: [_field(store, corpus) for corpus in corpora])
    if jax.process_index() == 0:
        print(
            f"reference: {sum(map(len, keys))} responses, {len(todo)} examples computed in "
            f"{time.monotonic() - began:.1f} s; reference {name}, store {folder}",
            flush=True,
        )
    parts = [dataclasses.replace(c, fields={**c.fields, FIELD: x}) for c, x in zip(corpora, fields, strict=True)]
    return dataclasses.replace(dataset, training=parts[0], held_out=parts[1]), name


def _field(store: ReferenceStore, corpus: packing.Corpus) -> np.ndarray:
    try:
        return store.field(corpus)
    except KeyError as error:
        raise ValueError(
            f"{store.folder}: process {jax.process_index()} lacks log-probs that were there or have been written; "
            "expected a folder that all processes see"
        ) from error


def _fill(store: ReferenceStore, todo: list[Any], layout: Any, model: Any, params: Any, grid: Mesh) -> None:
    """One pass over examples that the store lacks, by all devices; each process writes the log-probs of its own rows.

    A part is written every BATCHES batches.
    """
    kept = [{name: x for name, x in e["fields"].items() if name == CONTEXT} for e in todo]
    plain = [{**e, "id": i, "fields": fields} for i, (e, fields) in enumerate(zip(todo, kept, strict=True))]
    corpus = packing.corpus(plain, responses=layout.responses)
    keys, new = keys_of(corpus), {}
    index, count = mesh.share(grid)

    @functools.partial(jax.jit, out_shardings=mesh.rows_sharding(layout.groups, grid))
    @functools.partial(placement.on, grid)
    def step(params: Any, batch: Any) -> dict[str, jax.Array]:
        named = language.lists(params, {}, batch, jax.random.key(0), model=model)
        return {name: named[name] for name in ("list_logps", "example_ids", "example_mask")}

    def keep(found: dict[bytes, np.floating]) -> None:
        # One that cannot write stops all, which else would wait for it
        processes.together(lambda: store.add(list(found), np.array(list(found.values()))))

    batches = iterate.EvalBatches(corpus, layout, shard_index=index, shard_count=count)
    for number, batch in enumerate(batches, 1):
        found = mesh.first_held(step(params, mesh.put_batch(batch, grid)))
        for slot in np.flatnonzero(found["example_mask"]):
            own = keys[found["example_ids"][slot]]
            new |= dict(zip(own, found["list_logps"][slot], strict=False))
        if number % BATCHES == 0:
            keep(new)
            new = {}
    keep(new)


def of_run(
    dataset: Any, model: Any, config: Any, workdir: pathlib.Path, grid: Mesh, start: Callable[[], Any], *, begin: bool
) -> Any:
    """The data set of a run with `reference_store`; the fingerprint is recorded, so that resuming makes no pass.

    Args:
      start: gives the state that the run starts from, whose policy is the reference.
      begin: whether the run starts now.

    Raises:
      ValueError: the config also carries a reference, which nothing would read.
    """
    if config.reference:
        raise ValueError("reference=True and reference_store exclude each other: batches would hold ref_logps already")
    file = pathlib.Path(workdir) / RECORD
    known = None if begin or not file.is_file() else rundir.read_json(file)["reference"]

    def params() -> Any:
        state = start()
        return state.carry[lora.BASE] if isinstance(model, lora.LoraModel) else state.params

    dataset, name = attach(dataset, model, config.reference_store, params, grid=grid, known=known)
    if jax.process_index() == 0:
        rundir.write_json(file, {"reference": name, "store": str(config.reference_store)})
    return dataset

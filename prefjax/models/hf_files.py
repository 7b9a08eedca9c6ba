"""The files of a Hugging Face folder: config.json, and safetensors that are read part by part and written in shards."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors asks for it)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prefjax import leaves
from prefjax.config import did_you_mean
from prefjax.models import hf_tensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
PIECE = 2**24  # bytes of a tensor, about, that are read at a time

Path = str | os.PathLike[str]


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file, or an error that names file and line."""
    try:
        out = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(out, dict):
        raise ValueError(f"{file}: expected an object, got {type(out).__name__}")
    return out


class Store:
    """The tensors of a folder's safetensors; it reads names, shapes and types, and no values."""

    def __init__(self, folder: pathlib.Path):
        index = folder / INDEX
        placed = _index(index) if index.is_file() else {}
        if not placed and not (folder / WEIGHTS).is_file():
            others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt"))
            raise FileNotFoundError(f"{folder}: expected {WEIGHTS} or {INDEX}; it has {', '.join(others) or 'neither'}")
        self.where = index if placed else folder / WEIGHTS
        self.files: dict[str, pathlib.Path] = {}
        self._about: dict[str, tuple[tuple[int, ...], str]] = {}
        for name in sorted(set(placed.values())) or [WEIGHTS]:
            file = folder / name
            if not file.is_file():
                raise FileNotFoundError(f"{file} does not exist, but {index} names it")
            try:
                with safe_open(file, framework="np") as opened:
                    for tensor in opened.keys():
                        source = opened.get_slice(tensor)
                        self.files[tensor] = file
                        self._about[tensor] = tuple(source.get_shape()), source.get_dtype()
            except SafetensorError as error:
                raise ValueError(f"{file}: not a whole safetensors file: {error}") from error
        for tensor, name in placed.items():
            if self.files.get(tensor) != folder / name:
                raise ValueError(f"{folder / name}: tensor {tensor!r} is missing, but {index} places it there")

    @contextlib.contextmanager
    def sources(self) -> Iterator[Callable[[str], Any]]:
        """A function from names to tensors to be sliced; the files are mapped until the end, so that pages once read
        do not pile up beside what was made of them."""
        with contextlib.ExitStack() as stack:
            opened: dict[pathlib.Path, Any] = {}

            def source(name: str) -> Any:
                file = self.files[name]
                if file not in opened:
                    opened[file] = stack.enter_context(safe_open(file, framework="np"))
                return opened[file].get_slice(name)

            yield source

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors have the same shape and values; read a piece at a time."""
        if self._about[name][0] != self._about[other][0]:
            return False
        (rows, *rest), _ = self._about[name]
        step = max(1, PIECE // (8 * math.prod(rest)))
        with self.sources() as source:
            a, b = source(name), source(other)
            cuts = (slice(i, min(i + step, rows)) for i in range(0, rows, step))
            return all(np.array_equal(a[cut], b[cut]) for cut in cuts)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises where the tensor is missing, or has another shape or a type that is not a float."""
        if name not in self.files:
            near = did_you_mean(name, self.files) if len(self.files) < 8 else ""
            raise ValueError(f"{self.where}: tensor {name!r} of shape {list(shape)} is missing{near and '; ' + near}")
        own, dtype = self._about[name]
        if own != shape:
            raise ValueError(f"{self.files[name]}: tensor {name!r} has shape {list(own)}; expected {list(shape)}")
        if dtype not in DTYPES:
            raise ValueError(f"{self.files[name]}: tensor {name!r} has type {dtype}; expected {', '.join(DTYPES)}")


def _index(file: pathlib.Path) -> dict[str, str]:
    placed = read_json(file).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{file}: field 'weight_map' is missing or empty; expected {{tensor: file}}")
    for tensor, name in placed.items():
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise ValueError(f"{file}: weight_map[{tensor!r}]={name!r}: expected the name of a file in the same folder")
    return placed


class Place(NamedTuple):
    """Where a parameter comes from: part `number` of the tensors `names`, one a layer, or one alone."""

    names: list[str]
    form: hf_tensors.Form
    number: int
    widths: list[int]
    layered: bool


def locate(
    store: Store, tensors: Sequence[hf_tensors.Tensor], shapes: Mapping[str, tuple[int, ...]], layers: int
) -> dict[str, Place]:
    """Where each parameter comes from; names, shapes and types of the tensors are checked here."""
    places: dict[str, Place] = {}
    for tensor in tensors:
        if lost := [path for path in tensor.paths if path not in shapes]:
            raise ValueError(f"{store.where}: {tensor.name} holds {lost[0]}, which this model does not have")
        names = [tensor.name.format(layer) for layer in range(layers if tensor.layered else 1)]
        parts = [shapes[path][1:] if tensor.layered else shapes[path] for path in tensor.paths]
        for name in names:
            store.check(name, tensor.form.shape(parts))
        widths = [part[-1] for part in parts]
        for number, path in enumerate(tensor.paths):
            places[path] = Place(names, tensor.form, number, widths, tensor.layered)
    return places


def sharding_of(shardings: Any, path: str) -> Any:
    """Where the parameter at `path` shall lie: of one sharding for all, a tree of them, or None."""
    if shardings is None or isinstance(shardings, jax.sharding.Sharding):
        return shardings
    node = shardings
    for name in path.split("/"):
        node = node.get(name) if isinstance(node, Mapping) else None
    if node is None:
        raise ValueError(f"shardings has no {path}; expected a sharding for each parameter")
    return node


def read(store: Store, place: Place, shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.Array:
    """One parameter, filled layer by layer and piece by piece; with a sharding, each shard on its device."""

    def part(index):
        index = tuple(slice(*i.indices(size)[:2]) for i, size in zip(index, shape, strict=True))
        out = np.empty([i.stop - i.start for i in index], dtype)
        with store.sources() as source:
            if place.layered:
                for row, layer in enumerate(range(index[0].start, index[0].stop)):
                    _fill(out[row], source(place.names[layer]), place, index[1:])
            else:
                _fill(out, source(place.names[0]), place, index)
        return out

    if sharding is None:
        return jnp.asarray(part((slice(None),) * len(shape)))
    return jax.make_array_from_callback(shape, sharding, part)


def _fill(out: np.ndarray, source: Any, place: Place, index: hf_tensors.Index) -> None:
    """out[...] = what `index` takes of a part of a tensor, cut along the axis that is the tensor's first."""
    axis = place.form.first % out.ndim
    step = max(1, PIECE // (4 * max(1, out.size // max(1, out.shape[axis]))))
    for start in range(0, out.shape[axis], step):
        stop, begin = min(start + step, out.shape[axis]), index[axis].start
        own = [slice(None)] * out.ndim
        own[axis] = slice(start, stop)
        piece = (*index[:axis], slice(begin + start, begin + stop), *index[axis + 1 :])
        out[tuple(own)] = place.form.read(source, place.number, piece, place.widths)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[pathlib.Path]:
    """A folder to fill that takes the name `folder`, new or empty, once it is whole."""
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder")
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    os.replace(staging, folder)


def write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes an object as indented JSON."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def host_leaves(init: Callable[[jax.Array], Any], params: Any) -> dict[str, Any]:
    """The model's own leaves by path; on a CPU as numpy views, so that slicing compiles nothing."""
    given, out = leaves.named_leaves(params), {}
    for path, leaf in leaves.named_leaves(jax.eval_shape(init, jax.random.key(0))).items():
        if path not in given:
            raise ValueError(f"params has no {path}; expected an array of shape {list(leaf.shape)}")
        if given[path].shape != leaf.shape:
            raise ValueError(f"params: {path} has shape {list(given[path].shape)}; expected {list(leaf.shape)}")
        array = given[path]
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            raise ValueError(f"params: {path} lies on several processes; gather it before writing")
        on_cpu = isinstance(array, jax.Array) and {device.platform for device in array.devices()} == {"cpu"}
        out[path] = np.asarray(array) if on_cpu else array
    return out


def write_tensors(
    folder: pathlib.Path, tensors: list[hf_tensors.Tensor], host: dict[str, Any], layers: int, max_shard_size: int
) -> None:
    """Writes the tensors, layer by layer where they have one, in one file or in shards with their index."""
    items = [(tensor, None) for tensor in tensors if not tensor.layered]
    items += [(tensor, layer) for layer in range(layers) for tensor in tensors if tensor.layered]

    def size(tensor, layer):
        total = sum(math.prod(host[path].shape) * host[path].dtype.itemsize for path in tensor.paths)
        return total if layer is None else total // layers

    shards: list[list[Any]] = [[]]
    filled = 0
    for item in items:
        if shards[-1] and filled + size(*item) > max_shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(item)
        filled += size(*item)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        content = {tensor.name.format(layer): _tensor(tensor, layer, host) for tensor, layer in shard}
        save_file(content, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(content, file)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": sum(size(*item) for item in items)},
                               "weight_map": weight_map})  # fmt: skip


def _tensor(tensor: hf_tensors.Tensor, layer: int | None, host: dict[str, Any]) -> np.ndarray:
    parts = [np.asarray(host[path] if layer is None else host[path][layer]) for path in tensor.paths]
    return np.ascontiguousarray(tensor.form.join(parts))

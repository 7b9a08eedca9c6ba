"""Compiles the kernels of this folder for the processor at hand, once, and makes them known to XLA.

A kernel is `<name>.cc`: compiled at its first use (some seconds) and kept in the user's cache folder under a hash of
its source, the compiler and the processor. Without a compiler, or with PREFJAX_NATIVE=0, the jax form runs instead.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import jax

from prefjax.ops import plain

log = logging.getLogger(__name__)

HERE = pathlib.Path(__file__).parent
KERNELS = {
    "attention": ("prefjax_attention", "prefjax_attention_grads"),
    "head": ("prefjax_head", "prefjax_head_grads"),
    "mlp": ("prefjax_mlp", "prefjax_mlp_grads"),
    "layers": ("prefjax_layers", "prefjax_layers_grads"),
}
OPTIONS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-w")
_LOADED: dict[str, ctypes.CDLL] = {}
_OFF: contextvars.ContextVar[bool] = contextvars.ContextVar("native_off", default=False)


def usable(name: str) -> bool:
    """Whether kernel `name` is to run here: one CPU device (XLA cannot cut a kernel over a mesh) and it compiles."""
    if _OFF.get() or plain.asked() or os.environ.get("PREFJAX_NATIVE", "1") == "0" or jax.default_backend() != "cpu":
        return False
    return jax.device_count() == 1 and load(name)


@contextlib.contextmanager
def off() -> Iterator[None]:
    """What is traced inside has no kernel: for other devices, or for XLA's count of its operations."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def tiles() -> bool:
    """Whether kernels are usable and multiply on the processor's matrix tiles (AMX), which pays at any size.

    Without such tiles, or with PREFJAX_TILES=0 when a kernel is loaded first, they multiply on its vectors.
    """
    return usable("head") and bool(_LOADED["head"].prefjax_tiles())


@functools.cache
def load(name: str) -> bool:
    """Compiles kernel `name` if that was not done, and registers its functions; False, and a warning, if it cannot be.

    Raises:
      ValueError: an unknown name.
    """
    if name not in KERNELS:
        raise ValueError(f"no kernel {name!r}; there are: {', '.join(KERNELS)}")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None:
        log.warning("no C++ compiler found (g++, clang++, c++ or CXX): %s runs as compiled by XLA, slower", name)
        return False
    try:
        library = ctypes.CDLL(str(_compiled(name, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        log.warning("%s could not be compiled and runs as compiled by XLA, slower: %s", name, said[-2000:])
        return False
    _LOADED[name] = library
    for function in KERNELS[name]:
        jax.ffi.register_ffi_target(function, jax.ffi.pycapsule(getattr(library, function)), platform="cpu")
    return True


def cache_folder() -> pathlib.Path:
    """Where compiled kernels are kept: `prefjax/native` of XDG_CACHE_HOME or ~/.cache."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "prefjax" / "native"


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """Of this process alone, and gone with it."""
    return tempfile.TemporaryDirectory(prefix="prefjax-native-")


def _compiled(name: str, compiler: str) -> pathlib.Path:
    source, headers = HERE / f"{name}.cc", sorted(HERE.glob("*.h"))
    compile_ = shlex.split(compiler)  # CXX may be "ccache g++"
    command = [*compile_, *OPTIONS, "-I", jax.ffi.include_dir(), str(source)]
    # The macros a compiler defines name its version and what the processor can do
    macros = subprocess.run(
        [*compile_, *OPTIONS[:2], "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, check=True
    ).stdout
    parts = (jax.__version__.encode(), compiler.encode(), repr(OPTIONS).encode(), macros)
    texts = (path.read_bytes() for path in (source, *headers))
    digest = hashlib.sha256(b"\0".join((*parts, *texts))).hexdigest()[:24]
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid()
    except OSError:
        kept = False
    if not kept:
        folder = pathlib.Path(_own_folder().name)
    path = folder / f"{name}-{digest}.so"
    if not path.is_file():
        log.info("compiling %s for this processor, once", name)
        with tempfile.TemporaryDirectory(dir=folder) as part:
            made = pathlib.Path(part) / path.name
            subprocess.run([*command, "-o", str(made)], capture_output=True, check=True, text=True)
            made.replace(path)  # whole or not at all, also when several processes compile
    return path

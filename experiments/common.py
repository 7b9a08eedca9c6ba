"""What the programs share: errors a reader can act on, the compile cache, and the last page of a run."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import app, flags, logging

from prefjax.config import build

CACHE_BYTES = 2 << 30  # that compiled programs may take on disk
CACHE_SIZE = "JAX_COMPILATION_CACHE_MAX_SIZE"  # the environment variable that says otherwise

flags.disclaim_key_flags()  # flags that are defined here are the program's own: --help shows them


def no_arguments(argv: list[str]) -> None:
    """Refuses words that are no flags, which absl would pass over."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; every option is a flag, --name=value")


def define_distributed() -> None:
    """The flag of programs that run as one process a host."""
    flags.DEFINE_bool("distributed", False, "Call jax.distributed.initialize(), one process a host.")


def begin_distributed() -> None:
    """Before anything asks jax for its devices."""
    if flags.FLAGS.distributed:
        import jax

        jax.distributed.initialize()


def define_cache() -> None:
    """The flag of programs whose compiled programs are kept on disk: a later process compiles none of them again."""
    said = (
        "Folder that keeps compiled programs, or off; by default jax's own, else prefjax/xla of the user's cache. It "
        f"holds {CACHE_BYTES >> 30} GiB, what was used least recently goes first; {CACHE_SIZE}=<bytes> says otherwise, "
        "-1 for no limit."
    )
    flags.DEFINE_string("compile_cache", None, said)


def begin_cache(folder: str | None) -> None:
    """Turns jax's compile cache on; one that cannot be written costs a warning and nothing else.

    Args:
      folder: where it is; "off" for none. None is what jax was told already (JAX_COMPILATION_CACHE_DIR), else
        `prefjax/xla` of XDG_CACHE_HOME or ~/.cache. But for what jax was told, it is kept under CACHE_BYTES.
    """
    import jax

    if folder == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    told: Any = jax.config
    if folder is None and (told.jax_compilation_cache_dir or not told.jax_enable_compilation_cache):
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        path = pathlib.Path(folder or pathlib.Path(home) / "prefjax" / "xla").absolute()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What lies there is run: by default only one's own folder will do
        usable = os.access(path, os.W_OK | os.X_OK) and (folder is not None or path.stat().st_uid == os.getuid())
        reason = "not writable, or another user's"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        usable, reason = False, str(error)
    if not usable:
        logging.warning("no compile cache (%s); --compile_cache=<folder> names another, off none", reason)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    if CACHE_SIZE not in os.environ:
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    if told.jax_compilation_cache_max_size != -1:
        _date(path)


def _date(folder: pathlib.Path) -> None:
    """Notes when each program was last used, where that is not known: when it was written.

    Programs kept without a limit, or by a process that was killed while it wrote one, have no such note, and without it
    jax (up to 0.10) keeps no further program.
    """
    for program in folder.glob("*-cache"):
        note = program.with_name(program.name.removesuffix("cache") + "atime")
        with contextlib.suppress(OSError):  # another process may remove it meanwhile
            if not note.exists():
                note.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))


def run(main: Callable[[list[str]], None], define: Callable[[], None]) -> None:
    """app.run, with an error in the input shown as one message instead of a stack.

    `define` makes the program's flags: not when its module is imported, so that several can be imported together.
    """
    define()

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if "compile_cache" in flags.FLAGS:
                begin_cache(flags.FLAGS.compile_cache)
            main(argv)
        except (ValueError, FileNotFoundError, FileExistsError, FloatingPointError, RuntimeError) as error:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            sys.exit(f"{type(error).__name__}: {error}\n(--verbosity=1 shows where)")

    app.run(guarded)


def finish(
    runs: Mapping[str, Any],
    path: str | pathlib.Path,
    *,
    title: str = "Training report",
    summary: str = "",
    notes: Mapping[str, str] | None = None,
    show_samples: bool = True,
    target: float | None = None,
) -> Any:
    """Evaluates the last run as its config says, prints the headline table and writes report.html; returns the data.

    All processes of a run call it together: they share the evaluation, and the first one prints and writes. Where it
    cannot, all of them end with an error.
    """
    import jax

    from prefjax import processes
    from prefjax.report import html
    from prefjax.report import run as reports

    last = list(runs.values())[-1]
    comparison = build(last.config.evaluate)(last) if last.config.evaluate else None
    data = reports.report(
        runs, comparison=comparison, title=title, summary=summary, notes=notes, show_samples=show_samples, target=target
    )

    def write() -> None:
        if jax.process_index() == 0:
            html.write_report(path, data)
            print(html.text_table(data.headline), flush=True)
            print(f"report: {path}", flush=True)

    processes.together(write)
    return data

"""The programs as a stranger types them: quickstart, evaluate, train with --help and with mistakes."""

import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from experiments import common
from tests import forks

ROOT = pathlib.Path(__file__).resolve().parents[1]


@functools.cache
def kept() -> tempfile.TemporaryDirectory:
    """The compile cache of these programs where none is set: not the one in the home of who runs the tests."""
    return tempfile.TemporaryDirectory(prefix="compiled-")


def program(name: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *arguments],
        cwd=ROOT,
        env={"JAX_COMPILATION_CACHE_DIR": kept().name, **os.environ, "XLA_FLAGS": forks.xla_flags()},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_quickstart_trains_three_stages_and_evaluate_remakes_the_report(tmp_path):
    done = program("quickstart", "--runlocal", "--seed=3", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "dpo" / "config.json").read_text())
    assert (config["seed"], config["data"]["seed"]) == (3, 3)
    assert "Beats its reference by gold reward" in done.stdout and "KL to the reference" in done.stdout
    assert "length only" in done.stdout and "bag of words" in done.stdout
    page = (tmp_path / "report.html").read_text()
    for title in ("Supervised tuning", "Reward model", "DPO", "Responses before and after", "Likelihood displacement"):
        assert title in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page
    again = program("evaluate", f"--workdir={tmp_path / 'dpo'}", "--step=5", f"--output={tmp_path / 'again.html'}")
    assert again.returncode == 0, again.stderr
    absent = program("evaluate", f"--workdir={tmp_path / 'dpo'}", "--step=3")
    assert absent.returncode != 0 and "there are: 5, 6" in absent.stderr
    assert "eval/rewards/accuracies" in again.stdout and (tmp_path / "again.html").exists()


@pytest.fixture
def fresh_cache(monkeypatch):
    """As jax is before anything is told or compiled; put back afterwards."""
    names = (
        "compilation_cache_dir",
        "enable_compilation_cache",
        "persistent_cache_min_compile_time_secs",
        "compilation_cache_max_size",
    )
    monkeypatch.delenv(common.CACHE_SIZE, raising=False)
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    for name, value in zip(before, (None, True, 0.0, -1), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_the_compile_cache_is_found_again_and_moved_and_left_out(fresh_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder, hits = tmp_path / "home" / "prefjax" / "xla", []
    jax.monitoring.register_event_listener(listener := lambda event, **_: hits.append(event))
    try:
        common.begin_cache(None)
        for count in (0, 1):  # as in a second process: what is in memory is gone
            jax.clear_caches()
            jax.jit(lambda x: jnp.sin(x) + 41).lower(1.0).compile()
            entries = {path.name for path in folder.iterdir() if path.name.endswith("-cache")}
            assert len(entries) == 1
            assert hits.count("/jax/compilation_cache/cache_hits") == count
    finally:
        jax.monitoring.unregister_event_listener(listener)
    common.begin_cache(str(tmp_path / "moved"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "moved")
    common.begin_cache(None)  # jax was told: that stays
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "moved")
    common.begin_cache("off")
    assert not jax.config.jax_enable_compilation_cache


def test_the_compile_cache_keeps_to_its_size(fresh_cache, tmp_path, monkeypatch):
    """What was used least recently goes; what an earlier version kept without a limit is in its way no more."""

    def compile_and_see(number):
        jax.jit(lambda x: jnp.sin(x) + number).lower(1.0).compile()
        return {path.name for path in tmp_path.glob("*-cache")}

    assert common.CACHE_BYTES == 2 * 1024**3
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))  # without a limit
    (oldest,) = compile_and_see(1)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    size = (tmp_path / oldest).stat().st_size
    monkeypatch.setattr(common, "CACHE_BYTES", int(2.5 * size))
    common.begin_cache(str(tmp_path))
    two = compile_and_see(2)
    assert len(two) == 2 and oldest in two
    three = compile_and_see(3)
    assert len(three) == 2 and oldest not in three
    monkeypatch.setenv(common.CACHE_SIZE, "-1")  # as jax read it at its start
    jax.config.update("jax_compilation_cache_max_size", -1)
    common.begin_cache(str(tmp_path))
    assert jax.config.jax_compilation_cache_max_size == -1


def test_no_place_for_a_compile_cache_costs_a_warning(fresh_cache, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    common.begin_cache(None)
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(common.os, "access", lambda *_: False)  # as of a folder one may only read
    common.begin_cache(None)
    assert jax.config.jax_compilation_cache_dir is None
    assert caplog.text.count("no compile cache") == 2 and "--compile_cache" in caplog.text


def test_the_library_leaves_the_compile_cache_to_its_user():
    """Only a program turns it on; every program of runs has the flag, and those that time compiling do not."""
    for path in (ROOT / "prefjax").rglob("*.py"):
        assert "compilation_cache" not in path.read_text(), path
    with_flag = {path.stem for path in (ROOT / "experiments").glob("*.py") if "define_cache()\n" in path.read_text()}
    assert {"train", "evaluate", "quickstart", "sweep", "frontier"} <= with_flag and "bench" not in with_flag


def test_programs_can_be_imported_together():
    for path in (ROOT / "experiments").glob("[a-z]*.py"):
        importlib.import_module(f"experiments.{path.stem}")
    assert "workdir" not in flags.FLAGS  # made by the program that runs, not by an import


@pytest.mark.parametrize("name", ["train", "evaluate", "quickstart", "rollout"])
def test_help_helps(name):
    shown = program(name, "--help").stdout
    assert f"python -m experiments.{name}" in shown and "--workdir" in shown and "--compile_cache" in shown
    assert "It holds 2 GiB" in " ".join(shown.split())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/preference/dpo.py:runlocl", "--workdir=x"], "did you mean 'runlocal'"),
        (["--config=configs/preference/dpo.py:data=absent.jsonl", "--workdir=x"], "absent.jsonl"),
        (["--config=configs/preference/dpo.py:runlocal", "--workdir=x", "stray"], "unexpected argument 'stray'"),
        (
            ["--config=configs/preference/dpo.py:runlocal", "--workdir=x", "--config.objective.dpo.loss.betta=1"],
            "betta",
        ),
        (["--config=configs/preference/dpo.py:runlocal"], "workdir"),
    ],
)
def test_mistakes_are_told_in_one_message(arguments, message, tmp_path):
    arguments = [a.replace("--workdir=x", f"--workdir={tmp_path}") for a in arguments]
    done = program("train", *arguments)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr

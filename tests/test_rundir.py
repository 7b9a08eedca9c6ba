"""The folder of a run: what it records, which configs it refuses, and the progress shown meanwhile."""

import io
import json
import logging
import subprocess

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from prefjax import rundir
from prefjax.config import build, ref
from prefjax.losses.preference import paired
from prefjax.ops import masked
from prefjax.progress import Progress


def config(**changes):
    values = {
        "seed": 7,
        "steps": 100,
        "loss": {"fn": "prefjax.losses.preference.paired:dpo", "beta": 0.1},
        "mesh": {"data": -1, "fsdp": 1},
        "writers": ("jsonl",),
    }
    return ConfigDict({**values, **changes}, type_safe=False)


def test_what_is_recorded(tmp_path):
    folder = rundir.prepare(tmp_path / "a" / "b", config())
    text = (folder / "config.json").read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert json.loads(text)["writers"] == ["jsonl"] and json.loads(text)["loss"]["beta"] == 0.1
    run = json.loads((folder / "run.json").read_text())
    assert run["seed"] == 7
    versions = json.loads((folder / "versions.json").read_text())
    assert versions == run["versions"] and versions["jax"] == jax.__version__ and versions["numpy"] == np.__version__
    assert versions["devices"]["kinds"] == {jax.devices()[0].device_kind: jax.device_count()}
    assert {"python", "jaxlib", "flax", "optax", "orbax", "prefjax", "platform"} <= versions.keys()
    assert not list(folder.glob("*.tmp"))


def test_same_config_again_and_each_start_is_logged(tmp_path):
    rundir.prepare(tmp_path, config())
    rundir.prepare(tmp_path, config(), seed=9)
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [(s["resumed"], s["seed"]) for s in starts] == [(False, 7), (True, 9)]


def test_another_config_is_refused_with_the_difference_shown(tmp_path):
    rundir.prepare(tmp_path, config())
    before = (tmp_path / "config.json").read_bytes()
    other = config(seed=8, extra=1, loss={"fn": "prefjax.losses.preference.paired:ipo", "tau": 0.1})
    with pytest.raises(rundir.ConfigMismatch) as caught:
        rundir.prepare(tmp_path, other)
    rows = [line.split() for line in str(caught.value).splitlines()[1:-1]]
    assert rows == [
        ["key", "old", "new"],
        ["extra", "(absent)", "1"],
        ["loss.beta", "0.1", "(absent)"],
        ["loss.fn", '"prefjax.losses.preference.paired:dpo"', '"prefjax.losses.preference.paired:ipo"'],
        ["loss.tau", "(absent)", "0.1"],
        ["seed", "7", "8"],
    ]
    assert str(tmp_path / "config.json") in str(caught.value)
    assert caught.value.differences["seed"] == (7, 8)
    assert (tmp_path / "config.json").read_bytes() == before


def test_free_keys_may_change_and_are_written(tmp_path):
    rundir.prepare(tmp_path, config())
    rundir.prepare(tmp_path, config(steps=200, mesh={"data": 2, "fsdp": 4}, writers=()))
    assert rundir.load_config(tmp_path).steps == 200
    with pytest.raises(rundir.ConfigMismatch, match="steps +200 +300"):
        rundir.prepare(tmp_path, config(steps=300, mesh={"data": 2, "fsdp": 4}, writers=()), free=())
    rundir.prepare(tmp_path, config(steps=200, seed=1, mesh={"data": 2, "fsdp": 4}, writers=()), free=("se*",))


def test_what_a_later_version_added_is_no_difference_at_its_default(tmp_path):
    earlier = config(loss={"fn": "prefjax.losses.preference.paired:dpo", "beta": 0.1})
    rundir.prepare(tmp_path, earlier)
    rundir.prepare(tmp_path, config(loss=ref(paired.dpo), store=None), defaults={"store": None})
    for changed in (config(loss=ref(paired.dpo, label_smoothing=0.1)), config(loss=ref(paired.dpo), store="x")):
        rundir.write_json(tmp_path / "config.json", rundir.plain(earlier))
        with pytest.raises(rundir.ConfigMismatch, match="label_smoothing +.absent. +0.1|store +.absent. +.x"):
            rundir.prepare(tmp_path, changed, defaults={"store": None})


def test_resume_false_wants_a_new_folder(tmp_path):
    rundir.prepare(tmp_path, config(), resume=False)
    with pytest.raises(FileExistsError, match="resume=True"):
        rundir.prepare(tmp_path, config(), resume=False)


def test_true_is_not_one_and_nan_is_itself():
    assert rundir.difference({"a": True, "n": float("nan")}, {"a": 1, "n": float("nan")}) == {"a": (True, 1)}
    assert rundir.difference({"a": {}}, {"a": {"b": 1}}) == {"a": ({}, ...), "a.b": (..., 1)}


def test_load_config_builds(tmp_path):
    rundir.prepare(tmp_path, ConfigDict({"fn": ref(masked.divide)}))
    assert build(rundir.load_config(tmp_path).fn).func is masked.divide
    with pytest.raises(FileNotFoundError, match="prepare"):
        rundir.load_config(tmp_path / "nowhere")


def test_broken_config_file_names_file_and_line(tmp_path):
    (tmp_path / "config.json").write_text('{\n  "seed": 7,\n')
    with pytest.raises(ValueError, match=r"config\.json, line 3"):
        rundir.prepare(tmp_path, config())


def test_plain_refuses_by_name():
    with pytest.raises(TypeError, match=r"config\.loss\.1: function"):
        rundir.plain({"loss": [1, test_plain_refuses_by_name]})
    with pytest.raises(TypeError, match="key 3 is int"):
        rundir.plain({3: 1})
    assert rundir.plain({"b": np.float32(0.5), "a": (1, np.arange(2))}) == {"a": [1, [0, 1]], "b": 0.5}


def test_other_versions_are_told(tmp_path, caplog):
    rundir.prepare(tmp_path, config())
    run = json.loads((tmp_path / "run.json").read_text())
    run["versions"]["jax"] = "0.1.0"
    (tmp_path / "run.json").write_text(json.dumps(run))
    with caplog.at_level(logging.WARNING):
        rundir.prepare(tmp_path, config())
    assert "jax" in caplog.text and '"0.1.0"' in caplog.text


def test_git(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True, text=True
        )

    try:
        git("init", "-q")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git on this machine")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "file.py").write_text("1")
    assert rundir.git_commit(tmp_path / "code") is None  # no commit yet
    git("add", ".")
    git("commit", "-q", "-m", "first", "--no-verify")
    head = git("rev-parse", "HEAD").stdout.strip()
    assert rundir.git_commit(tmp_path / "code") == {"commit": head, "dirty": False}
    (tmp_path / "code" / "file.py").write_text("2")
    assert rundir.git_commit(tmp_path / "code") == {"commit": head, "dirty": True}
    (tmp_path / "installed").mkdir()
    assert rundir.git_commit(tmp_path / "installed") is None  # inside the repository, but not of it
    monkeypatch.setenv("PATH", "")
    assert rundir.git_commit(tmp_path / "code") is None
    rundir.prepare(tmp_path / "run", config())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["git"] is None


def test_progress_lines_where_nobody_watches():
    now, out = [0.0], io.StringIO()
    with Progress(100, initial=40, every=10, stream=out, clock=lambda: now[0]) as bar:
        now[0] = 300.0
        bar.skip(300.0)  # of compiling, say
        for step in range(41, 101):
            now[0] += 1.0
            bar.update(step, loss=0.5 if step > 42 else None, tokens=200)
        bar.message("done")
    lines = out.getvalue().splitlines()
    assert lines[0] == "step 50/100  loss 0.5  200 tokens/s  ETA 00:50"
    assert len(lines) == 7 and lines[-2].startswith("step 100/100") and lines[-1] == "done"


def test_progress_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    now, out = [0.0], Terminal()
    with Progress(10, initial=4, stream=out, clock=lambda: now[0]) as bar:
        now[0] = 2.0
        bar.update(6, loss=0.25, tokens=1000)
        bar.message("half way")
        now[0] = 4.0
        bar.update(10, tokens=1000)
    text = out.getvalue()
    assert "10/10" in text and "loss=0.25" in text and "tokens/s=500" in text and "half way\n" in text


def test_progress_is_silent_when_disabled():
    out = io.StringIO()
    with Progress(1, stream=out, enabled=False) as bar:
        bar.update(1, loss=1.0, tokens=3)
        bar.message("hidden")
    assert out.getvalue() == ""

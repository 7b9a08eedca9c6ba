"""The programs as a stranger types them: quickstart, evaluate, train with --help and with mistakes."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]


def program(name: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess:
    flags = os.environ.get("XLA_FLAGS", "").replace("device_count=8", "device_count=1")
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
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


def test_programs_can_be_imported_together():
    for path in (ROOT / "experiments").glob("[a-z]*.py"):
        importlib.import_module(f"experiments.{path.stem}")
    assert "workdir" not in flags.FLAGS  # made by the program that runs, not by an import


@pytest.mark.parametrize("name", ["train", "evaluate", "quickstart", "rollout"])
def test_help_helps(name):
    shown = program(name, "--help").stdout
    assert f"python -m experiments.{name}" in shown and "--workdir" in shown


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

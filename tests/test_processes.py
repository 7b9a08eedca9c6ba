"""Two processes of jax.distributed train like one, and one goes on where two stopped."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import pytest

from prefjax import loop

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = """
from prefjax import recipe
from prefjax.config import ref
from prefjax.data.gold import dataset as gold
from prefjax.losses.preference import paired
from prefjax.models.decoder import decoder
from prefjax.optim import recipes
from prefjax.views import language

def config(**mesh):
    return recipe.config(
        steps=5,
        data=ref(gold.dataset, size=40, eval_size=9, rows=4, row_length=64),
        model=ref(decoder, hidden_size=8, num_layers=1, num_heads=2),
        objective={"dpo": recipe.term(language.pairs, paired.dpo)},
        optimizer=ref(recipes.adamw, learning_rate=1e-2),
        reference=True,
        mesh={"data": 1, "fsdp": 1, "tensor": 1, **mesh},
        writers=("jsonl",),
        log_every=1,
        eval_every=3,
        checkpoint_every=3,
    )
"""
CHILD = """
import sys
import jax
address, count, index, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
jax.distributed.initialize(address, num_processes=count, process_id=index)
from prefjax import loop
run = loop.fit(config(data=1, fsdp=count), folder, until=3)
kernel = run.state.params["layers"]["mlp"]["up"]["kernel"]
assert jax.process_count() == count and not kernel.is_fully_addressable and run.step == 3
print("trained", flush=True)
"""


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = {}
    for row in rows:
        for name in ("loss", "grad_norm", "eval/loss"):
            if name in row:
                kept[row["step"], name] = row[name]
    return kept


def together(count, folder):
    """`count` processes on one machine, each with one CPU device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    settings = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    env = {**os.environ, **settings, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", textwrap.dedent(CONFIG + CHILD), address, str(count)]
    started = [
        subprocess.Popen([*command, str(i), str(folder)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True)
        for i in range(count)
    ]  # fmt: skip
    try:
        for process in started:
            out, errors = process.communicate(timeout=500)
            assert process.returncode == 0 and "trained" in out, errors[-3000:]
    finally:
        for process in started:
            process.kill()


def test_two_processes_train_like_one_and_one_goes_on(tmp_path):
    scope = {}
    exec(CONFIG, scope)
    loop.fit(scope["config"](), tmp_path / "alone")
    together(2, tmp_path / "both")
    stopped = losses(tmp_path / "both")
    assert {step for step, _ in stopped} == {1, 2, 3}
    loop.fit(scope["config"](), tmp_path / "both")
    alone, both = losses(tmp_path / "alone"), losses(tmp_path / "both")
    assert alone.keys() == both.keys() and (3, "eval/loss") in stopped and (5, "eval/loss") in both
    for at, value in alone.items():
        assert both[at] == pytest.approx(value, abs=1e-5), at

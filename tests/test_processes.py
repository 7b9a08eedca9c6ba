"""Two processes of jax.distributed train like one, and one goes on where two stopped.

So do what surrounds the steps: both fill the reference store, and score the pairs of the report.
"""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import common
from prefjax import loop
from tests import forks

CONFIG = """
from prefjax import recipe
from prefjax.config import ref
from prefjax.data.gold import dataset as gold
from prefjax.losses.preference import paired
from prefjax.models.decoder import decoder
from prefjax.optim import recipes
from prefjax.views import language

def config(folder, **mesh):
    return recipe.config(
        steps=5,
        data=ref(gold.dataset, size=40, eval_size=9, rows=4, row_length=64),
        model=ref(decoder, hidden_size=8, num_layers=1, num_heads=2),
        objective={"dpo": recipe.term(language.pairs, paired.dpo)},
        optimizer=ref(recipes.adamw, learning_rate=1e-2),
        reference_store=f"{folder}/store",
        mesh={"data": 1, "fsdp": 1, "tensor": 1, **mesh},
        writers=("jsonl",),
        log_every=1,
        eval_every=3,
        checkpoint_every=3,
    )
"""
CHILDREN = """
import json, pathlib, resource
import jax, numpy as np
from experiments import common
from prefjax import loop, mesh, reference, rundir
from prefjax.report import run as reports

def refused(process, call):
    # what is raised where one process cannot write
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if jax.process_index() == process:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        call()
        return "nothing"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

def train():
    count, me, folder = jax.process_count(), jax.process_index(), sys.argv[1]
    reference.BATCHES = 2
    run = loop.fit(config(folder, data=1, fsdp=count), folder, until=3)
    kernel = run.state.params["layers"]["mlp"]["up"]["kernel"]
    assert not kernel.is_fully_addressable and run.step == 3
    print("trained", flush=True)
    data = common.finish({"dpo": run}, f"{folder}/report-{me}.html")
    stage, = data.stages
    reports.report = lambda *_, **__: data
    other = f"{folder}/refused"
    said = [
        refused(1, lambda: reference.attach(run.dataset, run.model, other, lambda: run.state.params, grid=run.mesh)),
        refused(0, lambda: rundir.prepare(other, {"seed": 0})),
        refused(0, lambda: common.finish({"dpo": run}, f"{folder}/refused.html")),
    ]
    found = [stage.margins.tolist(), stage.chosen_change.tolist(), sorted(stage.baselines), said]
    pathlib.Path(folder, f"found-{me}.json").write_text(json.dumps(found))
    rows = {"rows": np.arange(2)}
    assert mesh.share(run.mesh) == (me, count)
    both = mesh.make_mesh({"data": 1, "tensor": count})  # here all processes hold all rows
    assert mesh.share(both) == (0, 1) and mesh.put_batch(rows, both)["rows"].shape == (2,)
    held = mesh.first_held(mesh.put_batch(rows, both))["rows"]
    assert held.tolist() == ([0, 1] if me == 0 else [])

together(2, train)
"""


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = {}
    for row in rows:
        for name in ("loss", "grad_norm", "eval/loss"):
            if name in row:
                kept[row["step"], name] = row[name]
    return kept


def parts(folder):
    """The parts of the reference store, of each of two writers."""
    return [sorted((folder / "store").rglob(f"part-*-{index}.safetensors")) for index in (0, 1)]


def fields(run):
    """`ref_logps` of all examples."""
    return np.concatenate([part.fields["ref_logps"] for part in (run.dataset.training, run.dataset.held_out)])


def test_two_processes_train_like_one_and_one_goes_on(tmp_path, capsys):
    scope = {}
    exec(CONFIG, scope)
    single, shared = tmp_path / "alone", tmp_path / "both"
    first = loop.fit(scope["config"](single), single)
    status, out, errors = forks.interpreter(CONFIG + CHILDREN, str(shared))
    assert status == 0 and out.splitlines().count("trained") == 2, errors[-3000:]
    stopped = losses(shared)
    assert {step for step, _ in stopped} == {1, 2, 3}

    # The store: each wrote a share of its own; a crash would have left some of the parts, and they are used
    written = [[load_file(part)["keys"].tolist() for part in own] for own in parts(shared)]
    counts = [sum(map(len, own)) for own in written]
    assert [len(own) > 1 for own in written] == [True, True] and min(counts) > 0.3 * sum(counts)
    computed = re.findall(r"(\d+) examples computed", out)
    assert computed == ["49"]  # by both, said by one
    whole = fields(first)
    for part in (parts(shared)[0][0], *parts(shared)[1][1:]):
        part.rename(part.with_name(f".{part.name}.1"))  # as an unfinished one is called
    capsys.readouterr()
    run = loop.load(shared)
    (again,) = re.findall(r"(\d+) examples computed", capsys.readouterr().out)
    assert 0 < int(again) < 49
    np.testing.assert_allclose(fields(run), whole, atol=1e-5)

    # The report: both have all scores, one writes it, and one process finds the same
    (stage,) = common.finish({"dpo": run}, shared / "report.html").stages
    found = [json.loads((shared / f"found-{index}.json").read_text()) for index in (0, 1)]
    assert found[0][:2] == found[1][:2] and [len(margins) for margins, *_ in found] == [9, 9]
    np.testing.assert_allclose(found[0][:2], [stage.margins, stage.chosen_change], atol=1e-5)
    assert [rows for _, _, rows, _ in found] == [["bag of words", "length only"], []]
    assert out.count("pair accuracy") == capsys.readouterr().out.count("pair accuracy") == 1
    assert [path.name for path in sorted(shared.glob("report*"))] == ["report-0.html", "report.html"]

    # One that could not write stopped both: the second its part of a store, the first the record and report of a run
    failing = (1, 0, 0)
    for process, said in enumerate(found[process][3] for process in (0, 1)):
        for index, text in zip(failing, said, strict=True):
            assert "File too large" in text and (f"in process {index}" in text) == (process != index)

    loop.fit(scope["config"](shared), shared)
    alone, both = losses(single), losses(shared)
    assert alone.keys() == both.keys() and (3, "eval/loss") in stopped and (5, "eval/loss") in both
    for at, value in alone.items():
        assert both[at] == pytest.approx(value, abs=1e-5), at

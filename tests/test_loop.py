"""fit: it trains, resumes bit for bit after any kill, refuses what does not fit, and does not depend on the mesh."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.reward import bradley_terry
from prefjax import checkpoint, debug, loop, mesh, recipe, reference, rundir, train, writers
from prefjax.config import ref
from prefjax.data import packing, pipeline
from prefjax.data.gold import dataset as gold
from prefjax.losses import language, reward
from prefjax.losses.preference import paired
from prefjax.metrics import preference
from prefjax.models import decoder, huggingface, lora
from prefjax.objective import compose
from prefjax.ops.masked import Mean
from prefjax.optim import recipes
from prefjax.views import adapted
from prefjax.views import language as views
from prefjax.views import rewards as scored
from tests import toy

TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}


def config(steps: int = 6, **fields) -> ConfigDict:
    """DPO on a handful of gold pairs with a model of a few thousand parameters."""
    loss = ref(paired.dpo, beta=0.1)
    defaults = {
        "steps": steps,
        "data": ref(gold.dataset, kind="pairs", size=64, eval_size=16, rows=8, row_length=64),
        "model": ref(decoder.decoder, **TINY),
        "objective": {"dpo": recipe.term(views.pairs, loss, metrics=ref(preference.paired, beta=0.1))},
        "optimizer": ref(recipes.adamw, learning_rate=1e-2),
        "reference": True,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint_every": 2,
        "writers": ("jsonl",),
        "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
    }
    return recipe.config(**{**defaults, **fields})


def trace(workdir: pathlib.Path) -> list[dict]:
    """The rows of metrics.jsonl without what a clock decides."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> loop.Run:
    """An uninterrupted run."""
    return loop.fit(config(), tmp_path_factory.mktemp("whole"))


def test_a_run_learns_logs_and_leaves_everything_behind(whole):
    rows = trace(whole.workdir)
    train = [row for row in rows if "loss" in row]
    assert [row["step"] for row in train] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(train[0]["loss"], np.log(2), rtol=1e-6)  # the policy is the reference
    assert train[-1]["loss"] < train[0]["loss"]
    assert {"rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/chosen", "grad_norm"} <= set(train[0])
    assert [row["step"] for row in rows if "eval/loss" in row] == [3, 6]
    for name in ("config.json", "versions.json", "run.json", "tokenizer/tokenizer.json", "checkpoints"):
        assert (whole.workdir / name).exists(), name
    assert whole.step == 6


def test_what_compiling_took_stands_in_the_first_row_alone(whole):
    rows = [row for row in writers.read_jsonl(whole.workdir / writers.JSONL) if "loss" in row]
    for name in ("speed/compile_seconds", "speed/eval_compile_seconds"):
        assert [row["step"] for row in rows if name in row] == [1]
        assert rows[0][name] > 0


class Unread:
    """A metric that records when the host reads it."""

    def __init__(self, value, note):
        self.value, self.note = value, note

    def __array__(self, *args, **kwargs):
        self.note()
        return np.asarray(self.value, *args, **kwargs)

    __float__ = block_until_ready = item = __array__


def test_a_step_is_under_way_before_the_metrics_of_the_last_are_read_and_its_call_does_not_compile(
    tmp_path, monkeypatch, capsys
):
    """Had the loop waited for a step's numbers, the device would have nothing to do meanwhile."""
    events, compiled, original = [], [], jax.jit

    class Watched:
        def __init__(self, jitted):
            self.jitted, self.lower, self.count = jitted, jitted.lower, 0

        def __call__(self, state, batch, key):
            self.count += 1
            events.append(("begun", step := self.count))
            before = len(compiled)
            state, metrics = self.jitted(state, batch, key)
            assert len(compiled) == before, "the step compiled while it was called"
            return state, {k: Unread(v, lambda: events.append(("read", step))) for k, v in metrics.items()}

    def jit(fn, **options):
        jitted = original(fn, **options)
        return Watched(jitted) if "compiler_options" in options else jitted  # the step alone has some

    def duration(event, seconds, **_):
        if "compile" in event:
            compiled.append(event)

    monkeypatch.setattr(jax, "jit", jit)
    jax.monitoring.register_event_duration_secs_listener(duration)
    try:
        loop.fit(config(steps=6, eval_every=9, checkpoint_every=9), tmp_path, until=5)
    finally:
        jax.monitoring.unregister_event_duration_listener(duration)
    assert compiled  # ahead of the first call
    seen = list(dict.fromkeys(events))
    assert seen == [("begun", 1), *(e for n in range(1, 5) for e in (("begun", n + 1), ("read", n))), ("read", 5)]
    assert "train step: compiled in" in capsys.readouterr().err


@contextlib.contextmanager
def compiled_steps():
    """What is compiled meanwhile of training and evaluation steps, by name."""
    found = []

    def duration(event, seconds, *, fun_name="", **_):
        if "backend_compile" in event and fun_name in ("jit(step)", "jit(evaluate)"):
            found.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(duration)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(duration)


def test_each_bucket_is_compiled_once_before_the_first_step_also_after_resuming(tmp_path, monkeypatch, capsys):
    options = {"layout": "separate", "rows": 8, "row_length": 32, "buckets": (16, 32)}
    fields = config(
        steps=5,
        data=ref(gold.dataset, kind="pairs", size=48, eval_size=16, **options),
        model=ref(toy.model, outputs=1),
        objective={"reward": recipe.term(scored.scored_pairs, reward.bradley_terry)},
        reference=False,
        mesh={"data": 2, "fsdp": 2, "tensor": 1},
    )
    begun, original, put = [], loop.compile_all, mesh.put_batch
    monkeypatch.setattr(loop, "compile_all", lambda *args: (original(*args), begun.append(list(found)))[0])
    monkeypatch.setattr(mesh, "put_batch", lambda batch, grid: seen.append(batch["tokens"].shape) or put(batch, grid))
    rows = []
    for _ in range(2):
        seen = []
        with compiled_steps() as found:
            loop.fit(fields, tmp_path)
        assert sorted(found) == ["jit(evaluate)"] * 2 + ["jit(step)"] * 2
        assert begun.pop() == found  # nothing more while it ran
        assert set(seen) == {(8, 16), (8, 32)}
        said = capsys.readouterr().err
        for what in ("train step", "evaluation step"):
            for length in (16, 32):
                assert f"{what}, rows of {length} tokens: compiled in" in said
        rows.append(trace(tmp_path))
        shutil.rmtree(tmp_path / "checkpoints" / "5")  # it goes on from step 4
    assert rows[0] == rows[1] and [row["step"] for row in rows[1] if "loss" in row] == [1, 2, 3, 4, 5]


def test_the_row_length_changes_neither_loss_nor_gradient_nor_what_is_stored(tmp_path):
    data = gold.dataset(size=12, eval_size=4, rows=2, row_length=48, slots=1, buckets=(20, 48))
    model = decoder.decoder(vocab_size=data.tokenizer.vocab_size, **TINY)
    params, other = (jax.jit(model.init)(jax.random.key(seed)) for seed in (0, 1))
    stored, _ = reference.attach(data, model, tmp_path, lambda: other, grid=mesh.make_mesh({"data": 1}))
    assert {len(row) for batch in stored.train_in_order() for row in batch["tokens"]} == {20, 48}
    fits = np.flatnonzero(data.training.sizes() <= 20)[:2]
    objective = compose(functools.partial(views.pairs, model=model), functools.partial(paired.dpo, beta=0.5))
    gradient = jax.jit(train.value_and_grad(objective))

    def of(data, carry, shape):
        batch = packing.assemble(data.training, [[int(i)] for i in fits], shape)
        return gradient(params, carry, batch, jax.random.key(0))

    short, long = data.layout.shapes
    (loss, _), grads = of(data, {"reference": other}, long)
    (again, _), others = of(stored, {}, short)
    assert abs(loss - np.log(2)) > 1e-3  # policy and reference differ
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, others)


def test_interrupted_and_resumed_equals_uninterrupted(whole, tmp_path):
    loop.fit(config(), tmp_path, until=3)
    run = loop.fit(config(), tmp_path)
    assert trace(tmp_path) == trace(whole.workdir)
    jax.tree.map(np.testing.assert_array_equal, run.state, whole.state)


def test_load_opens_any_checkpoint(whole, monkeypatch):
    with nothing_made(monkeypatch, checkpoint, "_restore_arrays"):
        run = loop.load(whole.workdir)
    jax.tree.map(np.testing.assert_array_equal, run.state.params, whole.state.params)
    assert loop.load(whole.workdir, step=4).step == 4
    assert run.evaluate() == pytest.approx(whole.evaluate(), rel=1e-6)


def test_the_best_checkpoint_is_the_one_that_the_config_means(tmp_path):
    wanted = config(best_metric="eval/score", best_mode="max", keep_last=1)
    with loop.checkpoints_of(wanted, tmp_path) as saved:
        for step, score in ((1, 0.2), (2, 0.9), (3, 0.4)):
            saved.save(step, {"x": np.ones(2)}, metrics={"eval/score": score})
        saved.wait()
        assert saved.best() == 2
    with pytest.raises(ValueError, match="did you mean 'max'"):
        loop.checkpoints_of(config(best_mode="maxx"), tmp_path)


KILLED = """
import sys, pathlib
sys.path.insert(0, {root!r})
from tests import test_loop
from prefjax import loop
loop.fit(test_loop.config(steps=12, checkpoint_every=1), pathlib.Path({workdir!r}))
"""


def test_kill_minus_nine_at_any_time_loses_nothing(tmp_path):
    root = str(pathlib.Path(__file__).resolve().parents[1])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

    def start(workdir: pathlib.Path) -> subprocess.Popen:
        code = KILLED.format(root=root, workdir=str(workdir))
        return subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    steady = start(tmp_path / "steady")
    out, _ = steady.communicate(timeout=300)
    assert steady.returncode == 0, out
    killed = 0
    for wait in (0.0, 0.15, 0.4):  # after the first, second, ... checkpoint appears: between and inside saves
        process = start(tmp_path / "killed")
        seen = len(list((tmp_path / "killed").glob("checkpoints/*")))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "killed").glob("checkpoints/*"))) > min(seen, 2):
                time.sleep(wait)
                process.send_signal(signal.SIGKILL)
                killed += process.wait() == -signal.SIGKILL
                break
            time.sleep(0.01)
        process.communicate()
    assert killed >= 1
    last = start(tmp_path / "killed")
    out, _ = last.communicate(timeout=300)
    assert last.returncode == 0, out
    assert trace(tmp_path / "killed") == trace(tmp_path / "steady")


def test_sigterm_saves_and_stops(tmp_path, monkeypatch):
    original = mesh.put_batch
    count = []

    def put(batch, grid):
        count.extend([1] if batch["example_mask"].any() else [])  # none in those that are compiled for
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch, grid)

    monkeypatch.setattr(mesh, "put_batch", put)
    with pytest.raises(SystemExit, match="143"):
        loop.fit(config(checkpoint_every=100), tmp_path)
    assert loop.load(tmp_path).step == 2


def test_a_changed_config_is_refused_with_the_difference(whole):
    changed = config()
    changed.objective.dpo.loss.beta = 0.3
    with pytest.raises(rundir.ConfigMismatch, match=r"objective\.dpo\.loss\.beta +0\.1 +0\.3"):
        loop.fit(changed, whole.workdir)


@contextlib.contextmanager
def nothing_made(monkeypatch, module, name):
    """Checks that no large array is made before `module.name` reads parameters, which it must."""
    held = lambda: sum(x.nbytes for x in jax.live_arrays())  # noqa: E731
    before, reader, more = held(), getattr(module, name), []

    def read(*args, **options):
        more.append(held() - before)
        return reader(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, read)
        yield
    assert more and max(more) < 2000  # bytes; the parameters alone have 20 times as many


def test_init_from_takes_parameters_and_says_what_is_new(whole, tmp_path, capsys, monkeypatch):
    scores = recipe.term(views.scored_pairs, reward.bradley_terry, metrics=ref(preference.reward_model))
    stage = config(
        steps=1,
        model=ref(decoder.decoder, outputs=1, **TINY),
        objective={"reward": scores},
        reference=False,
        init_from=str(whole.workdir),
    )
    with nothing_made(monkeypatch, checkpoint, "_restore_arrays"):
        run = loop.assemble(loop.resolve(stage), tmp_path)
    assert "freshly initialised: score/kernel" in capsys.readouterr().out
    np.testing.assert_array_equal(run.state.params["embed"]["kernel"], whole.state.params["embed"]["kernel"])
    stage.model.rope_theta = 500.0
    with pytest.raises(ValueError, match=r"rope_theta=500.0 instead of 10000.0"):
        loop.assemble(loop.resolve(stage), tmp_path)


def test_a_stage_opens_and_resumes_when_the_one_it_came_from_is_gone(tmp_path):
    rows = [{"prompt": f"say {i}", "chosen": f"good {i} it is", "rejected": f"bad {i}"} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = ref(pipeline.dataset, path=str(tmp_path / "pairs.jsonl"), tokenizer="bpe:300", rows=4, row_length=64)
    first = loop.fit(config(steps=2, data=files), tmp_path / "first")
    stage = config(steps=4, data=files, init_from=str(tmp_path / "first"))
    whole = loop.fit(stage, tmp_path / "whole")
    assert whole.dataset.tokenizer.fingerprint == first.dataset.tokenizer.fingerprint
    np.testing.assert_array_equal(
        whole.state.carry["reference"]["embed"]["kernel"], first.state.params["embed"]["kernel"]
    )
    loop.fit(stage, tmp_path / "cut", until=2)
    (tmp_path / "first").rename(tmp_path / "moved")
    cut = loop.fit(stage, tmp_path / "cut")
    jax.tree.map(np.testing.assert_array_equal, cut.state, whole.state)
    assert trace(tmp_path / "cut") == trace(tmp_path / "whole")
    opened = loop.load(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, opened.state.params, whole.state.params)


def test_a_first_save_that_was_cut_off_does_not_lose_the_start(whole, tmp_path):
    """Its folder alone is no checkpoint: the stage must begin again from init_from, not from random parameters."""
    stage = config(steps=1, init_from=str(whole.workdir))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    run = loop.fit(stage, tmp_path, until=0)
    np.testing.assert_array_equal(run.state.params["embed"]["kernel"], whole.state.params["embed"]["kernel"])


def test_carry_refresh_schedule_and_weight_of_a_config_reach_the_step(tmp_path):
    """Each option acts: the moved reference, the carried baseline, the scheduled coefficient, the weight."""
    loss = ref(paired.dpo, beta=0.1)

    def fitted(name, **options):
        term = recipe.term(views.pairs, loss, metrics=ref(preference.paired, beta=0.1), **options.pop("term", {}))
        return loop.fit(config(steps=2, objective={"dpo": term}, **options), tmp_path / name)

    plain = fitted("plain")
    changed = fitted(
        "changed",
        refresh=ref(train.ema, mix=1.0, every=2),
        carry=ref(carry_of_a_test),
        term={"weight": weight_of_a_test},
    )
    jax.tree.map(np.testing.assert_array_equal, changed.state.carry["reference"], changed.state.params)
    assert np.any(
        np.asarray(plain.state.carry["reference"]["embed"]["kernel"]) != plain.state.params["embed"]["kernel"]
    )
    assert "baseline" in changed.state.carry and "baseline" not in plain.state.carry
    assert trace(changed.workdir)[0]["loss"] == pytest.approx(3 * trace(plain.workdir)[0]["loss"], rel=1e-6)
    off = fitted("off", term={"schedule": ref(schedule_of_a_test, factor=0.0)})
    jax.tree.map(np.testing.assert_array_equal, off.state.params, off.state.carry["reference"])


def carry_of_a_test(params):
    return {"baseline": Mean(jnp.zeros(()), jnp.zeros(()))}


def schedule_of_a_test(step, *, factor):
    return factor * jnp.ones_like(step, jnp.float32)


def weight_of_a_test(chosen_lengths):
    return 3.0 * jnp.ones(chosen_lengths.shape)


def test_init_from_a_hugging_face_folder_and_back(whole, tmp_path, monkeypatch):
    folder = tmp_path / "exported"
    huggingface.write_folder(folder, whole.model, whole.state.params, tokenizer=whole.dataset.tokenizer)
    stage = config(steps=1, model=ref(huggingface.pretrained, folder=str(folder)), init_from=str(folder))
    rundir.prepare(tmp_path / "run", stage)
    with nothing_made(monkeypatch, huggingface, "read_params"):
        run = loop.assemble(loop.resolve(stage), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, run.state.params, whole.state.params)
    jax.tree.map(np.testing.assert_array_equal, run.state.carry["reference"], whole.state.params)
    assert all(np.all(x == 0) for x in jax.tree.leaves(run.state.opt_state))
    # A config that begins from this run has its model, not the small one, and its own head
    with loop.checkpoints_of(stage, tmp_path / "run") as saved:
        saved.save(1, run.state)
    next_ = bradley_terry.get_config(f"runlocal,init={tmp_path / 'run'}")
    assert (next_.model.fn, next_.model.folder, next_.model.outputs) == (stage.model.fn, str(folder), 1)
    next_.data, next_.mesh = stage.data, stage.mesh
    reward_model = loop.assemble(loop.resolve(next_), tmp_path / "next")
    np.testing.assert_array_equal(reward_model.state.params["embed"]["kernel"], whole.state.params["embed"]["kernel"])
    stage.model = ref(decoder.decoder, **{**TINY, "rope_theta": 500.0})
    with pytest.raises(ValueError, match="rope_theta"):
        loop.assemble(loop.resolve(stage), tmp_path / "other")


def assert_same_numbers(workdir, expected):
    for ours, theirs in zip(trace(workdir), trace(expected), strict=True):
        if theirs["step"] == 1:  # the policy is its reference: which of two margins of 0 is larger is rounding
            ours, theirs = ({k: v for k, v in row.items() if k != "rewards/accuracies"} for row in (ours, theirs))
        assert ours == pytest.approx(theirs, rel=2e-4, abs=2e-4)


@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_the_mesh_does_not_change_the_numbers(whole, tmp_path, shape):
    run = loop.fit(config(mesh={"data": 1, "fsdp": 1, "tensor": 1, **shape}), tmp_path)
    assert_same_numbers(tmp_path, whole.workdir)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), run.state.params, whole.state.params)


def test_accumulation_does_not_change_the_numbers(whole, tmp_path):
    loop.fit(config(accumulate=4), tmp_path)
    assert_same_numbers(tmp_path, whole.workdir)


def test_nan_stops_with_the_examples_and_a_bundle(tmp_path):
    bad = config(objective={"bad": recipe.term(views.pairs, language.sft, bind={"token_logps": "chosen_token_logps"})})
    bad.optimizer.learning_rate = float("inf")
    with pytest.raises(debug.NonFiniteLoss, match="step 2"):
        loop.fit(bad, tmp_path)
    bundle = debug.load_bundle(next((tmp_path / debug.FOLDER).iterdir()))
    assert bundle.ids and bundle.batch["tokens"].shape == (8, 64)


def test_what_does_not_fit_is_refused_before_any_step(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'optimizer'"):
        loop.fit({**config().to_dict(), "optimiser": 1}, tmp_path / "a")
    unpaired = config(objective={"x": recipe.term(views.responses, paired.dpo)})
    with pytest.raises(ValueError, match="dpo needs chosen_logps; view responses gives"):
        loop.fit(unpaired, tmp_path / "b")
    no_reference = config(reference=False)
    with pytest.raises(ValueError, match="dpo needs ref_chosen_logps"):
        loop.fit(no_reference, tmp_path / "c")
    with pytest.raises(ValueError, match="asks for 1024 devices"):
        loop.fit(config(mesh={"data": 1024, "fsdp": 1, "tensor": 1}), tmp_path / "d")
    with pytest.raises(ValueError, match="did you mean 'beta'"):
        bad = config()
        bad.objective.dpo.loss.betta = 0.2
        loop.fit(bad, tmp_path / "e")
    small = config(model=ref(decoder.decoder, vocab_size=10, **TINY))
    with pytest.raises(ValueError, match="vocab"):
        loop.fit(small, tmp_path / "f")


def test_adapters_refuse_what_would_have_no_effect_and_carry_the_stage_they_start_from(tmp_path):
    small = config()
    small.model = ref(lora.adapted, base=small.model, rank=2)
    small.objective = {"dpo": recipe.term(adapted.adapted, paired.dpo, inner=views.pairs)}
    with pytest.raises(ValueError, match="reference=True has no effect with adapters"):
        loop.fit(small, tmp_path)
    small.reference, small.carry = False, ref(train.snapshot)
    first = loop.fit(config(steps=1), tmp_path / "first")
    small.init_from = str(tmp_path / "first")
    run = loop.assemble(loop.resolve(small), tmp_path)
    for kept, theirs in zip(*map(jax.tree.leaves, (run.state.carry["previous"], first.state.params)), strict=True):
        np.testing.assert_array_equal(kept, theirs)  # of the stage it starts from, not of the first draw

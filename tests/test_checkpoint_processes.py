"""Checkpoints of real processes: cut short by the system, killed at any point, and several at once.

One interpreter imports, and forks each trainer before jax starts threads.
"""

import json
import signal

import jax
import jax.numpy as jnp
import pytest

from prefjax.checkpoint import CheckpointError, Checkpoints, load_params, steps_in
from tests import forks

STEPS = """
import jax, jax.numpy as jnp, numpy as np, optax
from prefjax import mesh as meshes
from prefjax import train
from prefjax.models import placement, sharding
from prefjax.ops.logprobs import token_logps
from prefjax.ops.masked import Mean

def objective(params, carry, batch, key):
    tokens = batch["tokens"]
    hidden = jnp.tanh(params["embed"]["kernel"][tokens[:, :-1]]).reshape(-1, 8)
    logps = token_logps(hidden, params["head"]["kernel"], tokens[:, 1:].reshape(-1))
    return Mean(-jnp.sum(logps), jnp.float32(logps.size)), {}

def init(key):
    draw = jax.random.normal(key, (16, 8))
    return {"embed": {"kernel": draw}, "head": {"kernel": draw.T}}

def trainer(**shape):
    \"\"\"(state at step 0, (state, step) -> (state, loss)) on a mesh of so many devices.\"\"\"
    grid, tx = meshes.make_mesh({"data": 1, **shape}), optax.adam(1e-2)
    start = lambda key: train.init_state(init(key), tx)
    where = meshes.shardings(jax.eval_shape(start, jax.random.key(0)), sharding.RULES, grid)
    update = jax.jit(placement.on(grid, train.make_step(objective, tx)), out_shardings=(where, None))

    def advance(state, step):
        rows = np.random.default_rng(step).integers(0, 16, (8, 6))
        own = np.split(rows, jax.process_count())[jax.process_index()]
        state, metrics = update(state, meshes.put_batch({"tokens": own}, grid), jax.random.key(step))
        return state, float(metrics["loss"])

    return jax.jit(start, out_shardings=where)(jax.random.key(0)), advance
"""
KILLS = [*(f"after {ms} ms" for ms in (2, 10, 40)), "manifest", "half manifest", "written", "pruning"]
CODE = """
import json, resource, shutil, signal, threading, time
import jax, jax.numpy as jnp, numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from prefjax import manifest
from prefjax.checkpoint import CheckpointError, Checkpoints, steps_in

folder = sys.argv[1]

def cut_short():
    make = lambda n: {"w": jax.random.normal(jax.random.key(n), (n,))}
    saved = Checkpoints(folder + "/cut")
    saved.save(1, make(1000))
    saved.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
    state = make(1 << 18)
    before = state["w"].sum()
    saved.save(2, state)
    try:
        saved.wait()
        print("no error")
    except CheckpointError as error:
        print(error)
    assert state["w"].sum() == before
    assert (saved.restore(make(1000))[0]["w"] == make(1000)["w"]).all()
    saved.save(3, make(1000))
    saved.close()
    print("steps", steps_in(saved.folder), sorted(p.name for p in saved.folder.iterdir()))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def interrupted(kill):
    make = lambda n: {"params": {"w": float(n) + jnp.arange(1 << 16)}, "step": jnp.asarray(n)}
    saved = Checkpoints(folder + "/killed", keep_last=1, keep_best=0)
    start = saved.latest() or 0
    if start:
        state, data, meta, at = saved.restore(make(0))
        assert at == start == data["at"] and (state["params"]["w"] == make(start)["params"]["w"]).all()
    saved.save(start + 1, make(start + 1), {"at": start + 1})
    saved.wait()
    if kill == "none":
        return
    write, remove = manifest.write, shutil.rmtree
    if kill == "manifest":
        manifest.write = lambda *_: die()
    if kill == "half manifest":
        def half(path, value):
            with open(f"{path}.tmp", "w") as file:
                file.write(json.dumps(value)[:50])
            die()
        manifest.write_json = half
    if kill == "written":
        manifest.write = lambda *a: (write(*a), die())
    if kill == "pruning":
        def rmtree(path, **_):
            os.unlink(os.path.join(path, "meta", "metadata"))
            die()
        shutil.rmtree = rmtree
    if kill.startswith("after"):
        seconds = int(kill.split()[1]) / 1000
        threading.Thread(target=lambda: (time.sleep(seconds), die())).start()
    saved.save(start + 2, make(start + 2), {"at": start + 2})
    saved.wait()
    die()

def train_together():
    state, advance = trainer(data=2, fsdp=2)
    assert not state.params["head"]["kernel"].is_fully_addressable
    for step in (1, 2):
        state, loss = advance(state, step)
        os.write(1, f"loss {loss}\\n".encode())  # in one piece: four processes write here
    with Checkpoints(folder + "/trained") as saved:
        saved.save(2, state)

def save_together():
    count = jax.process_count()
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def make(value):
        w = np.arange(8.0, dtype=np.float32) * value
        spread = jax.make_array_from_callback(w.shape, rows, lambda index: w[index])
        return {"params": {"w": spread}, "step": jnp.asarray(value), "key": jax.random.key(value)}

    me, run = jax.process_index(), folder + "/run"
    numbers = np.random.default_rng(0).normal(size=1 << 14).astype(np.float32)
    with Checkpoints(run, keep_last=1) as saved:
        for step in (1, 2):
            place = {"rows_of": me} if step == 1 else {"global": 7}
            saved.save(step, make(step), place, {"seed": 1})
            saved.wait()
            sync_global_devices("written")
            state, data, meta, at = saved.restore(make(0))
            assert data == place and meta == {"seed": 1}
            assert at == step == state["step"] and steps_in(run) == [step]
            for shard in state["params"]["w"].addressable_shards:
                assert (np.asarray(shard.data) == np.arange(8.0)[shard.index] * step).all()
            if step == 1 and me == 0:
                shutil.copytree(f"{run}/1", f"{run}-first/1")
        write, unlimited = manifest.write, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

        def unwritable(*_):
            raise OSError(28, "No space left on device")

        for step in (3, 4):
            if (step, me) == (3, 3):
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, resource.RLIM_INFINITY))
            if (step, me) == (4, 0):
                manifest.write = unwritable
            said = "nothing"
            try:
                saved.save(step, {"w": jax.make_array_from_callback(numbers.shape, rows, lambda at: numbers[at])})
                saved.wait()
            except CheckpointError as error:
                said = str(error)
            os.write(1, f"refused {step} {me} {said!r}\\n".encode())
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            manifest.write = write
        assert saved.latest() == 2

print("cut", *ended(cut_short), flush=True)
for kill in json.loads(sys.argv[2]):
    print("kill", kill, *ended(lambda: interrupted(kill)), sep=" | ", flush=True)
together(4, lambda: (save_together(), train_together()))
print("together", flush=True)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, lines printed, errors) of all trainers."""
    folder = tmp_path_factory.mktemp("processes")
    _, out, errors = forks.interpreter(STEPS + CODE, str(folder), json.dumps([*KILLS, "none"]))
    return folder, out.splitlines(), errors


def test_a_write_that_the_system_cuts_short(ran):
    """The arrays themselves do not fit: a limit on file size stands for the full disk."""
    folder, lines, errors = ran
    end = next((i for i, line in enumerate(lines) if line.startswith("cut ")), 0)
    out = "\n".join(lines[:end])
    assert lines[end : end + 1] == ["cut 0"], errors[-3000:]
    assert f"checkpoint 2 could not be saved in {folder / 'cut'}: " in out and "File too large" in out
    assert "about 1.0 MiB to write" in out and "whole: 1." in out
    assert lines[end - 1] == "steps [1, 3] ['1', '3']"


def test_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint(ran):
    folder, lines, errors = ran
    ends = [line.split(" | ")[1:] for line in lines if line.startswith("kill")]
    # Each trainer first restored what the one before it left, and checked the numbers.
    assert ends == [[kill, str(-signal.SIGKILL)] for kill in KILLS] + [["none", "0"]], errors[-3000:]
    assert steps_in(folder / "killed") == [Checkpoints(folder / "killed").latest()]
    assert Checkpoints(folder / "killed").latest() > len(KILLS)


def test_four_processes_save_one_checkpoint(ran):
    """Each holds a quarter of the array and its own place in the data; one, two or eight devices then read it all."""
    folder, lines, errors = ran
    assert lines[-1:] == ["together"], errors[-3000:]
    for devices in (1, 2, 8):
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        where = {"params": {"w": jax.device_put(jnp.zeros(8), rows)}, "step": jnp.asarray(0), "key": jax.random.key(0)}
        state, data, _, step = Checkpoints(folder / "run").restore(where)
        assert step == 2 and data == {"global": 7} and (state["params"]["w"] == jnp.arange(8.0) * 2).all()
        assert state["params"]["w"].sharding == rows
    with pytest.raises(CheckpointError, match="4 processes whose data iterators stood at different places"):
        Checkpoints(folder / "run-first").restore(where)
    assert (load_params(folder / "run-first")["w"] == jnp.arange(8.0)).all()


def test_where_one_of_four_processes_cannot_write_all_hear_of_it(ran):
    """At once, not after the 20 minutes that orbax's threads wait for one another."""
    _, lines, errors = ran
    said = {tuple(map(int, line.split()[1:3])): line for line in lines if line.startswith("refused")}
    assert len(said) == 8, errors[-3000:]
    for step, refused, why in ((3, 3, "File too large"), (4, 0, "No space left on device")):
        for process in range(4):
            text = said[step, process]
            assert f"checkpoint {step} could not be saved" in text and "whole: 2." in text
            assert (why if process == refused else "a process could not write its part") in text


def test_what_four_processes_began_others_go_on_with(ran):
    folder, lines, errors = ran
    assert lines[-1:] == ["together"], errors[-3000:]
    scope = {}
    exec(STEPS, scope)
    start, advance = scope["trainer"]()
    state, alone = start, []
    for step in (1, 2, 3):
        state, loss = advance(state, step)
        alone.append(loss)
    four = [float(line.split()[1]) for line in lines if line.startswith("loss")]
    assert sorted(four) == pytest.approx(sorted(alone[:2] * 4), abs=1e-5)
    others = [scope["trainer"](fsdp=2), scope["trainer"](data=2, fsdp=4)]
    for template, go_on in ((start, advance), *others):
        state, _, _, step = Checkpoints(folder / "trained").restore(template)
        assert step == 2 == state.step
        assert go_on(state, 3)[1] == pytest.approx(alone[2], abs=1e-5)

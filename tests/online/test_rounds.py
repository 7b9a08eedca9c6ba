"""Rounds in the loop: resumed bit for bit in the middle of one, the same on any mesh, robust to what fails."""

import dataclasses
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs.online import algorithms
from prefjax import loop, processes
from prefjax.config import ref
from prefjax.generate import language
from prefjax.models import decoder
from prefjax.online import dataset as online
from prefjax.online import rollouts, samplers, scorers
from tests import forks

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}


def drifting(rollout):
    """The gold reward, of a grader that tells every process something else."""
    return scorers.gold(rollout) + 0.3 * jax.process_index()


def config(steps=6, algorithm="grpo", **fields):
    """GRPO in rounds of four steps: two epochs of two minibatches."""
    made = algorithms.get_config(f"runlocal,algorithm={algorithm},steps={steps},reward=gold")
    made.model, made.data.score = ref(decoder.decoder, **TINY), ref(drifting)
    made.data.epochs = 2
    made.data.prompts.size, made.data.prompts.eval_size = 24, 8
    made.mesh.data = 1
    made.log_every, made.eval_every, made.checkpoint_every = 1, 3, 3
    made.writers = ("jsonl",)
    for name, value in fields.items():
        made[name] = value
    return made


def trace(workdir: pathlib.Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return loop.fit(config(), tmp_path_factory.mktemp("whole"))


def test_a_run_reports_its_rounds(whole):
    rows = [row for row in trace(whole.workdir) if "loss" in row]
    assert [row["rollout/round"] for row in rows] == [0, 0, 0, 0, 1, 1]
    assert {"rollout/scores", "rollout/kl", "rollout/length", "rollout/exact", "rollout/failures"} <= set(rows[0])
    assert rows[0]["rollout/kl"] == pytest.approx(0, abs=1e-5)  # at first the policy is the reference
    timed = [json.loads(line) for line in (whole.workdir / "metrics.jsonl").read_text().splitlines()]
    assert timed[0]["speed/rollout_tokens_per_second"] > 0
    held_out = [row for row in trace(whole.workdir) if "eval/rollout/scores" in row]
    assert [row["step"] for row in held_out] == [3, 6] and all("eval/loss" in row for row in held_out)


def test_the_first_step_of_a_round_is_on_policy(whole):
    """Log-probs stored by the sampler are those of the forward pass that learns."""
    rows = [row for row in trace(whole.workdir) if "loss" in row]
    assert [row["policy_shift"] < 1e-7 for row in rows] == [True, False, False, False, True, False]


def test_stopped_in_the_middle_of_a_round_and_resumed(tmp_path):
    """Constrained GRPO, whose multiplier is carried from step to step and read by the next round."""
    made = config(algorithm="constrained")
    made.data.prompts.eval_size = 0
    whole = loop.fit(made, tmp_path / "whole")
    loop.fit(made, tmp_path / "twice", until=3)
    run = loop.fit(made, tmp_path / "twice")
    assert trace(run.workdir) == trace(whole.workdir)
    jax.tree.map(np.testing.assert_array_equal, run.state, whole.state)
    assert run.state.carry["multipliers"].values[0] != 0


def test_the_mesh_does_not_change_the_numbers(whole, tmp_path):
    made = config(steps=5, mesh={"data": 8, "fsdp": 1, "tensor": 1})
    made.data.prompts.eval_size = 0
    loop.fit(made, tmp_path)
    one, eight = ([row for row in trace(folder) if "loss" in row] for folder in (whole.workdir, tmp_path))
    for a, b in zip(one[:5], eight, strict=True):
        for name in ("loss", "rollout/scores", "rollout/length", "rollout/kl"):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-5), (a["step"], name)


CHILD = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from prefjax import loop
from tests.online import test_rounds
made = test_rounds.config(steps=5, mesh={"data": 2, "fsdp": 1, "tensor": 1})
made.data.prompts.eval_size = 0
loop.fit(made, sys.argv[3])
print("trained", flush=True)
test_rounds.one_process_fails()
print("failed together", flush=True)
"""


def one_process_fails():
    """What raises in the second of two processes: both hear of it, and neither waits for the other."""
    prompts = ["copy : a", "copy : b"]
    rollout = rollouts.Rollout(prompts, [], rollouts._blank_samples(2, 1, 1), ["a", "b"], rollouts.nobody(None))
    rollout = dataclasses.replace(rollout, prompt_tokens=[np.zeros(1, np.int32)] * 2)
    second = jax.process_index() == 1

    def in_one_call(part):
        if second and len(part.prompts) == 2:
            raise OSError("too much at once")
        return np.full(len(part.texts), float(len(part.prompts)))

    scores, failures = scorers.score(rollout, in_one_call)
    assert scores.tolist() == [[1], [1]] and not failures  # all went prompt by prompt

    def altogether(part):
        if second:
            raise OSError("the grader is down")
        return np.ones(len(part.texts))

    with pytest.raises(RuntimeError, match="in process 1, OSError: the grader is down"):
        scorers.score(rollout, altogether)
    scores, failures = scorers.score(rollout, altogether, required=False)
    assert len(failures) == 2 * second and np.isfinite(scores).all() != second
    assert processes.agreed(scores).tolist() == [[1], [1]]  # a watched score: the first process has it

    def sample(policy, asked, key):
        if second and len(asked) == 1 and asked[0][0] == 1:
            raise OSError("no answer")
        if len(asked) == 2:
            raise OSError("too much at once")
        return rollouts._blank_samples(1, 1, 1)

    answers, failures = online._sampled(sample, None, [np.asarray([0]), np.asarray([1])], jax.random.key(0))
    assert answers.samples.lengths.tolist() == [1, 0] and [failure.prompt for failure in failures] == [1]
    assert "no answer" in failures[0].detail


def test_two_processes_play_the_rounds_of_one(whole, tmp_path):
    """Over the end of a round; what the grader tells the first process counts for both."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    settings = {
        "XLA_FLAGS": forks.xla_flags(),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "PYTHONWARNINGS": "ignore",
    }
    env = {**os.environ, **settings, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(index), str(tmp_path)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in started:
            out, errors = process.communicate(timeout=500)
            assert process.returncode == 0 and "trained" in out and "failed together" in out, errors[-3000:]
    finally:
        for process in started:
            process.kill()
    one, two = ([row for row in trace(folder) if "loss" in row] for folder in (whole.workdir, tmp_path))
    assert [row["rollout/round"] for row in two] == [0, 0, 0, 0, 1]
    for a, b in zip(one[:5], two, strict=True):
        for name in ("loss", "grad_norm", "rollout/scores", "rollout/length", "rollout/kl", "rollout/failures"):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-5), (a["step"], name)


def fails_on_copy(rollout):
    """A reward of these tests that is broken for one task."""
    if any(prompt.startswith("copy") for prompt in rollout.prompts):
        raise OSError("the grader is down")
    return scorers.gold(rollout)


def test_failures_are_counted_recorded_and_survived(tmp_path):
    made = config(steps=1)
    made.data.score, made.data.prompts.eval_size = ref(fails_on_copy), 0
    loop.fit(made, tmp_path)
    row = next(row for row in trace(tmp_path) if "loss" in row)
    lines = [json.loads(line) for line in (tmp_path / online.FAILURES).read_text().splitlines()]
    broken = [line for line in lines if line["reason"] == "reward exception"]
    assert broken and all(line["prompt"].startswith("copy") for line in broken)
    assert "the grader is down" in broken[0]["detail"]
    assert row["rollout/failures"] == len(lines)
    assert row["rollout/examples"] == 8 - len(broken) and np.isfinite(row["loss"])


def test_other_models_as_rewards(whole):
    """Models of earlier runs, opened from their workdirs, against the same sums by hand."""
    rollout = whole.dataset.play(np.arange(2), False, jax.random.key(5)).rollout
    own, samples = str(whole.workdir), rollout.samples
    assert not scorers.density_ratio(rollout, strong=own, weak=own).any()
    implicit = scorers.implicit(rollout, beta=0.5)  # to the carried reference
    ref = rollout.policy.logps(rollout, rollout.policy.carry["reference"])
    np.testing.assert_allclose(implicit, 0.5 * (samples.logps - ref).sum(1), atol=1e-4)
    assert np.abs(implicit).max() > 1e-3
    np.testing.assert_allclose(scorers.implicit(rollout, reference=own), 0, atol=1e-5)

    found = scorers.followup(rollout, positive=("gladly", "thank you"), negative=("go away",))
    policy, ids = rollout.policy, rollout.policy.tokenizer.encode
    for row in (0, 5):
        response = samples.responses()[row]
        before = np.concatenate([rollout.repeated_tokens[row], response[: len(response) - int(samples.finished[row])]])

        def mean(text, before=before):
            tokens = np.asarray([ids(text)])
            count = np.asarray([tokens.shape[1]])
            reference = policy.carry["reference"]
            return language.response_logps(policy.model, reference, [before], tokens, count).sum() / count[0]

        expected = (mean("gladly") + mean("thank you")) / 2 - mean("go away")
        assert found[row] == pytest.approx(expected, abs=1e-4)

    centred = scorers.centred(rollout, score=scorers.gold, num_samples=4)
    assert (centred < 0).all()
    order = np.argsort(scorers.gold(rollout)[:4], kind="stable")
    assert (np.diff(centred[:4][order]) >= -1e-6).all()  # a monotone transform within a prompt


def test_a_prompt_that_cannot_be_sampled_is_left_out(whole):
    """Its responses have length 0; the others are as if it had been sampled alone."""
    policy = whole.dataset.policy
    prompts = [np.asarray([5, 6]), np.asarray([99_999]), np.asarray([7])]
    sample = functools.partial(samplers.own, num_samples=4, max_new_tokens=8)
    (samples, own, _), failures = online._sampled(sample, policy, prompts, jax.random.key(0))
    assert own.tolist() == [True] * 4
    assert [(f.prompt, f.reason) for f in failures] == [(1, "generation")] and "vocabulary" in failures[0].detail
    assert samples.lengths[4:8].tolist() == [0] * 4 and (samples.lengths[[0, 11]] > 0).all()
    with pytest.raises(RuntimeError, match="no prompt of the round could be answered"):
        online._sampled(sample, policy, prompts[1:2], jax.random.key(0))


def test_states_of_other_rounds_are_refused(whole):
    data = whole.dataset.train(0)
    state = data.get_state()
    data.set_state(state)
    assert data.get_state() == state
    with pytest.raises(ValueError, match="seed=0, this run has 1"):
        whole.dataset.train(1).set_state(state)
    with pytest.raises(ValueError, match="expected bytes"):
        data.set_state({"round": 1})
    with pytest.raises(ValueError, match="epochs=0"):
        online.dataset(prompts=lambda: None, score=scorers.gold, epochs=0)

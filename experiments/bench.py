"""Measures training steps and generation on this machine: a table, its JSON, and a plot.

  python -m experiments.bench --out=runs/bench                                      # the table and the growth curves
  python -m experiments.bench --cases=dpo,dpo:vocab=32000:layout=separate
  python -m experiments.bench --cases=dpo:vocab=32000 --peer=<python with torch>    # beside benchmarks/pytorch_dpo.py
  PREFJAX_DATA=<folder> python -m experiments.bench --cases=dpo:data=hh --peer=<python with torch>
  python -m experiments.bench --cases=dpo:stored=1 --beside=dpo                     # one of our cases beside another
  python -m experiments.bench --cases=attention,mlp,head,head:vocab=32000,optimizer   # parts of a step
  python -m experiments.bench --cases=dpo_1b                                        # a GPU: bfloat16, 8 x 2048 tokens
  PREFJAX_NATIVE=0 python -m experiments.bench --cases=dpo                           # a CPU without the kernels in C++

A case is a task and its options, `task:option=value:...`; the options and their defaults are `Shape`. Each case is a
fresh process, so that its peak of resident memory is its own; a peer's process runs beside it, one step in turn.
Tokens count each response with its prompt, whatever the layout, so that layouts compare; in generation the sampled ones
alone. CPU seconds are those of all cores; they compare two of our cases on a busy machine, but not ours with a peer's,
whose threads may spin as they wait.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from experiments import bench_figure, common
from prefjax.config import did_you_mean

TABLE = (
    "sft", "dpo:layout=separate", "dpo", "dpo:layout=packed", "dpo:stored=1", "dpo:lora=8",
    "dpo:prompt=192:response=64", "dpo:prompt=192:response=64:layout=separate", "dpo:vocab=32000",
    "dpo:vocab=32000:layout=separate", "reward", "kto", "contrastive", "generate",
)  # fmt: skip
GROWTH = {
    "response": ("dpo:response=64", "dpo:response=448", "dpo:response=960:examples=4"),
    "examples": ("dpo:examples=2", "dpo:examples=16"),
    "vocab": ("dpo:vocab=2048", "dpo:vocab=16384", "dpo:vocab=50257"),
    "responses": ("list:responses=2", "list:responses=4", "list:responses=8"),
    "layers": ("dpo:layers=2", "dpo:layers=8"),
}
PRESETS = {
    "dpo_1b": "dpo:vocab=128256:hidden=2048:layers=16:heads=32:intermediate=8192:examples=4:prompt=512:response=1536"
    ":layout=separate:dtype=bfloat16:remat=full"
}
DATA = {"hh": "hh_rlhf_harmless_test/test.jsonl.gz", "votes": "ukpconvarg1/strict.tsv.gz"}
SCORED = ("sft", "dpo", "list", "kto")  # tasks whose tokens are scored by the output head
PEERS = pathlib.Path(__file__).parent.parent / "benchmarks"
PEER_SCRIPTS = {"pytorch_dpo.py": ("dpo",), "trl_trainers.py": ("dpo", "reward", "kto"), "tunix_dpo.py": ("dpo",)}
# Pages of 2 MB, for every process: with 4 kB ones a step spends up to a second taking fresh memory from the system
PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of model and batch.

    Attributes:
      examples, prompt, response, responses: of a batch; the tokens of each prompt and response, and how many responses.
      layout: "shared" (a row an example), "separate" (a row a response), or "packed" (rows of 1,024 tokens, with
        responses of half to all of `response` tokens).
      rows: how many of 1,024 tokens, where they are packed.
      stored: whether the batch holds the reference's log-probs.
      lora: the rank of adapters on all matrices of the layers, the only thing trained then; 0 for none.
      data: "" for random tokens, or a real set, packed, in GPT-2's vocabulary (the folder is PREFJAX_DATA).
      scan: whether the layers are one compiled loop.
    """

    vocab: int = 8192
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    intermediate: int = 1024
    examples: int = 8
    prompt: int = 64
    response: int = 192
    responses: int = 2
    layout: str = "shared"
    rows: int = 4
    stored: int = 0
    lora: int = 0
    data: str = ""
    dtype: str = "float32"
    remat: str = "none"
    scan: int = 1


def parse(case: str) -> tuple[str, Shape]:
    """("task", Shape) of `task:option=value:...`, or of a preset and what is to differ from it.

    Raises:
      ValueError: an unknown task, option or value, with a did-you-mean.
    """
    first, *more = case.split(":")
    task, *options = [*PRESETS.get(first, first).split(":"), *more]
    if task not in TASKS:
        raise ValueError(f"case {case!r}: task {task!r} is unknown; {did_you_mean(task, [*TASKS, *PRESETS])}")
    fields = {field.name: field for field in dataclasses.fields(Shape)}
    values: dict[str, Any] = {"responses": 1} if task == "sft" else {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in fields:
            raise ValueError(f"case {case!r}: option {name!r} is unknown; {did_you_mean(name, fields)}")
        kind = type(fields[name].default)
        if kind is int and not value.isdigit():
            raise ValueError(f"case {case!r}: {name}={value!r}: expected a whole number")
        values[name] = kind(value)
    for name, known in {"layout": ("shared", "separate", "packed"), "data": ("", *DATA)}.items():
        if values.get(name, known[0]) not in known:
            raise ValueError(f"case {case!r}: {name}={values[name]!r} is unknown; {did_you_mean(values[name], known)}")
    return task, Shape(**values)


# What runs in the process of a case. jax is imported there alone.


def examples_of(shape: Shape, count: int) -> list[dict[str, Any]]:
    """Random tokenised examples; `packed` ones differ in length."""
    import numpy as np

    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        least = shape.response // 2 if shape.layout == "packed" else shape.response
        sizes = rng.integers(least, shape.response + 1, shape.responses)
        prompt, *responses = (rng.integers(1, shape.vocab, n, dtype=np.int32) for n in (shape.prompt, *sizes))
        fields = {"list_labels": [float(j) for j in range(shape.responses)], "desirable": bool(i % 2)}
        out.append({"id": i, "prompt": prompt, "responses": responses, "fields": fields})
    return out


def real_corpus(name: str, limit: int) -> Any:
    """The training part of a real set of pairs, tokenised with GPT-2's vocabulary."""
    from prefjax.data import pipeline

    folder = os.environ.get("PREFJAX_DATA")
    if not folder:
        raise ValueError(f"data={name}: set PREFJAX_DATA to the folder that holds {DATA[name]}")
    tokenizer = str(pathlib.Path(folder) / "tokenizer_gpt2")
    data = pipeline.dataset(
        path=str(pathlib.Path(folder) / DATA[name]), tokenizer=tokenizer, limit=limit, row_length=1024, on_error="skip"
    )
    return data.training


def batches_of(shape: Shape) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """A few batches of one static shape, and [prompt, response, ...] tokens of each example in order."""
    import numpy as np

    from prefjax.data import packing

    packed = shape.layout == "packed" or bool(shape.data)
    if shape.data:
        data = real_corpus(shape.data, 2000)
    else:
        data = packing.corpus(examples_of(shape, shape.examples * (4 if packed else 1)))
    kind = "separate" if shape.layout == "separate" else "shared"
    copies = shape.responses if kind == "separate" else 1
    length = 1024 if packed else int(data.sizes(kind).max())
    rows = shape.rows if packed else shape.examples * copies
    plan = packing.Layout(kind, rows, length, slots=8 if packed else 1, responses=shape.responses)
    batches = [packing.assemble(data, rows, plan) for rows in packing.plan_all(data.sizes(kind), plan)]
    batches = batches[:-1] or batches  # the last is seldom full
    if shape.stored:
        batches = [{**b, "ref_logps": np.zeros(b["response_mask"].shape, np.float32)} for b in batches[:8]]
    return batches[:8], np.diff(data.bounds, axis=1).tolist()


def useful_tokens(batch: dict[str, Any]) -> int:
    """Tokens of all responses, each with its prompt."""
    from prefjax.data import packing

    return sum(len(e["prompt"]) + len(r) for e in packing.unpack(batch) for r in e["responses"])


def useful_flops(shape: Shape, batch: dict[str, Any], passes: int, head: bool) -> float:
    """Operations in matrix products that a step cannot do without: visible keys and scored tokens alone.

    Args:
      passes: 3 for forward and backward, 1 more for a reference.
      head: whether tokens are scored by the output head.
    """
    size, inner = shape.hidden, shape.intermediate
    real = batch["segments"] > 0
    layer = 2.0 * (4 * size * size + 3 * size * inner) * real.sum()
    attention = 4.0 * size * (batch["positions"] + 1)[real].sum()  # a token sees its prompt and its own branch so far
    scored = (real & (batch["branches"] > 0)).sum()
    return float(passes * (shape.layers * (layer + attention) + head * 2.0 * size * shape.vocab * scored))


def model_of(shape: Shape, **options: Any) -> Any:
    from prefjax.models.decoder import decoder

    return decoder(
        vocab_size=shape.vocab if not shape.data else 50257,
        hidden_size=shape.hidden,
        num_layers=shape.layers,
        num_heads=shape.heads,
        intermediate_size=shape.intermediate,
        dtype=shape.dtype,
        param_dtype=shape.dtype,
        remat=shape.remat,
        scan_layers=bool(shape.scan),
        **options,
    )


def objective_of(task: str, model: Any) -> Any:
    import functools

    from prefjax.losses import language as likelihood
    from prefjax.losses import reward, reward_contrast
    from prefjax.losses.preference import listwise, paired, unpaired
    from prefjax.models.lora import LoraModel
    from prefjax.objective import compose
    from prefjax.views import adapted, language, learned

    view, loss, options = {
        "sft": (language.responses, likelihood.sft, {"count": "lengths"}),
        "dpo": (language.pairs, paired.dpo, {}),
        "list": (language.lists, listwise.plackett_luce_dpo, {}),
        "kto": (language.responses, unpaired.kto, {}),
        "reward": (language.scored_pairs, reward.bradley_terry, {}),
        "contrastive": (learned.contrasted, reward_contrast.simcse_reward, {}),
    }[task]
    if isinstance(model, LoraModel):
        view = functools.partial(adapted.adapted, inner=view)
    return compose(functools.partial(view, model=model), loss, **options)


def with_adapters(model: Any, rank: int) -> tuple[Any, Any, dict[str, Any]]:
    """(model, what is trained, what is carried) of a decoder with adapters."""
    import jax

    from prefjax.models import lora

    adapted = lora.adapted(vocab_size=model.config.vocab_size, base=lambda: model, rank=rank, targets=lora.TARGETS)
    return adapted, *adapted.split(model.init(jax.random.key(0)), jax.random.key(2))


def training(task: str, shape: Shape) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """What is known before the first step, and endless steps."""
    import itertools

    import jax
    import optax

    from prefjax import train

    batches, _ = batches_of(shape)
    model = model_of(shape, **({} if task in SCORED else {"outputs": 1, "lm_head": False}))
    with_reference = task in ("dpo", "list", "kto") and not shape.stored
    tx = optax.adamw(1e-4)
    if shape.lora:
        model, params, carry = with_adapters(model, shape.lora)
    else:
        params = model.init(jax.random.key(0))
        carry = {"reference": jax.tree.map(lambda x: x.copy(), params)} if with_reference else {}
    state = train.init_state(params, tx, carry)
    del params, carry
    update = train.make_step(objective_of(task, model), tx)
    step = jax.jit(update, donate_argnums=0, compiler_options=train.compiler_options())
    key = jax.random.key(1)
    facts = {"compile": train.compile_ahead(step, state, batches[0], key).seconds}
    whole = dataclasses.replace(shape, vocab=model.config.vocab_size)
    passes = 3 + with_reference - bool(shape.lora)  # frozen matrices need no gradient
    known = [(useful_tokens(b), useful_flops(whole, b, passes, task in SCORED), jax.device_put(b)) for b in batches]

    def steps(state: Any) -> Iterator[dict[str, Any]]:
        for tokens, flops, batch in itertools.cycle(known):
            start = time.perf_counter()
            state, metrics = step(state, batch, key)
            jax.block_until_ready((state, metrics))
            yield {"seconds": time.perf_counter() - start, "tokens": tokens, "flops": flops}

    return facts, steps(state)


def generation(task: str, shape: Shape) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """As `training`; a step draws one response to each prompt, with a cache."""
    import jax

    from prefjax.generate import language

    model = model_of(shape)
    params = model.init(jax.random.key(0))
    prompts = [e["prompt"] for e in examples_of(shape, shape.examples)]

    def draw(seed: int) -> Any:
        options = {"max_new_tokens": shape.response, "eos_id": None, "batch_size": shape.examples}
        return language.sample(model, params, prompts, key=jax.random.key(seed), **options)

    start = time.perf_counter()
    draw(0)
    layer = 4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate
    a_token = 2.0 * (shape.layers * layer + shape.hidden * shape.vocab)
    tokens = shape.examples * shape.response

    def steps() -> Iterator[dict[str, Any]]:
        seed = 1
        while True:
            start, seed = time.perf_counter(), seed + 1
            draw(seed)
            yield {"seconds": time.perf_counter() - start, "tokens": tokens, "flops": tokens * a_token}

    return {"compile": time.perf_counter() - start}, steps()


def part(task: str, shape: Shape) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """As `training` for one part of it, forward and backward: attention or MLP of a layer, head, optimizer."""
    import functools

    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from prefjax import train
    from prefjax.models import attention, layers
    from prefjax.ops import logprobs
    from prefjax.views import layout

    batch = batches_of(shape)[0][0]
    model, (rows, length) = model_of(shape), batch["tokens"].shape
    draw = functools.partial(jax.random.normal, jax.random.key(0), dtype=shape.dtype)
    states = draw((rows, length, shape.hidden))
    if task == "attention":
        mask = attention.layout_mask(batch["segments"], batch["branches"], length)
        heads = draw((rows, shape.heads, length, shape.hidden // shape.heads))
        args = (heads, heads, heads)
        flops = 12.0 * shape.hidden * float((batch["positions"] + 1)[batch["segments"] > 0].sum())

        def mixed(q: Any, k: Any, v: Any) -> Any:
            out = attention.attend(q, k, v, mask, scale=model.config.attention_scale, causal=True)
            return jnp.square(out).sum()

        fn = jax.grad(mixed, (0, 1, 2))
    elif task == "mlp":
        graph, weights = nnx.split(layers.Mlp(model.config, layers.noise_of(jax.random.key(0))))
        args, flops = (weights, states), 18.0 * rows * length * shape.hidden * shape.intermediate
        fn = jax.grad(lambda w, x: jnp.square(nnx.merge(graph, w)(x)).sum(), (0, 1))
    elif task == "head":
        args, scored = (draw((shape.hidden, shape.vocab)), states), layout.scored(batch)
        flops = useful_flops(dataclasses.replace(shape, layers=0), batch, 3, head=True)
        fn = jax.grad(lambda k, x: logprobs.row_logps(x, k, batch["tokens"], scored).sum(), (0, 1))
    else:
        tx, params = optax.adamw(1e-4), model.init(jax.random.key(0))
        args, flops = (params, tx.init(params), params), 0.0

        def fn(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

    start = time.perf_counter()
    compiled = jax.jit(fn, compiler_options=train.compiler_options()).lower(*args).compile()
    facts = {"compile": time.perf_counter() - start}

    def steps() -> Iterator[dict[str, Any]]:
        while True:
            start = time.perf_counter()
            jax.block_until_ready(compiled(*args))
            yield {"seconds": time.perf_counter() - start, "tokens": useful_tokens(batch), "flops": flops}

    return facts, steps()


TASKS: dict[str, Callable[[str, Shape], tuple[dict[str, Any], Iterator[dict[str, Any]]]]] = {
    **dict.fromkeys((*SCORED, "reward", "contrastive"), training),
    **dict.fromkeys(("attention", "mlp", "head", "optimizer"), part),
    "generate": generation,
}


def matmul_rate(dtype: str, size: int = 2048) -> float:
    """Operations a second of the best of a few square matrix products."""
    import jax
    import jax.numpy as jnp

    size = size if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    product(x, x).block_until_ready()
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def serve(case: str) -> None:
    """Prints what is known as one line of JSON, then one more a step; each line of standard input asks for a step."""
    import jax

    task, shape = parse(case)
    facts, steps = TASKS[task](task, shape)
    stats = jax.devices()[0].memory_stats
    print(json.dumps({**facts, "rate": matmul_rate(shape.dtype), "versions": f"jax {jax.__version__}"}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        line = next(steps)
        line["cpu"] = time.process_time() - start
        line["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if on_device := (stats() or {}).get("peak_bytes_in_use"):
            line["peak_mb"] = on_device / 2**20
        print(json.dumps(line), flush=True)


# What runs in the program: processes, medians, files.


class Runner:
    """A process that makes one step for each line it is given."""

    def __init__(self, command: Sequence[str]):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        own = {**os.environ, **PAGES, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(command, text=True, env=own, **pipes)  # type: ignore
        self.facts, self.lines = self._read(), []

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended with status {self.process.wait()}")  # type: ignore

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.lines.append(self._read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def row(self, warmup: int) -> dict[str, Any]:
        """Medians over the steps after the first `warmup`."""
        lines = self.lines[warmup:]
        rates = [line["tokens"] / line["seconds"] for line in lines]
        out = {
            "tokens_per_s": statistics.median(rates),
            "step_s": statistics.median(line["seconds"] for line in lines),
            "cpu_s": statistics.median(line["cpu"] for line in lines),
            "peak_mb": lines[-1]["peak_mb"],
        }
        if "flops" in lines[0]:
            flops = statistics.median(line["flops"] / line["seconds"] for line in lines)
            out |= {"gflops": flops / 1e9, "utilisation": flops / self.facts["rate"]}
        return out


def peer_command(python: str, script: str, shape: Shape, lengths: pathlib.Path) -> list[str]:
    """The peer's loop on the same shape; real data by the lengths of its pairs."""
    names = ("hidden", "layers", "heads", "intermediate", "prompt", "response")
    sizes = {name: getattr(shape, name) for name in names} | {"vocab": shape.vocab, "pairs": shape.examples}
    command = [python, str(PEERS / script), "--serve"]
    if shape.data or shape.layout == "packed":  # responses of many lengths, as many pairs a step as ours on average
        batches, _ = batches_of(shape)
        sizes["pairs"] = round(statistics.mean(int(batch["example_mask"].sum()) for batch in batches))
        sizes["vocab"] = 50257 if shape.data else shape.vocab
        lengths.write_text(json.dumps(real_lengths(shape)))
        command.append(f"--lengths={lengths}")
    if shape.dtype == "bfloat16":
        command += ["--bf16", "--device=cuda"]
    return command + [f"--{name}={value}" for name, value in sizes.items()]


def real_lengths(shape: Shape) -> list[list[int]]:
    """[[prompt, chosen, rejected], ...], in an order without pattern."""
    import random

    lengths = batches_of(shape)[1]
    random.Random(0).shuffle(lengths)
    return lengths


def measure(
    case: str,
    *,
    peer: str | None,
    steps: int,
    warmup: int,
    script: str = "pytorch_dpo.py",
    beside: str | None = None,
) -> dict[str, Any]:
    """The row of a case; with a peer, or another case `beside` it, also that row and the ratios of tokens a second and
    of memory."""
    task, shape = parse(case)
    own = [sys.executable, "-m", "experiments.bench"]
    with tempfile.TemporaryDirectory() as folder:
        runners = [Runner([*own, f"--serve={one}"]) for one in (case, beside) if one]
        if peer and task in PEER_SCRIPTS[script]:
            command = peer_command(peer, script, shape, pathlib.Path(folder) / "lengths.json")
            runners.append(Runner([*command, f"--task={task}"] if len(PEER_SCRIPTS[script]) > 1 else command))
        for _ in range(warmup + steps):
            for runner in runners:
                runner.step()
        for runner in runners:
            runner.close()
    ours = runners[0]
    row = {
        "case": case,
        **ours.row(warmup),
        "compile_s": ours.facts["compile"],
        "rate_gflops": ours.facts["rate"] / 1e9,
    }
    if len(runners) > 1:
        other = runners[1].row(warmup)
        row["peer"] = {**other, "versions": runners[1].facts.get("ready", beside)}
        row["speed_ratio"] = row["tokens_per_s"] / other["tokens_per_s"]
        row["memory_ratio"] = row["peak_mb"] / other["peak_mb"]
    return row


def grown(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """{size: [(how large, tokens a second), ...]} of the sizes of GROWTH that `rows` have measured more than once."""
    out = {}
    for name, cases in GROWTH.items():
        base = [] if parse(cases[0])[0] != "dpo" else ["dpo"]
        found = [row for row in rows if row["case"] in (*base, *cases)]
        if len(found) > 1:
            out[name] = sorted((getattr(parse(row["case"])[1], name), row["tokens_per_s"]) for row in found)
    return out


def define() -> None:
    flags.DEFINE_list("cases", [], f"Cases, task:option=value:...; tasks: {', '.join([*TASKS, *PRESETS])}.")
    flags.DEFINE_string("out", "runs/bench", "Folder of bench.json, bench.md and bench.png.")
    flags.DEFINE_string("peer", None, "A python with the peer's packages, whose loop runs beside each case it knows.")
    flags.DEFINE_enum("peer_script", "pytorch_dpo.py", list(PEER_SCRIPTS), "Its loop, of benchmarks/.")
    flags.DEFINE_string("beside", None, "Another case that runs beside each, in the place of a peer.")
    flags.DEFINE_integer("steps", 5, "Steps whose median is taken.", lower_bound=1)
    flags.DEFINE_integer("warmup", 2, "Steps before them.", lower_bound=0)
    flags.DEFINE_string("serve", None, "Run this case, one step for each line of standard input; used by itself.")


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    if flags.FLAGS.serve:
        serve(flags.FLAGS.serve)
        return
    cases = flags.FLAGS.cases or [*TABLE, *(case for cases in GROWTH.values() for case in cases)]
    for case in (*cases, *filter(None, [flags.FLAGS.beside])):
        parse(case)
    if flags.FLAGS.peer and flags.FLAGS.beside:
        raise ValueError("--peer and --beside: give one of them")
    out = pathlib.Path(flags.FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows.append(
            measure(
                case,
                peer=flags.FLAGS.peer,
                script=flags.FLAGS.peer_script,
                beside=flags.FLAGS.beside,
                steps=flags.FLAGS.steps,
                warmup=flags.FLAGS.warmup,
            )
        )
        print(bench_figure.markdown(rows[-1:]).splitlines()[-1], flush=True)
        about = {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "cores": os.cpu_count()}
        (out / "bench.json").write_text(json.dumps({**about, "rows": rows}, indent=1))
        (out / "bench.md").write_text(bench_figure.markdown(rows))
    bench_figure.plot(rows, grown(rows), out / "bench.png")
    print(f"\n{bench_figure.markdown(rows)}\n{out / 'bench.json'}, bench.md, bench.png")


if __name__ == "__main__":
    common.run(main, define)

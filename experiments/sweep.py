"""Objectives side by side: on the gold world with labels that flip, or on a file beside two text baselines.

  python -m experiments.sweep --workdir=runs/sweep
  python -m experiments.sweep --workdir=runs/hh --data=hh/test.jsonl.gz --configs=preference/dpo,reward/bradley_terry

Without --data, each objective is trained from one supervised policy on the same pairs, whose annotator flips a share
of the labels; held-out pairs are judged by the true reward. One figure (sweep.svg), one table (sweep.md). With --data,
each config is trained on the file as it stands. Finished runs are kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from experiments import common


def define() -> None:
    flags.DEFINE_string("workdir", "runs/sweep", "Folder of the runs, the table and the figure.")
    flags.DEFINE_string("data", None, "A file or folder of pairs; the gold world with flipped labels by default.")
    flags.DEFINE_list("configs", None, "With --data: configs to train, such as preference/dpo,reward/margin.")
    flags.DEFINE_list("noises", ["0", "0.2", "0.4"], "Shares of flipped labels.")
    flags.DEFINE_integer("steps", 0, "Updates of each run; 0 is 120 on the gold world, the config's own on files.")
    flags.DEFINE_integer("pairs", 600, "Training pairs of the gold world: few, so that flips can be memorised.")
    flags.DEFINE_bool("runlocal", False, "A tiny version in seconds, which shows nothing.")
    common.define_cache()


Outcome = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """An objective of the sweep: its name, its loss given the share of flips, whether its margin has a reference."""

    name: str
    loss: Callable[[float], Callable[..., Any]]
    reference: bool = True


def entries() -> list[Entry]:
    """The ten objectives; the two that are made for flips know their rate, as their papers assume."""
    from prefjax.losses.preference import (
        anchored,
        discovered,
        divergence,
        hinge,
        paired,
        reference_free,
        robust,
        transport,
    )

    def fixed(loss: Callable[..., Any], **options: Any) -> Callable[[float], Callable[..., Any]]:
        return lambda noise: functools.partial(loss, **options)

    return [
        Entry("dpo", fixed(paired.dpo, beta=0.1)),
        Entry("dpo, smoothed", lambda noise: functools.partial(paired.dpo, beta=0.1, label_smoothing=noise)),
        Entry("robust_dpo", lambda noise: functools.partial(robust.robust_dpo, beta=0.1, label_smoothing=noise)),
        Entry("ipo", fixed(paired.ipo, beta=0.1)),
        Entry("slic", fixed(hinge.slic, beta=0.1)),
        Entry("exo", fixed(divergence.exo, beta=0.1)),
        Entry("apo_zero", fixed(anchored.apo_zero, beta=0.1)),
        Entry("discopop", fixed(discovered.discopop, beta=0.1)),
        Entry("aot", fixed(transport.aot, beta=0.1)),
        Entry("simpo", fixed(reference_free.simpo, beta=2.0, gamma=0.5), reference=False),
    ]


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    refuse_unread()
    began = time.monotonic()
    folder = pathlib.Path(flags.FLAGS.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    if flags.FLAGS.data:
        outcomes = list(
            on_file(folder, flags.FLAGS.data, flags.FLAGS.configs or ["preference/dpo", "reward/bradley_terry"])
        )
        text = table_of_file(outcomes)
    else:
        outcomes = list(on_gold(folder, [float(noise) for noise in flags.FLAGS.noises]))
        text = table_of_gold(outcomes)
        draw(outcomes, folder / "sweep.svg")
    (folder / "sweep.md").write_text(text)
    print(text)
    print(f"done in {time.monotonic() - began:.0f} s; table and figure in {folder}", flush=True)


def kept(path: pathlib.Path, settings: Mapping[str, Any], make: Callable[[], Outcome]) -> Outcome:
    """What `make` gives, read from `path` where an earlier start with the same settings left it there.

    Raises:
      ValueError: it was left there by a start with other settings.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings, **make()}, indent=1))
    outcome = json.loads(path.read_text())
    found = outcome.pop("settings", None)
    if found != settings:
        raise ValueError(f"{path} was made with {found}, and this start has {settings}; give another --workdir")
    return outcome


def refuse_unread() -> None:
    """Flags that have no effect beside the others are an error."""
    unread = ("noises", "pairs") if flags.FLAGS.data else ("configs",)
    if given := [f"--{name}" for name in unread if flags.FLAGS[name].present]:
        why = "belong to the gold world, without --data" if flags.FLAGS.data else "needs --data"
        raise ValueError(f"{', '.join(given)} {why}")


# The gold world, with flips.
def on_gold(folder: pathlib.Path, noises: Sequence[float]) -> Iterator[Outcome]:
    """One outcome an objective and share of flips."""
    from configs.language import sft
    from prefjax import loop
    from prefjax.progress import Progress

    local = "runlocal" if flags.FLAGS.runlocal else "steps=250"
    start = loop.fit(sft.get_config(local), folder / "sft")
    steps = flags.FLAGS.steps or (3 if flags.FLAGS.runlocal else 120)
    runs = [(entry, noise) for entry in entries() for noise in noises]
    world = functools.lru_cache(functools.partial(gold_data, start))
    step_of = functools.lru_cache(functools.partial(make_step, start, steps=steps))
    measure_of = functools.lru_cache(functools.partial(make_measure, start))
    with Progress(len(runs)) as bar:
        for index, (entry, noise) in enumerate(runs, 1):
            path = folder / "runs" / f"{entry.name.replace(', ', '_')}_{noise:g}.json"
            # A loss that does not know the flips is compiled once for all of them.
            known = noise if "label_smoothing" in entry.loss(noise).keywords else 0.0
            outcome = kept(
                path,
                {"steps": steps, "pairs": flags.FLAGS.pairs, "runlocal": flags.FLAGS.runlocal},
                lambda e=entry, n=noise, k=known: train_gold(
                    start, e, n, world(n), step_of(e, k), measure_of(e.reference), steps
                ),
            )
            bar.update(index, loss=outcome["loss"], tokens=0)
            yield outcome


def gold_data(start: Any, noise: float) -> tuple[Any, Any]:
    """Training pairs with flips and true held-out pairs, both with the log-probs of the supervised policy stored."""
    from prefjax.data.gold import dataset

    size: dict[str, Any] = (
        {"size": 64, "eval_size": 32} if flags.FLAGS.runlocal else {"size": flags.FLAGS.pairs, "eval_size": 1000}
    )
    shape: dict[str, Any] = {"rows": 4, "row_length": 128, "slots": 9}
    noisy = dataset.dataset(**size, **shape, world={"noise": noise})
    # So cold an annotator always names the response of the larger true reward.
    true = dataset.dataset(**size, **shape, world={"temperature": 1e-4})
    return with_reference(start, noisy).training, with_reference(start, true)


def with_reference(start: Any, data: Any) -> Any:
    """The data set with `ref_logps` [n, 2] of the supervised policy in every example."""
    import jax
    import numpy as np

    from prefjax.views import language, layout

    @jax.jit
    def logps(params: Any, batch: Any) -> Any:
        return layout.response_sums(language.row_logps(start.model, params, batch), batch)

    def stored(corpus: Any, batches: Any) -> Any:
        values, row_of = np.zeros((len(corpus), 2), np.float32), {int(i): row for row, i in enumerate(corpus.ids)}
        for batch in batches:
            found = np.asarray(logps(start.state.params, batch))
            ids, mask = batch["example_ids"].ravel(), batch["example_mask"].ravel()
            values[[row_of[int(i)] for i in ids[mask]]] = found[mask]
        return dataclasses.replace(corpus, fields={**corpus.fields, "ref_logps": values})

    return dataclasses.replace(
        data, training=stored(data.training, data.train_in_order()), held_out=stored(data.held_out, data.eval())
    )


def make_step(start: Any, entry: Entry, noise: float, *, steps: int) -> tuple[Any, Any]:
    """(optimizer, compiled step) of an objective."""
    import jax

    from prefjax import train
    from prefjax.objective import compose
    from prefjax.optim import recipes
    from prefjax.views import language

    tx = recipes.adamw(learning_rate=1e-3, total_steps=steps)
    view = functools.partial(language.pairs, model=start.model)
    return tx, jax.jit(train.make_step(compose(view, entry.loss(noise)), tx))


def make_measure(start: Any, reference: bool) -> Any:
    """(params, batch) -> margins and changes of log-probs of its pairs, compiled."""
    import jax

    from prefjax import evaluation
    from prefjax.metrics import preference
    from prefjax.views import language

    margin = preference.reward_margins if reference else preference.average_margins

    @jax.jit
    def measure(params: Any, batch: Any) -> dict[str, Any]:
        named = language.pairs(params, {}, batch, jax.random.key(0), model=start.model)
        return evaluation.pair_arrays(named, margin)

    return measure


def train_gold(
    start: Any, entry: Entry, noise: float, data: tuple[Any, Any], made: tuple[Any, Any], measure: Any, steps: int
) -> Outcome:
    """Trains from the supervised policy and counts the true pairs that the policy's own margin gets right."""
    import jax
    import numpy as np

    from prefjax import train
    from prefjax.data import iterate
    from prefjax.metrics import statistics

    (training, true), (tx, step) = data, made
    state = train.init_state(start.state.params, tx)
    batches = iterate.TrainIterator(training, true.layout, seed=0, shard_index=0, shard_count=1, prefetch=0)
    metrics: Mapping[str, Any] = {}
    for index in range(steps):
        state, metrics = step(state, next(batches), jax.random.key(index))
    parts = [
        {name: np.asarray(x)[batch["example_mask"].ravel()] for name, x in measure(state.params, batch).items()}
        for batch in true.eval()
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {
        "objective": entry.name,
        "noise": noise,
        "steps": steps,
        "loss": float(metrics["loss"]),
        "accuracy": list(statistics.pair_accuracy(found["margins"])[:3]),
        "count": len(found["margins"]),
        "right": [int(m > 0) for m in found["margins"]],
        "chosen_change": float(found["chosen_change"].mean()),
        "rejected_change": float(found["rejected_change"].mean()),
    }


def table_of_gold(outcomes: Sequence[Outcome]) -> str:
    """Accuracy of each objective at each share of flips, and its difference from DPO on the same pairs."""
    import numpy as np

    from prefjax.metrics import statistics

    noises = sorted({o["noise"] for o in outcomes})
    found = {(o["objective"], o["noise"]): o for o in outcomes}
    heads = [f"{noise:.0%} flipped" for noise in noises]
    lines = [
        "| objective | " + " | ".join(heads) + f" | against DPO at {noises[-1]:.0%} |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for name in dict.fromkeys(o["objective"] for o in outcomes):
        cells = []
        for noise in noises:
            value, low, high = (100 * x for x in found[name, noise]["accuracy"])
            cells.append(f"{value:.1f} % ({low:.1f} to {high:.1f})")
        pair = [np.asarray(found[key, noises[-1]]["right"], float) for key in (name, "dpo")]
        gain = statistics.paired_bootstrap(*pair)
        versus = "" if name == "dpo" else f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        lines.append(f"| {name} | {' | '.join(cells)} | {versus} |")
    return "\n".join(lines) + "\n"


def draw(outcomes: Sequence[Outcome], path: pathlib.Path) -> None:
    """Held-out accuracy against the share of flips, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "sweep", "svg.fonttype": "none", "font.size": 9})
    figure, axis = plt.subplots(figsize=(6.4, 4.0))
    names = list(dict.fromkeys(o["objective"] for o in outcomes))
    for place, name in enumerate(names):
        rows = sorted((o for o in outcomes if o["objective"] == name), key=lambda o: o["noise"])
        values = [100 * o["accuracy"][0] for o in rows]
        below = [100 * (o["accuracy"][0] - o["accuracy"][1]) for o in rows]
        above = [100 * (o["accuracy"][2] - o["accuracy"][0]) for o in rows]
        at = [100 * o["noise"] + 0.5 * (place - len(names) / 2) for o in rows]
        style = "-" if name in ("dpo", "dpo, smoothed", "robust_dpo") else ":"
        axis.errorbar(at, values, [below, above], label=name, linestyle=style, marker="o", markersize=3, capsize=2)
    axis.axhline(50, color="grey", linewidth=0.5)
    axis.set(xlabel="labels flipped, %", ylabel="held-out pairs ranked as the true reward does, %")
    axis.legend(ncols=2, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


# Files.
def on_file(folder: pathlib.Path, path: str, names: Sequence[str]) -> Iterator[Outcome]:
    """One outcome a config, all from one supervised policy on the same file, and the file's text baselines."""
    from configs.language import sft
    from prefjax import loop
    from prefjax.report import run as reports

    common_args = ["runlocal"] if flags.FLAGS.runlocal else []
    common_args += [f"data={path}", "on_error=skip"] + ([f"steps={flags.FLAGS.steps}"] if flags.FLAGS.steps else [])
    start = loop.fit(sft.get_config(",".join(common_args)), folder / "sft")

    for name in names:

        def make(name: str = name) -> Outcome:
            module = importlib.import_module(f"configs.{name.replace('/', '.')}")
            config = module.get_config(",".join([*common_args, f"init={start.workdir}"]))
            run = loop.fit(config, folder / name)
            made = reports.stage(run)
            if made.accuracy is None:
                raise ValueError(f"{name} has no accuracy on pairs; its data are {run.dataset.kind}")
            beside = {key: list(value[:3]) for key, value in made.baselines.items()}
            return {"config": name, "steps": config.steps, "accuracy": list(made.accuracy[:3]), "baselines": beside,
                    "count": len(run.dataset.held_out)}  # fmt: skip

        settings = {"arguments": common_args}
        yield kept(folder / "runs" / f"{name.replace('/', '_')}.json", settings, make)


def table_of_file(outcomes: Sequence[Outcome]) -> str:
    """Held-out pair accuracy of each config beside the two baselines that see no word order."""
    beside = list(outcomes[0]["baselines"])
    lines = [f"| config | steps | held-out accuracy | {' | '.join(beside)} | n |", "|---" * (4 + len(beside)) + "|"]
    for outcome in outcomes:
        cells = [outcome["accuracy"], *(outcome["baselines"][name] for name in beside)]
        shown = " | ".join(f"{100 * v:.1f} % ({100 * low:.1f} to {100 * high:.1f})" for v, low, high in cells)
        lines.append(f"| {outcome['config']} | {outcome['steps']} | {shown} | {outcome['count']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    common.run(main, define)

"""Reward against KL for many online algorithms in one figure, with best-of-n as the reference curve.

  python -m experiments.frontier --workdir=runs/frontier
  python -m experiments.frontier --workdir=runs/frontier --figure=proxy

The folder first gets a weak supervised policy and a reward model. `--figure=gold` learns from the true reward of the
gold world; `--figure=proxy` from the reward model, whose score goes on rising while the true reward falls, and shows
what bends that. Each algorithm and seed is a run of its own in the folder, named by them: run the command again and it
goes on where it was. All curves, and best-of-n, are of the same held-out prompts.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import common
from prefjax.config import did_you_mean

if TYPE_CHECKING:
    from prefjax.online.frontier import Curve


def define() -> None:
    flags.DEFINE_string("workdir", "runs/frontier", "Folder of the runs and figures.")
    flags.DEFINE_enum("figure", "gold", ["gold", "proxy"], "Which reward is learned from.")
    flags.DEFINE_list("algorithms", None, "Curves to draw; all of the figure by default.")
    flags.DEFINE_integer("rounds", 30, "Rounds of each algorithm.")
    flags.DEFINE_integer("seeds", 1, "Runs of each algorithm; the curve is their mean.", lower_bound=1)
    flags.DEFINE_bool("runlocal", False, "Tiny models and two rounds, in seconds.")
    common.define_cache()


# Name in the figure -> arguments of configs/online/algorithms.py.
GOLD = {
    name: f"algorithm={name},reward=gold"
    for name in "ppo rloo reinforce_plus_plus remax grpo dapo gspo nash_md raft online_dpo online_ipo sppo".split()
}
# The first one says how far the reward model can be trusted: its score where the true reward is highest.
FREE = "GRPO"
PROXY = {
    FREE: "algorithm=grpo,kl=0,reward={proxy}",
    "GRPO + KL 0.2": "algorithm=grpo,kl=0.2,reward={proxy}",
    "GRPO + log-sigmoid centring": "algorithm=grpo,kl=0,reward=centred:{proxy}",
    "constrained (Lagrange)": "algorithm=constrained,kl={trusted:.4f},reward={proxy}",
    "online DPO": "algorithm=online_dpo,reward={proxy}",
    "online DPO + SFT (RPO)": "algorithm=rpo,reward={proxy}",
}


def chosen(figure: str, names: Sequence[str] | None) -> dict[str, str]:
    """{curve: its arguments} of a figure, all or those named.

    Raises:
      ValueError: an unknown curve, or one that needs another which does not come before it.
    """
    known = GOLD if figure == "gold" else PROXY
    for name in names or ():
        if name not in known:
            raise ValueError(f"algorithms: {name!r} is no curve of the figure; {did_you_mean(name, known)}")
    found = {name: known[name] for name in names or known}
    for place, (name, arguments) in enumerate(found.items()):
        if "{trusted" in arguments and FREE not in list(found)[:place]:
            raise ValueError(
                f"algorithms: {name!r} needs {FREE!r} before it, which says how far the reward model can be trusted"
            )
    return found


def folder_of(name: str) -> str:
    """A curve's folder: "GRPO + KL 0.2" is grpo_kl_0.2."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    from configs.online import algorithms, reward, sft
    from experiments import frontier_figure
    from prefjax import loop
    from prefjax.config import Config, build
    from prefjax.online import frontier, scorers

    began = time.monotonic()
    folder, figure = pathlib.Path(flags.FLAGS.workdir), flags.FLAGS.figure
    wanted = chosen(figure, flags.FLAGS.algorithms)
    local = "runlocal" if flags.FLAGS.runlocal else f"rounds={flags.FLAGS.rounds}"
    first = "runlocal" if flags.FLAGS.runlocal else ""
    weak, proxy = folder / "weak", folder / "reward"
    start = loop.fit(sft.get_config(first), weak)
    loop.fit(reward.get_config(",".join(filter(None, [first, f"init={weak}"]))), proxy)

    def configured(arguments: str) -> Config:
        config: Config = algorithms.get_config(f"{local},init={weak},{arguments}")
        if not flags.FLAGS.runlocal:
            config.data.prompts.eval_size = 128  # each point of a curve is a held-out round
            config.eval_every = config.checkpoint_every = max(1, config.steps // 6)
        return config

    named = {"gold": scorers.gold, "proxy": functools.partial(scorers.reward_model, workdir=str(proxy))}
    first_config = configured(next(iter(wanted.values())).format(proxy=proxy, trusted=0.0))
    count, length = 8 if flags.FLAGS.runlocal else 64, first_config.data.sample.max_new_tokens
    prompts = build(first_config.data.prompts)()
    tables = frontier.sampled(start, prompts, named, num_samples=count, max_new_tokens=length)
    ns = [2**i for i in range(count.bit_length()) if 2**i <= count]
    start_point = {name: float(table.mean()) for name, table in tables.items()}
    best = frontier.best_of_n(tables[figure], tables, ns)

    if figure == "gold":
        start_point.pop("proxy")
    seeds: dict[str, list[frontier.Curve]] = {}
    curves: dict[str, frontier.Curve] = {}
    trusted = 0.0
    for name, arguments in wanted.items():
        config = configured(arguments.format(proxy=proxy, trusted=trusted))
        seeds[name] = []
        for seed in range(flags.FLAGS.seeds):
            config.seed = seed
            workdir = folder / figure / folder_of(name) / f"seed{seed}"
            loop.fit(config, workdir)
            seeds[name].append(frontier.of_run(workdir, start_point))
        curves[name] = frontier.mean(seeds[name])
        if name == FREE:
            rewards = curves[name].rewards
            trusted = float(rewards["proxy"][rewards["gold"].argmax()])
        print(frontier_figure.line(name, curves[name], seeds[name]), flush=True)
    frontier_figure.draw(folder / f"{figure}.png", curves, best, figure, seeds)
    data = {name: plain(curve) for name, curve in {"best of n": best, **curves}.items()}
    for name, runs in seeds.items():
        data[name]["seeds"] = [plain(curve) for curve in runs]
    (folder / f"{figure}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"figure: {folder / figure}.png, done in {time.monotonic() - began:.0f} s", flush=True)


def plain(curve: Curve) -> dict[str, Any]:
    """A curve as lists for JSON."""
    return {"kl": curve.kl.tolist(), **{name: values.tolist() for name, values in curve.rewards.items()}}


if __name__ == "__main__":
    common.run(main, define)

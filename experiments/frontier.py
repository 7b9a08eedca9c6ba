"""Reward against KL for many online algorithms in one figure, with best-of-n as the reference curve.

  python -m experiments.frontier --workdir=runs/frontier
  python -m experiments.frontier --workdir=runs/frontier --figure=proxy

The folder first gets a weak supervised policy and a reward model. `--figure=gold` learns from the true reward of the
gold world; `--figure=proxy` from the reward model, whose score goes on rising while the true reward falls, and shows
what bends that. Each algorithm is a run of its own in the folder: run the command again and it goes on where it was.
"""

from __future__ import annotations

import functools
import json
import pathlib
import time

from absl import flags

from experiments import common


def define() -> None:
    flags.DEFINE_string("workdir", "runs/frontier", "Folder of the runs and figures.")
    flags.DEFINE_enum("figure", "gold", ["gold", "proxy"], "Which reward is learned from.")
    flags.DEFINE_list("algorithms", None, "Curves to draw; all of the figure by default.")
    flags.DEFINE_integer("rounds", 30, "Rounds of each algorithm.")
    flags.DEFINE_bool("runlocal", False, "Tiny models and two rounds, in seconds.")


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


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    from configs.online import algorithms, reward, sft
    from experiments import frontier_figure
    from prefjax import loop
    from prefjax.config import Config, did_you_mean
    from prefjax.online import frontier, scorers

    began = time.monotonic()
    folder, figure = pathlib.Path(flags.FLAGS.workdir), flags.FLAGS.figure
    local = "runlocal" if flags.FLAGS.runlocal else f"rounds={flags.FLAGS.rounds}"
    first = "runlocal" if flags.FLAGS.runlocal else ""
    weak, proxy = folder / "weak", folder / "proxy"
    start = loop.fit(sft.get_config(first), weak)
    loop.fit(reward.get_config(",".join(filter(None, [first, f"init={weak}"]))), proxy)

    named = {"gold": scorers.gold, "proxy": functools.partial(scorers.reward_model, workdir=str(proxy))}
    count = 8 if flags.FLAGS.runlocal else 64
    tables = frontier.sampled(start, named, num_samples=count, max_new_tokens=8 if flags.FLAGS.runlocal else 16)
    ns = [2**i for i in range(count.bit_length()) if 2**i <= count]
    start_point = {name: float(table.mean()) for name, table in tables.items()}
    best = frontier.best_of_n(tables[figure], tables, ns)

    chosen = GOLD if figure == "gold" else PROXY
    for name in flags.FLAGS.algorithms or ():
        if name not in chosen:
            raise ValueError(f"algorithms: {name!r} is no curve of the figure; {did_you_mean(name, chosen)}")
    if figure == "gold":
        start_point.pop("proxy")
    curves, trusted = {}, 0.0
    for number, name in enumerate(flags.FLAGS.algorithms or chosen):
        arguments = chosen[name].format(proxy=proxy, trusted=trusted)
        config: Config = algorithms.get_config(f"{local},init={weak},{arguments}")
        if not flags.FLAGS.runlocal:
            config.data.prompts.eval_size = 128  # each point of a curve is a held-out round
            config.eval_every = config.checkpoint_every = max(1, config.steps // 6)
        workdir = folder / figure / (name if figure == "gold" else f"curve{number}")
        loop.fit(config, workdir)
        curves[name] = frontier.of_run(workdir, start_point)
        if name == FREE:
            rewards = curves[name].rewards
            trusted = float(rewards["proxy"][rewards["gold"].argmax()])
        print(frontier_figure.line(name, curves[name]), flush=True)
    frontier_figure.draw(folder / f"{figure}.png", curves, best, figure)
    data = {
        name: {"kl": c.kl.tolist(), **{k: v.tolist() for k, v in c.rewards.items()}}
        for name, c in {"best of n": best, **curves}.items()
    }
    (folder / f"{figure}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"figure: {folder / figure}.png, done in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    common.run(main, define)

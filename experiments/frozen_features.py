"""Trains a head on frozen features once for each fold of the data, and compares it with text baselines on all pairs.

  python -m experiments.frozen_features --workdir=runs/votes --folds=4 \\
      --config=configs/reward/features_domain.py:data=pairs_votes.jsonl.gz,on_error=skip,cache=runs/features,lengths

Whole groups (a topic, a prompt) are held out together, and each pair is held out once. Intervals are 95 %, over pairs;
the range over folds says how much groups differ.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from experiments import common


def define() -> None:
    config_flags.DEFINE_config_file("config", None, "A config of configs/reward/features_*.py.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Folder of the folds' runs and of folds.json.", required=True)
    flags.DEFINE_integer("folds", 4, "Parts of the data; each is held out once.", lower_bound=2)
    flags.DEFINE_bool("baselines", True, "Fit length-only and bag-of-words on the same folds.")
    flags.mark_flag_as_required("config")
    common.define_cache()


def main(argv: list[str]) -> None:
    common.no_arguments(argv)
    import numpy as np

    from prefjax import evaluation, loop
    from prefjax.metrics import statistics
    from prefjax.report import run as reports

    config, workdir = flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir)
    if "folds" not in config.data:
        raise ValueError("this config's data has no folds; give files, data=...")
    found: dict[str, list[np.ndarray]] = {}
    decided: list[np.ndarray] = []
    for fold in range(flags.FLAGS.folds):
        with config.unlocked():
            config.data.folds, config.data.fold = flags.FLAGS.folds, fold
        with contextlib.redirect_stdout(sys.stderr):
            run = loop.fit(config, workdir / f"fold_{fold}")
            view, margin = reports.pair_term(run)
            margins = {config.name: evaluation.run_pairs(run, view, margin=margin).margins}
            if flags.FLAGS.baselines:
                margins |= {made.name: made.margins for made in reports.fit_baselines(run.dataset)}
        arrays, held = run.dataset.arrays, run.dataset.held_out
        decided.append(arrays["margins"][held] > 0 if "margins" in arrays else np.ones(len(held), bool))
        for name, values in margins.items():
            found.setdefault(name, []).append(values)
    where = np.concatenate(decided)
    rows = []
    for name, parts in found.items():
        margins = np.concatenate(parts)
        whole, clear = statistics.pair_accuracy(margins), statistics.pair_accuracy(margins[where])
        folds = [statistics.pair_accuracy(part).value for part in parts]
        rows.append({"name": name, "accuracy": list(whole[:3]), "decided": list(clear[:3]), "folds": folds})
        print(
            f"{name:24} all {100 * whole.value:.1f} % ({100 * whole.low:.1f} to {100 * whole.high:.1f}, "
            f"n={len(margins)})  decided {100 * clear.value:.1f} % ({100 * clear.low:.1f} to {100 * clear.high:.1f}, "
            f"n={where.sum()})  folds {100 * min(folds):.1f} to {100 * max(folds):.1f}",
            flush=True,
        )
    (workdir / "folds.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    common.run(main, define)

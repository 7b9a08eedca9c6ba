"""From finished runs to a report: stages, headline numbers and the facts of a run."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prefjax import evaluation, rundir
from prefjax.config import build
from prefjax.evaluation import Comparison
from prefjax.metrics import statistics, text_baselines
from prefjax.metrics.statistics import Estimate
from prefjax.report.data import Headline, Policy, ReportData, Responses, SamplePair, Stage, read_metrics
from prefjax.writers import JSONL


def stage(run: Any, *, name: str | None = None, note: str = "", baselines: bool = True) -> Stage:
    """A run as a stage of a report: its curves and, for pairs, what it does on the held-out ones.

    All processes of a run call it together and share its pairs; text baselines are fitted by the first alone.

    Args:
      run: a `prefjax.loop.Run`.
      name: the stage's title; the config's name by default.
      baselines: whether to fit the length-only and bag-of-words baselines on the same split.
    """
    path = pathlib.Path(run.workdir) / JSONL
    made = Stage(name or run.config.name, note, read_metrics(path) if path.exists() else ())
    if run.dataset.kind != "pairs" or not len(run.dataset.held_out):
        return made
    view, margin = pair_term(run)
    scores = evaluation.run_pairs(run, view, margin=margin)
    made.accuracy, made.margins = scores.accuracy, scores.margins
    made.chosen_change, made.rejected_change = scores.chosen_change, scores.rejected_change
    if baselines and jax.process_index() == 0:
        made.baselines = {found.name: found.accuracy for found in fit_baselines(run.dataset)}
    return made


def pair_term(run: Any) -> tuple[Any, Any]:
    """The view of the term whose pairs are judged, with the model bound, and its metric `rewards/margins`.

    That is the term which reports the metric; with none, so that it is None, the one named as the run, or the first.
    """
    terms = dict(run.config.objective.items())  # by name: a config does not keep the order it was written in
    margins = {name: _metrics(term).get("rewards/margins") for name, term in terms.items()}
    name = next((n for n in terms if margins[n] is not None), run.config.name)
    name = name if name in terms else next(iter(terms))
    return functools.partial(build(terms[name]["view"]), model=run.model), margins[name]


def _metrics(term: Any) -> Any:
    return {} if term["metrics"] is None else build(term["metrics"])()


def fit_baselines(dataset: Any) -> list[text_baselines.Baseline]:
    """Length-only and bag-of-words on a data set's own split of text pairs."""
    train, test = (
        [r for r, held in zip(dataset.records, dataset.held_out_records, strict=True) if held == side]
        for side in (False, True)
    )
    return [text_baselines.length_only(train, test), text_baselines.bag_of_words(train, test)]


def report(
    runs: Mapping[str, Any],
    *,
    comparison: Comparison | None = None,
    title: str = "Training report",
    summary: str = "",
    notes: Mapping[str, str] | None = None,
    baselines: bool = True,
    samples: int = 12,
    show_samples: bool = True,
    target: float | None = None,
) -> ReportData:
    """A report of one stage or several; config, seed, commit and throughput are those of the last.

    Args:
      runs: {stage's title: run}, in order.
      comparison: samples of the last run against its reference; see `prefjax.evaluation.gold`.
      notes: {stage's title: a sentence about it}.
      baselines: whether to fit text baselines beside pair accuracies.
      samples: responses shown side by side; a spread over the prompts, not a choice of the best.
      show_samples: False for data whose texts should not be shown.
      target: the win rate that had to be reached, marked in the table.
    """
    stages = [
        stage(run, name=name, note=(notes or {}).get(name, ""), baselines=baselines) for name, run in runs.items()
    ]
    made = ReportData(title=title, summary=summary, stages=stages, show_samples=show_samples)
    made.headline = headline(stages, comparison, target=target)
    for name, value in facts(list(runs.values())[-1]).items():
        setattr(made, name, value)
    if comparison is not None:
        made.policies = policies(comparison, after=list(runs)[-1])
        made.responses = Responses(comparison.log_ratio.reshape(-1), comparison.log_ratio_reward.reshape(-1))
        made.samples = sample_pairs(comparison, samples)
    return made


def headline(
    stages: Sequence[Stage], comparison: Comparison | None = None, *, target: float | None = None
) -> list[Headline]:
    """The numbers that matter, with intervals: gold reward and its price first, then pair accuracies."""
    rows = [] if comparison is None else _gold_rows(comparison, target)
    for made in stages:
        if made.chosen_change is not None and made.rejected_change is not None:
            for side, values in (("chosen", made.chosen_change), ("rejected", made.rejected_change)):
                note = "policy minus reference, held-out pairs"
                estimate = statistics.bootstrap(values)
                rows.append(Headline.of(f"{made.name}: log-prob of {side}", estimate, unit="nats", note=note))
        if made.accuracy is not None:
            note = "; ".join(f"{name} {100 * found.value:.1f} %" for name, found in made.baselines.items())
            name = f"{made.name}: pair accuracy"
            rows.append(Headline.of(name, made.accuracy, unit="%", target=0.5, note=note or "held-out pairs"))
    return rows


def _gold_rows(found: Comparison, target: float | None) -> list[Headline]:
    before, after = found.before_reward.mean(), found.after_reward.mean()
    lengths = statistics.bootstrap(found.after_lengths.mean(1))
    return [
        Headline.of(
            "Beats its reference by gold reward", found.win_rate, unit="%", target=target, note="held-out prompts"
        ),
        Headline.of("Gold reward gained", found.gain, note=f"from {before:.3f} to {after:.3f}"),
        Headline.of("KL to the reference", found.kl, unit="nats", note=f"a response; by k3 {found.kl_k3.value:.2f}"),
        Headline.of("Length", lengths, unit="tokens", note=f"reference {found.before_lengths.mean():.2f}"),
    ]


def policies(found: Comparison, *, before: str = "reference", after: str = "tuned") -> list[Policy]:
    """The reference and the policy in the plane of KL against reward."""

    def mean(values: np.ndarray) -> Estimate:
        return statistics.bootstrap(values.mean(1))

    return [
        Policy(before, 0.0, mean(found.before_reward), float(found.before_lengths.mean())),
        Policy(after, found.kl.value, mean(found.after_reward), float(found.after_lengths.mean())),
    ]


def sample_pairs(found: Comparison, count: int) -> list[SamplePair]:
    """`count` prompts evenly spread over all, each with its first response before and after."""
    picked = np.unique(np.linspace(0, len(found.prompts) - 1, min(count, len(found.prompts))).round().astype(int))
    return [
        SamplePair(
            found.prompts[i],
            found.before[i][0],
            found.after[i][0],
            float(found.before_reward[i, 0]),
            float(found.after_reward[i, 0]),
        )
        for i in picked
    ]


def facts(run: Any) -> dict[str, Any]:
    """The fields of `ReportData` that say what a run was: config, seed, commit, versions, skipped, throughput."""
    counts, commit = run.dataset.counts, rundir.git_commit()
    cut = {"prompts truncated": counts.truncated_prompts, "responses truncated": counts.truncated_responses}
    path = pathlib.Path(run.workdir) / JSONL
    speed = (
        [row["speed/tokens_per_second"] for row in read_metrics(path) if "speed/tokens_per_second" in row]
        if (path.exists())
        else []
    )
    return {
        "config": rundir.plain(run.config),
        "seed": run.config.seed,
        "commit": None if commit is None else commit["commit"][:12] + (" + changes" if commit["dirty"] else ""),
        "versions": rundir.versions(),
        "skipped": {**{name: n for name, n in cut.items() if n}, **counts.dropped, **counts.skipped},
        "throughput": {"tokens": float(np.median(speed))} if speed else None,
        "facts": {
            "steps": run.step,
            "training examples": len(run.dataset.training),
            "held-out examples": len(run.dataset.held_out),
        },
    }

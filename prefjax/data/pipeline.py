"""The data pipeline's two entry points, `dataset` (files) and `from_records` (memory), and the `Dataset` they give."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prefjax.data import convert, formats, iterate, packing, records, splits, templates, tokenization
from prefjax.data import examples as examples_
from prefjax.data import truncation as truncation_
from prefjax.data.examples import Counts
from prefjax.data.packing import Corpus, Layout
from prefjax.data.sources import RowError, Skips, read_text
from prefjax.data.tokenization import END_OF_TEXT, Tokenizer

Rewrite = Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]]
Derive = Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]]
BPE = "bpe:"
EXACT = 20_000  # examples up to which an epoch's batches are counted rather than estimated


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Tokenised examples, split in training and held-out ones, ready to be packed.

    Attributes:
      kind: one of records.KINDS.
      records: all text records; for kinds other than "text" a record's "id" is its example's id.
      tokenizer: see `tokenization`.
      counts: what was truncated, dropped and skipped.
      layout: the static shape of a batch, `layout.rows` being those of all processes.
      training, held_out: the tokenised examples.
      held_out_records: bool [number of records].
      seed: of the shuffle, unless `train` is given another.
      about: where the records come from, for `describe`.
    """

    kind: str
    records: list[dict[str, Any]]
    tokenizer: Tokenizer
    counts: Counts
    layout: Layout
    training: Corpus
    held_out: Corpus
    held_out_records: np.ndarray
    seed: int
    about: str

    def train(
        self, seed: int | None = None, shard_index: int = 0, shard_count: int = 1, *, prefetch: int = 2
    ) -> iterate.TrainIterator:
        """An endless, resumable iterator over this process's part of shuffled batches.

        Args:
          seed: of the shuffle; None is the data set's.
          shard_index, shard_count: this process among all; the rows of a batch are divided among them.
          prefetch: batches prepared ahead by a thread; 0 for none.
        """
        return iterate.TrainIterator(
            self.training,
            self.layout,
            seed=self.seed if seed is None else seed,
            shard_index=shard_index,
            shard_count=shard_count,
            prefetch=prefetch,
        )

    def eval(self, shard_index: int = 0, shard_count: int = 1) -> iterate.EvalBatches:
        """The held-out examples in order, each once; empty if nothing is held out."""
        return iterate.EvalBatches(self.held_out, self.layout, shard_index=shard_index, shard_count=shard_count)

    def train_in_order(self, shard_index: int = 0, shard_count: int = 1) -> iterate.EvalBatches:
        """The training examples in order, each once: for reference log-probs and for evaluation on what was trained."""
        return iterate.EvalBatches(self.training, self.layout, shard_index=shard_index, shard_count=shard_count)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all tokens and ids, training and held out: a key for what is computed from them and stored."""
        return hashlib.sha256(f"{self.training.fingerprint()}{self.held_out.fingerprint()}".encode()).hexdigest()[:16]

    @functools.cached_property
    def batches_per_epoch(self) -> int:
        """Batches in which each training example is seen once: counted for the first epoch, or estimated."""
        size = len(self.training)
        return math.ceil(len(self._row_lengths) * size / min(size, EXACT))

    @functools.cached_property
    def _row_lengths(self) -> np.ndarray:
        """Of the batches of the first epoch, or of its first EXACT examples."""
        size, sizes = len(self.training), self.training.sizes(self.layout.layout)
        order = [iterate.shuffled(i, size, self.seed, 0) for i in range(min(size, EXACT))]
        return np.array([shape.row_length for shape, _ in packing.plan_shapes(sizes[order], self.layout)])

    @functools.cached_property
    def packing_efficiency(self) -> float:
        """Fraction of the tokens of an epoch's batches that is not padding (of the first ones, for large data)."""
        layout, used = self.layout, self.training.sizes(self.layout.layout)
        if layout.layout == "separate":
            pieces = np.diff(self.training.bounds, axis=1)
            used = pieces[:, 0] * np.maximum((pieces[:, 1:] > 0).sum(1), 1) + pieces[:, 1:].sum(1)
        return float(used.sum() / (self.batches_per_epoch * layout.rows * self._row_lengths.mean()))

    def describe(self) -> str:
        """One paragraph: source, sizes, split, tokenizer, lengths, packing, and all that was cut or left out."""
        layout, train, held = self.layout, len(self.training), len(self.held_out)
        pieces = np.concatenate([np.diff(c.bounds, axis=1) for c in (self.training, self.held_out)])
        responses = pieces[:, 1:][pieces[:, 1:] > 0]

        def lengths(values: np.ndarray) -> str:
            return f"{np.median(values):.0f} (at most {values.max()})" if values.size else "none"

        row_lengths = str(layout.row_length)
        if layout.buckets:
            shares = [f"{np.mean(self._row_lengths == n):.0%}" for n in layout.buckets]
            named = zip(layout.buckets, shares, strict=True)
            row_lengths = ", ".join(f"{n} ({share} of batches)" for n, share in named)
        return (
            f"data: {self.kind}, {self.about}; {train} training and {held} held-out examples; tokenizer of "
            f"{self.tokenizer.vocab_size} tokens ({self.tokenizer.fingerprint}); median prompt "
            f"{lengths(pieces[:, 0])}, response {lengths(responses)} tokens; layout {layout.layout}, "
            f"{layout.rows} rows of {row_lengths} tokens, {layout.slots} slots, {layout.responses} responses, "
            f"{self.packing_efficiency:.0%} not padding, {self.batches_per_epoch} batches an epoch; {self.counts}"
        )


def dataset(
    *,
    path: str | Sequence[str],
    format: str = "auto",
    use_as: str | None = None,
    rewrite: Rewrite | None = None,
    derive: Derive | None = None,
    mismatched: bool = False,
    tokenizer: str | Tokenizer = "bpe:1024",
    eos_token: str | None = None,
    bos_token: str | None = None,
    add_bos: bool | None = None,
    chat_template: str | None = None,
    layout: str = "shared",
    rows: int = 8,
    row_length: int = 512,
    slots: int | None = None,
    responses: int | None = None,
    look_ahead: int = 64,
    fit: str = "best",
    buckets: Sequence[int] = (),
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    max_response_length: int | None = None,
    truncation: str = "keep_end",
    eval_fraction: float = 0.1,
    eval_path: str | Sequence[str] | None = None,
    split_by: str = "auto",
    seed: int = 0,
    on_error: str = "raise",
    limit: int | None = None,
) -> Dataset:
    """Reads files into a `Dataset`; see `from_records` for the options that are not listed here.

    Args:
      path: a file, a folder (all known files in it), `hub:owner/name[:split]`, or a list of these.
      format: one of formats.FORMATS, or `auto` to detect it from each file's first rows.
      eval_path: files of held-out records; then eval_fraction must be 0.
      on_error: `raise` at the first bad row, naming file and line, or `skip` bad rows, counting them by reason.
      limit: read at most this many records; None reads all.

    Raises:
      FileNotFoundError: no such file (with near names).
      ValueError: a bad row, an unknown format or option (with a did-you-mean).
    """
    skips, held = Skips(on_error), []
    found, kind, about = formats.load(path, format=format, skips=skips, limit=limit)
    if eval_path is not None:
        held, eval_kind, more = formats.load(eval_path, format=format, skips=skips, first_id=len(found))
        if eval_kind != kind:
            raise ValueError(f"path holds {kind!r} records, eval_path {eval_kind!r}; expected one kind")
        about = f"{about}, held out: {more}"
    print(f"data: {about}", flush=True)
    return from_records(
        found,
        kind=kind,
        use_as=use_as,
        rewrite=rewrite,
        derive=derive,
        mismatched=mismatched,
        eval_records=held,
        skipped=skips.counts,
        about=about,
        tokenizer=tokenizer,
        eos_token=eos_token,
        bos_token=bos_token,
        add_bos=add_bos,
        chat_template=chat_template,
        layout=layout,
        rows=rows,
        row_length=row_length,
        slots=slots,
        responses=responses,
        look_ahead=look_ahead,
        fit=fit,
        buckets=buckets,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        max_response_length=max_response_length,
        truncation=truncation,
        eval_fraction=eval_fraction,
        split_by=split_by,
        seed=seed,
        on_error=on_error,
    )


def from_records(
    found: Sequence[Mapping[str, Any]],
    *,
    kind: str,
    use_as: str | None = None,
    rewrite: Rewrite | None = None,
    derive: Derive | None = None,
    mismatched: bool = False,
    tokenizer: str | Tokenizer = "bpe:1024",
    eos_token: str | None = None,
    bos_token: str | None = None,
    add_bos: bool | None = None,
    chat_template: str | None = None,
    layout: str = "shared",
    rows: int = 8,
    row_length: int = 512,
    slots: int | None = None,
    responses: int | None = None,
    look_ahead: int = 64,
    fit: str = "best",
    buckets: Sequence[int] = (),
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    max_response_length: int | None = None,
    truncation: str = "keep_end",
    eval_fraction: float = 0.1,
    eval_records: Sequence[Mapping[str, Any]] = (),
    split_by: str = "auto",
    seed: int = 0,
    on_error: str = "raise",
    skipped: Mapping[str, int] | None = None,
    about: str = "records in memory",
) -> Dataset:
    """Turns text records into a `Dataset`.

    Args:
      found: text records, see records.check.
      kind: one of records.KINDS.
      use_as: another kind to turn the records into; see `convert`. None keeps `kind`.
      rewrite: function of the text records, [record] -> [record], called on training and held-out ones; see `rewrite`.
      derive: function of the tokenised examples of a side of the split, [example] -> [example]; see `derive`.
      mismatched: gives each single response (kind "unpaired") another prompt's response beside it, for KTO's baseline.
      tokenizer: a `Tokenizer`; a path for tokenization.load; `bpe:N` to train one of N tokens on the training texts;
        `bytes` for one token a byte.
      eos_token, bos_token, add_bos: override the tokenizer's own; see tokenization.wrap.
      chat_template: jinja2 text, or a file named *.jinja; None is the tokenizer's, then templates.DEFAULT.
      layout, rows, row_length, slots, responses, look_ahead, fit, buckets: see packing.Layout; `rows` counts those of
        all processes; slots=None takes as many as usually fit, responses=None the most that a record has.
      max_length, max_prompt_length, max_response_length, truncation: see truncation.Limits.
      eval_fraction, split_by, seed: see splits.held_out; with `eval_records`, eval_fraction must be 0.
      on_error: `raise`, or `skip` bad records and count them by reason.
      skipped: rows already skipped before, by reason; counted with the others.
      about: where the records come from, for `describe`.

    Raises:
      ValueError: a bad record or option, or a data set in which nothing is left to train on.
    """
    records.check_kind(kind)
    Layout(layout, rows, row_length, 1, 1, look_ahead, fit, buckets)  # option errors come before the work
    limits = truncation_.Limits(
        row_length, max_length, max_prompt_length, max_response_length, truncation, layout == "shared"
    )
    for name, value, without in (
        ("max_prompt_length", max_prompt_length, "text"),
        ("max_response_length", max_response_length, "prompts"),
    ):
        if value is not None and kind == without:
            raise ValueError(f"{name}={value} has no meaning for kind {kind!r}")
    skips = Skips(on_error)
    skips.counts.update(skipped or {})
    both = [_checked(part, kind, skips) for part in (found, eval_records)]
    if use_as is not None:
        records.check_kind(use_as)
        both = [_noting(convert.convert(part, kind, use_as), part, f"no {use_as} in it", skips) for part in both]
        kind = use_as
    if rewrite is not None:
        why = f"left out by {getattr(rewrite, 'func', rewrite).__name__}"
        both = [_noting(rewrite(part), part, why, skips) for part in both]
    if mismatched and kind != "unpaired":
        raise ValueError(f"mismatched=True has no meaning for kind {kind!r}; expected 'unpaired'")
    kept = both[0] + both[1]
    records.unique_ids(kept)
    if not kept:
        raise ValueError(f"{about}: no record is left; skipped {dict(skips.counts)}")
    if eval_records:
        if eval_fraction:
            raise ValueError(f"held-out records are given, so eval_fraction={eval_fraction} must be 0")
        mask = np.arange(len(kept)) >= len(both[0])
    else:
        mask = splits.held_out(kept, fraction=eval_fraction, split_by=split_by, seed=seed)
    if chat_template is not None and all(isinstance(record["prompt"], str) for record in kept):
        raise ValueError("chat_template is given, but no record is a conversation; expected prompts made of messages")
    if mismatched:
        kept = convert.mismatch(kept, mask)
    template = _template(chat_template)
    training = [record for record, held in zip(kept, mask, strict=True) if not held]
    made = _tokenizer(tokenizer, training, template, eos_token=eos_token, bos_token=bos_token, add_bos=add_bos)
    done, counts = examples_.tokenise(kept, made, limits, kind=kind, chat_template=template, skips=skips)
    if counts.truncated_prompts or counts.truncated_responses or counts.dropped or counts.skipped:
        print(f"data: {counts}", flush=True)
    parts = [[e for e in done if mask[e["record"]] == side] for side in (False, True)]
    if derive is not None:
        parts, counts = _derived(derive, parts, counts, layout, row_length)
    kind = kind if rewrite is None else _kind_after(kind, kept)
    most = max((len(e["responses"]) for part in parts for e in part), default=0) if responses is None else responses
    if not parts[0]:
        raise ValueError(f"{about}: no training example is left; {counts}")
    corpora = [packing.corpus(part, responses=most) for part in parts]
    if slots is None:
        slots = _usual_slots(np.concatenate([c.sizes() for c in corpora]), row_length) if layout == "shared" else 1
    whole = Layout(layout, rows, row_length, slots, most, look_ahead, fit, buckets)
    return Dataset(kind, kept, made, counts, whole, corpora[0], corpora[1], mask, seed, about)


def _kind_after(kind: str, kept: Sequence[Mapping[str, Any]]) -> str:
    """The kind of rewritten records, by how many responses they now have."""
    counts = {len(record["responses"]) for record in kept}
    if kind == "pairs" and counts != {2}:
        return "lists"
    return {("prompts", 2): "pairs", ("lists", 1): "sft"}.get((kind, max(counts)), kind) if len(counts) == 1 else kind


def _derived(
    derive: Derive, parts: list[list[dict[str, Any]]], counts: Counts, layout: str, row_length: int
) -> tuple[list[list[dict[str, Any]]], Counts]:
    """The derived examples of both sides, without those that no longer fit a row, and their counts."""
    gather = sum if layout == "shared" else max
    made = [derive(part) if part else [] for part in parts]
    kept = [[e for e in part if len(e["prompt"]) + gather(map(len, e["responses"])) <= row_length] for part in made]
    lost = sum(map(len, made)) - sum(map(len, kept))
    dropped = {**counts.dropped, **({"too long when derived": lost} if lost else {})}
    tokens = sum(len(e["prompt"]) + sum(map(len, e["responses"])) for part in kept for e in part)
    return kept, dataclasses.replace(counts, examples=sum(map(len, kept)), tokens=tokens, dropped=dropped)


def _checked(found: Sequence[Mapping[str, Any]], kind: str, skips: Skips) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for record in found:
        try:
            records.check(record, kind)
            if kept:
                records.same_fields(kept[0], record)
        except RowError as error:
            skips(error)
            continue
        kept.append({**record, "source": record.get("source") or f"record {record['id']}"})
    return kept


def _noting(
    made: Sequence[dict[str, Any]], before: Sequence[Mapping[str, Any]], why: str, skips: Skips
) -> list[dict[str, Any]]:
    """`made` from the records `before`; those of which nothing was made are counted as skipped."""
    lost = len({r["source"] for r in before} - {r["source"] for r in made})
    if lost:
        skips.counts[why] = skips.counts.get(why, 0) + lost
    return list(made)


def _usual_slots(sizes: np.ndarray, row_length: int) -> int:
    """Half as many again as the average row holds, and no more than any row can hold."""
    return max(1, min(math.ceil(1.5 * row_length / sizes.mean()), row_length // int(sizes.min())))


def _template(chat_template: str | None) -> str | None:
    if chat_template is not None and chat_template.endswith(".jinja"):
        return read_text(pathlib.Path(chat_template))
    return chat_template


def _tokenizer(
    tokenizer: str | Tokenizer, training: Sequence[Mapping[str, Any]], template: str | None, **special: Any
) -> Tokenizer:
    given = {name: value for name, value in special.items() if value is not None}
    if isinstance(tokenizer, Tokenizer):
        if given:
            raise ValueError(f"{', '.join(given)}: already decided by the Tokenizer that is given")
        return tokenizer
    if tokenizer != "bytes" and not tokenizer.startswith(BPE):
        return tokenization.load(tokenizer, **given)
    if given:
        raise ValueError(f"{', '.join(given)}: a tokenizer trained here ends texts with {END_OF_TEXT}")
    if tokenizer == "bytes":
        return tokenization.train_bpe([], vocab_size=257)
    size = tokenizer.removeprefix(BPE)
    if not size.isdigit():
        raise ValueError(f"tokenizer={tokenizer!r}: expected bpe:<number of tokens>, as in bpe:1024")

    distinct: dict[str, None] = {}  # in order; one answer in many pairs counts once
    for record in training:
        try:
            prompt, replies = examples_.texts(record, template=template, bos_token=None, eos_token=END_OF_TEXT)
        except templates.TemplateError:
            continue  # raised or counted when the records are tokenised
        distinct.update(dict.fromkeys([prompt, *replies]))
    return tokenization.train_bpe(distinct, vocab_size=int(size))

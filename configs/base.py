"""What the configs build on: the gold world or files as data, a small decoder, and the fields of a stage.

Every config takes these arguments after a colon, `--config=configs/preference/dpo.py:data=pairs.jsonl,init=runs/sft`:

  data      "gold" (default), or a file or folder in a known format (see prefjax.data.formats)
  on_error  what to do with bad rows of the files: "raise" (default), or "skip" and count them
  init      workdir of an earlier stage, or a Hugging Face folder, to start from, with the model that it has
  steps     number of updates; 0 is the config's own
  runlocal  a tiny model and a few steps: seconds on a laptop's CPU
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from prefjax import recipe, rundir
from prefjax.config import Config, completed, parse_arg, ref
from prefjax.data import pipeline
from prefjax.data import rewrite as rewrites
from prefjax.data.gold import dataset as gold
from prefjax.losses import language as losses_of_language
from prefjax.metrics import preference
from prefjax.models import decoder, huggingface
from prefjax.optim import recipes
from prefjax.views import language, rewards


def arguments(arg: str | None, **more: Any) -> Config:
    """The arguments that every config takes, and `more` of its own with their defaults."""
    return parse_arg(arg, data="gold", on_error="raise", init="", steps=0, runlocal=False, **more)


def data(
    args: Config,
    kind: str,
    *,
    mismatched: bool = False,
    rewrite: ConfigDict | Callable[..., Any] | None = None,
    derive: ConfigDict | Callable[..., Any] | None = None,
    wide: int = 1,
    **world: Any,
) -> ConfigDict:
    """The gold world's records of a kind, or the files that `data=` names.

    `rewrite` and `derive` make other records or examples of them; what is made may need rows `wide` times as long.
    Pairs of files are rewritten without ties unless a rewriting is given.
    """
    made = {name: ref(fn) if callable(fn) else fn for name, fn in (("rewrite", rewrite), ("derive", derive))}
    if args.data == "gold":
        size = {"size": 256, "eval_size": 32} if args.runlocal else {"size": 16000, "eval_size": 256}
        rows = {"rows": 4, "row_length": 64 * wide} if args.runlocal else {"rows": 16, "row_length": 128 * wide}
        return ref(gold.dataset, kind=kind, mismatched=mismatched, world=world, **made, **size, **rows)
    kind = {"cycles": "pairs", "siblings": "pairs", "prefixes": "lists"}.get(kind, kind)
    if kind == "pairs" and rewrite is None:
        made["rewrite"] = ref(rewrites.decided)
    length = 256 if args.runlocal else 384  # of a record as it was read; what is made of it may take `wide` times that
    rows = {"rows": 4 if args.runlocal else 8, "row_length": length * wide, "max_length": length}
    limit = 128 if args.runlocal else None
    tokenizer = "bpe:512" if args.runlocal else "bpe:4096"
    return ref(
        pipeline.dataset,
        path=args.data,
        use_as=kind,
        mismatched=mismatched,
        **made,
        tokenizer=tokenizer,
        eval_fraction=0.2,
        on_error=args.on_error,
        limit=limit,
        **rows,
    )


def model(args: Config, *, outputs: int = 0) -> ConfigDict:
    """The model of the run or Hugging Face folder that `init=` names, or a small Llama; `outputs` adds a score head."""
    if args.init and huggingface.is_folder(args.init):
        return ref(huggingface.pretrained, folder=args.init, outputs=outputs)
    if args.init and (earlier := _model_of_run(args.init)) is not None:
        return ConfigDict({**earlier, "outputs": outputs}, type_safe=False)
    if args.runlocal:
        size = {"hidden_size": 32, "num_layers": 2, "num_heads": 2}
    elif args.data == "gold":
        size = {"hidden_size": 64, "num_layers": 3, "num_heads": 4}
    else:
        size = {"hidden_size": 128, "num_layers": 3, "num_heads": 4}
    return ref(decoder.decoder, outputs=outputs, max_positions=1024, **size)


def _model_of_run(folder: str) -> dict[str, Any] | None:
    """The model's node of a run's config; None where there is no such run (yet), or its model is no plain decoder."""
    if not (pathlib.Path(folder) / "config.json").is_file():
        return None
    found = completed(rundir.load_config(folder).get("model"))
    return found if isinstance(found, dict) and "outputs" in found else None


def stage(
    name: str,
    args: Config,
    *,
    kind: str,
    objective: dict[str, ConfigDict],
    steps: int,
    learning_rate: float,
    outputs: int = 0,
    world: Mapping[str, Any] | None = None,
    recipe_of_data: Mapping[str, Any] | None = None,
    **fields: Any,
) -> ConfigDict:
    """A stage on data of one kind.

    `world` holds options of the gold world, `recipe_of_data` those of `data`, `fields` further fields of a config.
    """
    steps = args.steps or (6 if args.runlocal else steps)
    every = max(1, steps // 5)
    small = args.data == "gold" or args.runlocal  # the held-out part of a file may be large: look at it once
    return recipe.config(
        name=name,
        steps=steps,
        data=data(args, kind, **(recipe_of_data or {}), **(world or {})),
        model=model(args, outputs=outputs),
        objective=objective,
        init_from=args.init or None,
        log_every=max(1, min(10, steps // 20)),
        eval_every=every if small else steps,
        checkpoint_every=every,
        **{"optimizer": ref(recipes.adamw, learning_rate=learning_rate), **fields},
    )


# Fields of a term of an objective and options of its data, as the functions below take them beside a stage's fields.
OF_TERM = ("weight", "count", "bind", "schedule", "coefficient")
OF_DATA = ("rewrite", "derive", "wide", "mismatched")


def single(
    name: str,
    arg: str | None | Config,
    loss: ConfigDict | Callable[..., Any],
    *,
    view: Callable[..., Any],
    kind: str,
    metrics: ConfigDict | Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
    more: Mapping[str, ConfigDict] | None = None,
    steps: int = 200,
    learning_rate: float = 3e-4,
    **fields: Any,
) -> ConfigDict:
    """A paper of one loss, which is what most are; on files half the steps and a third of the rate.

    Args:
      name: of the run and of the term.
      arg: the config's argument, or the arguments parsed.
      loss, view, metrics: of the term; `options` are the view's.
      kind: of the data, as `prefjax.data.gold.dataset` names them.
      more: further terms of the objective.
      steps, learning_rate: on the gold world.
      **fields: of the term (OF_TERM), of the data (OF_DATA), `world`, `outputs`, or of the config.
    """
    args = arguments(arg) if arg is None or isinstance(arg, str) else arg
    of_term = {key: fields.pop(key) for key in OF_TERM if key in fields}
    of_data = {key: fields.pop(key) for key in OF_DATA if key in fields}
    term = recipe.term(view, loss, metrics=metrics, **of_term, **(options or {}))
    on_files = args.data != "gold"
    return stage(
        name,
        args,
        kind=kind,
        objective={name: term, **(more or {})},
        steps=steps // 2 if on_files else steps,
        learning_rate=learning_rate / 3 if on_files else learning_rate,
        recipe_of_data=of_data,
        **fields,
    )


def rounds(args: Config, every: int) -> int:
    """Updates between two refreshes of what is carried: `every`, and of a tiny run two thirds.

    The last refresh should not be the last update, after which a policy is compared with its reference: they would be
    the same.
    """
    return max(1, 2 * (args.steps or 6) // 3) if args.runlocal else every


def _beta(loss: Any) -> Any:
    return loss.get_ref("beta") if isinstance(loss, ConfigDict) and "beta" in loss else 0.1


def paired(name: str, arg: str | None | Config, loss: Any, **fields: Any) -> ConfigDict:
    """A loss on pairs with a reference, the policy's own start; see `single`."""
    metrics = ref(preference.paired, beta=_beta(loss))
    defaults = {"view": language.pairs, "kind": "pairs", "reference": True, "metrics": metrics}
    return single(name, arg, loss, **{**defaults, **fields})


def reference_free(name: str, arg: str | None | Config, loss: Any, **fields: Any) -> ConfigDict:
    """A loss on pairs without a reference; see `single`."""
    metrics = ref(preference.reference_free, beta=_beta(loss))
    defaults = {"view": language.pairs, "kind": "pairs", "metrics": metrics}
    return single(name, arg, loss, **{**defaults, **fields})


def unpaired(name: str, arg: str | None | Config, loss: Any, **fields: Any) -> ConfigDict:
    """A loss on single judged responses with a reference; see `single`."""
    metrics = ref(preference.unpaired, beta=_beta(loss))
    defaults = {"view": language.responses, "kind": "unpaired", "reference": True, "metrics": metrics}
    return single(name, arg, loss, **{**defaults, **fields})


def listwise(name: str, arg: str | None | Config, loss: Any, **fields: Any) -> ConfigDict:
    """A loss on lists of responses with graded labels and a reference; see `single`."""
    return single(name, arg, loss, **{"view": language.lists, "kind": "lists", "reference": True, **fields})


def reward_model(name: str, arg: str | None | Config, loss: Any, **fields: Any) -> ConfigDict:
    """A loss on a pair's scores by a head on the decoder; see `single`."""
    metrics = ref(preference.reward_model)
    defaults = {"view": rewards.scored_pairs, "kind": "pairs", "outputs": 1, "metrics": metrics}
    return single(name, arg, loss, **{"steps": 300, "learning_rate": 1e-3, **defaults, **fields})


def likelihood(coefficient: float = 1.0) -> ConfigDict:
    """A term: token mean of the negative log-likelihood of the chosen responses, with the view of `paired`."""
    bind = {"token_logps": "chosen_token_logps"}
    return recipe.term(
        language.pairs, losses_of_language.sft, count="chosen_lengths", bind=bind, coefficient=coefficient
    )

"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, as `peft.PeftModel` loads and saves."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from prefjax import leaves
from prefjax.config import did_you_mean
from prefjax.models import hf_configs, hf_files, hf_tensors
from prefjax.models.lora import ADAPTERS, LoraModel, Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TASKS = {"lm": "CAUSAL_LM", "score": "SEQ_CLS"}
_REFUSED = ("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layers_to_transform", "layer_replication",
            "rank_pattern", "alpha_pattern", "target_parameters", "trainable_token_indices", "alora_invocation_tokens",
            "arrow_config", "kasa_config", "velora_config", "monteclora_config", "megatron_config")  # fmt: skip
_MOVE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # by which peft begins, and does so again when loading
_HEADS = {"score": "score", "head": "lm_head", "norm": ""}


def _modules(model: LoraModel, architecture: str | None) -> tuple[dict[str, hf_tensors.Tensor], str]:
    """{path of an adapted kernel: its tensor, named with the base}, and the head of the class that is written."""
    family, head, _ = hf_configs.describe(model.config, architecture)
    wanted = {f"layers/{target}/kernel" for target in model.lora.targets}
    found = {}
    for tensor in hf_tensors.body(family.model_type, model.config):
        if not wanted & set(tensor.paths):
            continue
        if len(tensor.paths) > 1:
            raise ValueError(
                f"{family.model_type} keeps {', '.join(tensor.paths)} in one matrix {tensor.name!r}, and an adapter "
                "of a part has no place in PEFT; choose other targets, or export merged parameters"
            )
        found[next(iter(tensor.paths))] = tensor._replace(name=family.base + tensor.name.removesuffix(".weight"))
    return found, head


def write_adapter(
    folder: hf_files.Path,
    model: LoraModel,
    params: Params,
    *,
    base_model: str = "",
    architecture: str | None = None,
) -> None:
    """Writes what `peft.PeftModel.from_pretrained(base, folder)` loads.

    Args:
      folder: a new or empty folder, which appears at once and whole.
      params: what a run trains: adapters, and heads ("score") that are trained whole.
      base_model: name or folder of the frozen model, for adapter_config.json.
      architecture: as of `huggingface.write_folder`.

    Raises:
      FileExistsError: the folder has files.
      ValueError: matrices that the family keeps in one tensor, or a trained head that PEFT has no name for.
    """
    lora, (modules, head) = model.lora, _modules(model, architecture)
    if other := [name for name in lora.heads if not _HEADS[name]]:
        raise ValueError(f"heads {other} have no place in an adapter of PEFT; export merged parameters")
    named = leaves.named_leaves(params[ADAPTERS])
    content: dict[str, np.ndarray] = {}
    for path, tensor in modules.items():
        for layer in range(model.config.num_layers):
            for part, name in (("a", "lora_A"), ("b", "lora_B")):
                value = np.asarray(named[f"{path}/{part}"][layer])
                content[f"{PREFIX}{tensor.name.format(layer)}.{name}.weight"] = np.ascontiguousarray(value.T)
    for name in lora.heads:
        for leaf, array in leaves.named_leaves(params[name]).items():
            value = np.asarray(array)
            own = {"kernel": ("weight", value.T), "bias": ("bias", value)}[leaf]
            content[f"{PREFIX}{_HEADS[name]}.{own[0]}"] = np.ascontiguousarray(own[1])
    forms = {tensor.form is hf_tensors.SAME for tensor in modules.values()}
    if len(forms) > 1:
        raise ValueError("targets lie both ways round in this family; PEFT's fan_in_fan_out is one for all")
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": TASKS[head],
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "use_rslora": lora.rank_stabilized,
        "bias": "none",
        "fan_in_fan_out": forms == {True},
        "target_modules": sorted({tensor.name.rpartition("{}.")[2] for tensor in modules.values()}),
        "modules_to_save": [_HEADS[name] for name in lora.heads] or None,
        "inference_mode": True,
    }
    with hf_files.staged(folder) as staging:
        save_file(content, staging / WEIGHTS, metadata={"format": "pt"})
        hf_files.write_json(staging / CONFIG, config)


def read_adapter(folder: hf_files.Path, model: LoraModel, *, architecture: str | None = None) -> Params:
    """The adapters (and heads) of a folder of PEFT's, as `model` trains them.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: another rank, alpha or set of matrices than the model's, or a tensor that is missing or left over.
    """
    folder, lora = pathlib.Path(folder), model.lora
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; expected an adapter of PEFT")
    config = hf_files.read_json(folder / CONFIG)
    _check(config, folder / CONFIG, lora)
    modules, _ = _modules(model, architecture)
    shapes = jax.eval_shape(lambda key: model.split(model.init(key), key)[0], jax.random.key(0))
    out: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(safe_open(folder / WEIGHTS, framework="np"))
        unread = set(file.keys())

        def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
            if name not in unread:
                raise ValueError(f"{folder / WEIGHTS}: tensor {name!r} is missing; {did_you_mean(name, unread)}")
            unread.remove(name)
            value = np.asarray(file.get_tensor(name))
            value = value.T if value.ndim == 2 else value
            if value.shape != shape:
                raise ValueError(f"{folder / WEIGHTS}: tensor {name!r} has shape {list(value.shape)}; "
                                 f"expected {list(shape)}")  # fmt: skip
            return value

        for path, leaf in leaves.named_leaves(shapes).items():
            if path.startswith(f"{ADAPTERS}/"):
                kernel, part = path.removeprefix(f"{ADAPTERS}/").rpartition("/")[::2]
                names = [
                    f"{PREFIX}{modules[kernel].name.format(i)}.lora_{part.upper()}.weight" for i in range(leaf.shape[0])
                ]
                value = np.stack([take(name, leaf.shape[1:]) for name in names])
            else:
                head, _, own = path.partition("/")
                suffix = {"kernel": "weight", "bias": "bias"}[own]
                value = take(f"{PREFIX}{_HEADS[head]}.{suffix}", leaf.shape)
            out[path] = jnp.asarray(value, leaf.dtype)
        if unread:
            raise ValueError(f"{folder / WEIGHTS}: tensor {sorted(unread)[0]!r} belongs to no adapter of this model")
    return leaves.nest(out)


def _check(config: Mapping[str, Any], where: pathlib.Path, lora: Any) -> None:
    wanted = {"peft_type": "LORA", "r": lora.rank, "lora_alpha": lora.alpha, "bias": "none"}
    wanted["use_rslora"] = lora.rank_stabilized
    for name, value in wanted.items():
        if config.get(name, False if name == "use_rslora" else None) != value:
            raise ValueError(f"{where}: {name}={config.get(name)!r}; this model has {value!r}")
    for name in _REFUSED:
        if config.get(name):
            raise ValueError(f"{where}: {name}={config[name]!r} is not supported; expected it absent")
    begun = config.get("init_lora_weights", True)
    if isinstance(begun, str) and begun.lower().startswith(_MOVE_THE_BASE):
        raise ValueError(f"{where}: init_lora_weights={begun!r} changes the base as well; convert it to plain LoRA")

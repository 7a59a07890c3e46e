"""Models by name or by path: TOML files, Hugging Face ``config.json``, GGUF files.

A model file gives what all layers have in common once, and what differs by kinds of layer::

    layers = 62                       # how many
    first = []                        # kinds of the first layers, before the pattern starts
    pattern = ["local", "global"]     # kinds of all others, repeated until there are enough
    hidden = 5376                     # ... and the other scalar fields of `ModelSpec`

    [layer.attention]                 # fields of `AttentionSpec`; head_dim sets both head dims
    [layer.feed_forward]              # fields of `FeedForwardSpec`
    [layer.state]                     # fields of `StateSpec`
    [kinds.local.attention]           # what is different in layers of this kind

A part that neither ``layer`` nor the kind mentions is absent; ``attention = false`` in a kind
takes away what ``layer`` gives. Without ``pattern`` all layers are alike.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sim.checks import require_between
from sim.layers import MAX_LAYERS, AttentionSpec, FeedForwardSpec, LayerSpec
from sim.model import NO_LIMIT, ModelSpec
from sim.model_files.gguf_file import is_gguf
from sim.model_files.gguf_model import model_from_gguf_file
from sim.model_files.hf_config import model_from_config_file
from sim.state import StateSpec
from sim.tables import Table, instance_of, read_toml, refuse_unknown, subtable
from workloads.errors import InputError
from workloads.registry import suggestion_for

_BUILT_IN = Path(__file__).parent.parent / "models"
_PARTS: dict[str, type[Any]] = {
    "attention": AttentionSpec,
    "state": StateSpec,
    "feed_forward": FeedForwardSpec,
}


@dataclass(frozen=True)
class _Header:
    """The scalar keys of a model file."""

    layers: int
    hidden: int
    vocab: int
    name: str = ""
    tied_embeddings: bool = False
    max_context: int = NO_LIMIT
    bytes_per_parameter: float = 2.0
    unread: int = 0


def model_names() -> list[str]:
    """Names of the built-in models, sorted."""
    return sorted(path.stem for path in _BUILT_IN.glob("*.toml"))


def model_of(name_or_path: str | Path) -> ModelSpec:
    """The built-in model of that name (in any case), or the model that a file describes.

    The path leads to a model file (``.toml``), a Hugging Face config (``.json``), a folder with a
    ``config.json`` or a GGUF file, which is known by its content. Raises `InputError` where there
    is no such model or the file does not say enough.
    """
    text = str(name_or_path)
    if text.lower() in model_names():
        path = _BUILT_IN / f"{text.lower()}.toml"
        return model_from_table(read_toml(path), path.stem, path.name)
    path = Path(text).expanduser()
    if path.is_file() and is_gguf(path):
        return model_from_gguf_file(path)
    if path.is_dir() or path.suffix == ".json":
        return model_from_config_file(path)
    if path.suffix == ".toml":
        return model_from_table(read_toml(path), path.stem, text)
    if path.exists():
        raise InputError(
            f"{text}: a model is a .toml file, a GGUF file, a config.json or a folder with one"
        )
    raise InputError(f"unknown model {text!r}; {suggestion_for(text.lower(), model_names())}")


def model_from_table(table: Table, name: str, where: str) -> ModelSpec:
    """The model that a parsed model file describes; ``where`` begins every error line."""
    lists = ("first", "pattern", "layer", "kinds")
    refuse_unknown(table, (*(field.name for field in fields(_Header)), *lists), where)
    scalars = {key: value for key, value in table.items() if key not in lists}
    header = instance_of(_Header, scalars, where)
    require_between(f"{where}: layers", header.layers, 1, MAX_LAYERS)
    common = subtable(table, "layer", where)
    kinds = {
        kind: _layer(common, subtable(subtable(table, "kinds", where), kind, where), where, kind)
        for kind in subtable(table, "kinds", where)
    }
    first = _kind_names(table, "first", kinds, where)
    pattern = _kind_names(table, "pattern", kinds, where)
    if kinds and not pattern:
        raise InputError(f"{where}: 'kinds' needs 'pattern', the order in which layers come")
    if len(first) > header.layers:
        raise InputError(f"{where}: 'first' names {len(first)} layers of {header.layers}")
    if pattern:
        rest = header.layers - len(first)
        order = first + (pattern * (rest // len(pattern) + 1))[:rest]
        layers = tuple(kinds[kind] for kind in order)
    else:
        layers = (_layer(common, {}, where, None),) * header.layers
    try:
        return ModelSpec(
            name=header.name or name,
            layers=layers,
            hidden=header.hidden,
            vocab=header.vocab,
            tied_embeddings=header.tied_embeddings,
            max_context=header.max_context,
            bytes_per_parameter=header.bytes_per_parameter,
            unread=header.unread,
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _kind_names(table: Table, key: str, kinds: dict[str, LayerSpec], where: str) -> tuple[str, ...]:
    names = table.get(key, [])
    if not isinstance(names, list):
        raise InputError(f"{where}: {key!r} must be a list of names under 'kinds', not {names!r}")
    for name in names:
        if name not in kinds:
            raise InputError(f"{where}: {key!r} names {name!r}; {suggestion_for(str(name), kinds)}")
    return tuple(names)


def _layer(common: Table, own: Table, where: str, kind: str | None) -> LayerSpec:
    """A layer made of ``common``, overlaid part by part with ``own``."""
    refuse_unknown(common, _PARTS, f"{where}: [layer]")
    refuse_unknown(own, _PARTS, f"{where}: [kinds.{kind}]")
    parts: dict[str, Any] = {}
    for part, cls in _PARTS.items():
        if own.get(part) is False or not (part in common or part in own):
            continue
        table = subtable(common, part, f"{where}: [layer]")
        table = table | subtable(own, part, f"{where}: [kinds.{kind}]")
        label = f"{where}: [layer.{part}]" if kind is None else f"{where}: [kinds.{kind}.{part}]"
        parts[part] = instance_of(cls, _with_head_dims(table), label)
    return LayerSpec(**parts)


def _with_head_dims(table: Table) -> Table:
    table = dict(table)
    if "head_dim" in table:
        head_dim = table.pop("head_dim")
        table = {"head_dim_k": head_dim, "head_dim_v": head_dim} | table
    return table

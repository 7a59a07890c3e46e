"""Models from GGUF files: geometry from the metadata, bytes of weights from the tensor list."""

from __future__ import annotations

from pathlib import Path

from sim.layers import LayerSpec
from sim.model import NO_LIMIT, ModelSpec
from sim.model_files.gguf_file import TENSOR_TYPES, GGUFHeader, Strings, read_header
from sim.model_files.gguf_layers import layers_of, unread_of
from sim.model_files.hf_fields import Fields
from workloads.errors import InputError

_TIED = (
    "cohere2",
    "command-r",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3n",
    "gemma4",
    "lfm2",
    "starcoder2",
)
"""Architectures whose head is the embedding, where the file lists no tensors to tell it by."""

_FILE_TYPES = {
    0: 0,
    1: 1,
    2: 2,
    3: 3,
    7: 8,
    8: 6,
    9: 7,
    10: 10,
    11: 11,
    12: 11,
    13: 11,
    14: 12,
    15: 12,
    16: 13,
    17: 13,
    18: 14,
    19: 16,
    20: 17,
    21: 10,
    22: 18,
    23: 18,
    24: 19,
    25: 20,
    26: 21,
    27: 21,
    28: 22,
    29: 22,
    30: 23,
    31: 29,
    32: 30,
    36: 34,
    37: 35,
    38: 39,
    39: 40,
    40: 41,
}
"""``general.file_type`` -> the ``ggml_type`` that most tensors of such a file have."""


def model_from_gguf_file(path: Path) -> ModelSpec:
    """The model of the GGUF file at ``path``, of which only the header is read.

    Raises `InputError`, naming the key, where the header does not say enough.
    """
    return model_from_header(read_header(path), path.stem, str(path))


def model_from_header(header: GGUFHeader, name: str, where: str) -> ModelSpec:
    """The model that a header describes; ``where`` begins every error line.

    ``weight_bytes`` of the model are those of the file's tensors. Where it lists none, or not
    all (split files), weights are as large as the type that most tensors of such a file have.
    """
    arch = header.values.get("general.architecture")
    if not isinstance(arch, str):
        raise InputError(f"{where}: key 'general.architecture' is missing")
    own = {
        key.removeprefix(f"{arch}."): value
        for key, value in header.values.items()
        if key.startswith(f"{arch}.")
    }
    f = Fields(own, where)
    complete = bool(header.tensors) and header.values.get("split.count", 0) in (0, 1)
    tied = "output.weight" not in header.tensors if complete else arch in _TIED
    try:
        layers = layers_of(arch, f, header.tensors)
        return _spec(header, f, layers, name, tied, complete)
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from error


def _spec(
    header: GGUFHeader,
    f: Fields,
    layers: tuple[LayerSpec, ...],
    name: str,
    tied: bool,
    complete: bool,
) -> ModelSpec:
    vocab = _vocabulary(header, f)

    def made(bytes_per_parameter: float) -> ModelSpec:
        return ModelSpec(
            name=name,
            layers=layers,
            hidden=f.integer("embedding_length"),
            vocab=vocab,
            unread=unread_of(f, vocab),
            tied_embeddings=tied,
            max_context=f.integer("context_length", NO_LIMIT),
            bytes_per_parameter=bytes_per_parameter,
        )

    if not complete:
        return made(_usual_bytes(header))
    return made(_tensor_bytes(header, f.where) / made(2.0).parameters)


def _vocabulary(header: GGUFHeader, f: Fields) -> int:
    """Rows of the embedding: of its tensor, as a key says, or as many as there are tokens."""
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and len(embedding.shape) == 2:
        return embedding.shape[1]
    tokens = header.values.get("tokenizer.ggml.tokens")
    return f.integer("vocab_size", tokens.length if isinstance(tokens, Strings) else None)


def _tensor_bytes(header: GGUFHeader, where: str) -> int:
    total = 0
    for name, tensor in header.tensors.items():
        size = tensor.bytes
        if size is None:
            raise InputError(f"{where}: tensor {name!r} has the unknown type {tensor.kind}")
        total += size
    return total


def _usual_bytes(header: GGUFHeader) -> float:
    elements, size = TENSOR_TYPES[_FILE_TYPES.get(header.values.get("general.file_type", 1), 1)]
    return size / elements

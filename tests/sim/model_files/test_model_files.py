"""Model files: what they may leave out, and what is refused."""

from pathlib import Path

import pytest

from sim.model_files.lookup import model_of
from workloads.errors import InputError

GOOD = """
layers = 7
first = ["deep"]
pattern = ["local", "local", "global"]
hidden = 64
vocab = 100

[layer.attention]
heads = 4
kv_heads = 2
head_dim = 16

[layer.feed_forward]
intermediate = 128

[kinds.deep]
attention = false
state = {kind = "shortconv", d_inner = 64, d_conv = 3}

[kinds.local.attention]
kind = "chunked"
window = 32
head_dim_v = 8

[kinds.global.feed_forward]
experts = 4
active_experts = 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_kinds_overlay_what_all_layers_share(tmp_path: Path) -> None:
    model = model_of(write(tmp_path, GOOD))
    assert model.name == "mine"
    kinds = [layer.kind for layer in model.layers]
    assert kinds == ["recurrent", "chunked", "chunked", "full", "chunked", "chunked", "full"]
    local, everything = model.layers[1], model.layers[3]
    assert local.attention is not None
    assert (local.attention.head_dim_k, local.attention.head_dim_v) == (16, 8)
    assert everything.feed_forward is not None
    assert (everything.feed_forward.intermediate, everything.feed_forward.experts) == (128, 4)
    assert (model.tied_embeddings, model.bytes_per_parameter) == (False, 2.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden = 64", "hiden = 64", "mine.toml: unknown key 'hiden'; did you mean 'hidden'?"),
        ("hidden = 64", "", "mine.toml: 'hidden' is missing"),
        ("hidden = 64", "hidden = 64.5", "hidden must be of type int, not 64.5"),
        ("hidden = 64", "hidden = true", "hidden must be of type int, not True"),
        ("hidden = 64", "hidden = -1", "mine.toml: hidden must be at least 1, not -1"),
        ("hidden = 64", "hidden = 64\nname = 3", "name must be of type str"),
        ("layers = 7", "layers = 70000000", "layers must be from 1 to 10000"),
        ("layers = 7", "layers = 0", "layers must be from 1 to 10000, not 0"),
        ('["deep"]', '["deep", "deep", "deep", "deep", "deep", "deep", "deep", "deep"]', "names 8"),
        ('["deep"]', '"deep"', "'first' must be a list"),
        ('"global"]', '"globl"]', "'pattern' names 'globl'; did you mean 'global'?"),
        ('pattern = ["local", "local", "global"]', "", "'kinds' needs 'pattern'"),
        ("heads = 4", "headz = 4", r"\[kinds.local.attention\]: unknown key 'headz'; .*heads"),
        ("kv_heads = 2", "kv_heads = 3", r"\[kinds.local.attention\]: heads \(4\) must be"),
        (
            "[layer.attention]",
            "[layer.atention]",
            r"\[layer\]: unknown key 'atention'; .*attention",
        ),
        ("attention = false", "attention = 3", r"\[kinds.deep\]: 'attention' must be a table"),
        ("[layer.attention]", "[layer.attention", "mine.toml: is not TOML"),
        ("hidden = 64", "hidden = 64\nbytes_per_parameter = nan", "must be a finite number"),
    ],
)
def test_bad_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError, match=message) as caught:
        model_of(write(tmp_path, GOOD.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


def test_names(tmp_path: Path) -> None:
    assert model_of("Gemma-3-12B") == model_of("gemma-3-12b")
    with pytest.raises(InputError, match="unknown model 'gema-3-12b'; did you mean 'gemma-3-12b'"):
        model_of("gema-3-12b")
    with pytest.raises(InputError, match=r"nowhere.toml: cannot be read: No such file"):
        model_of(tmp_path / "nowhere.toml")
    other = tmp_path / "weights.bin"
    other.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a model is a .toml file"):
        model_of(other)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not TOML"):
        model_of(tmp_path / "binary.toml")

"""Tensor parallelism: what one device holds, and what the devices tell each other."""

from dataclasses import replace
from pathlib import Path

import pytest

from sim.budget import Budget
from sim.hardware import hardware_of
from sim.layers import AttentionSpec, FeedForwardSpec, LayerSpec
from sim.model import ModelSpec
from sim.model_files.lookup import model_of
from sim.plugins import time_model_of
from sim.sharding import all_reduces_of, shard_of
from sim.state import StateSpec
from sim.step import Reads, Work
from sim.timing.exchange import Exchange
from workloads.errors import InputError


def test_llama_70b_on_eight_devices() -> None:
    whole = model_of("llama-3.1-70b")
    part = shard_of(whole, 8)
    (group,) = part.groups()
    # 64 heads and 8 heads of K and V; everything else is divided too.
    assert (group.heads, group.kv_heads, group.layers) == (8, 1, 80)
    assert 8 * part.token_bytes() == whole.token_bytes() == 80 * 2 * 8 * 128 * 2
    assert 8 * part.parameters == whole.parameters
    assert 8 * part.linear_flops_per_token == whole.linear_flops_per_token
    assert 8 * group.pair_flops == whole.groups()[0].pair_flops
    # Behind attention and behind the feed-forward of every layer, and behind the embedding.
    assert all_reduces_of(part) == 2 * 80 + 1


def test_heads_of_k_and_v_are_repeated_where_they_are_fewer() -> None:
    whole = model_of("llama-3.1-70b")
    part = shard_of(whole, 16)
    assert part.token_bytes() == shard_of(whole, 8).token_bytes()
    kv_projections = 2 * 80 * 8192 * 128
    assert 16 * part.parameters == whole.parameters + 8 * kv_projections
    assert shard_of(whole, 1) is whole


def test_latents_and_routers_are_on_every_device() -> None:
    whole = model_of("deepseek-v3")
    part = shard_of(whole, 8)
    assert part.token_bytes() == whole.token_bytes()
    assert part.groups()[0].heads == 16
    layer = whole.layers[-1].attention
    assert layer is not None
    compressed = 61 * 7168 * (512 + 64 + 1536)
    routers = 58 * 7168 * 256
    assert 8 * part.parameters == whole.parameters + 7 * (compressed + routers)


def test_states_are_divided_by_channels() -> None:
    state = StateSpec(kind="mamba2", d_inner=8192, d_state=128, d_conv=4, heads=128, groups=1)
    layers = (LayerSpec(state=state), LayerSpec(feed_forward=FeedForwardSpec(intermediate=64)))
    whole = ModelSpec(name="some", layers=layers, hidden=64, vocab=100)
    part = shard_of(whole, 4)
    # The one group of B and C is on every device.
    assert part.state_bytes == 4 * (3 * (2048 + 2 * 128) + 128 * 2048)
    assert all_reduces_of(part) == 3


def test_what_does_not_divide() -> None:
    attention = AttentionSpec(heads=12, kv_heads=6, head_dim_k=8, head_dim_v=8)
    layer = LayerSpec(attention=attention, feed_forward=FeedForwardSpec(intermediate=50))
    model = ModelSpec(name="odd", layers=(layer,), hidden=64, vocab=100)
    with pytest.raises(InputError, match=r"odd on 5 devices: attention heads \(12\) must be"):
        shard_of(model, 5)
    with pytest.raises(InputError, match=r"on 4 devices: heads of K and V \(6\) must divide"):
        shard_of(model, 4)
    with pytest.raises(InputError, match=r"on 3 devices: feed-forward width \(50\)"):
        shard_of(model, 3)
    assert shard_of(model, 2).vocab == 50


def budget_of(devices: int) -> Budget:
    return Budget(shard_of(model_of("llama-3.1-8b"), devices), bytes=1 << 34, devices=devices)


WORK = Work(tokens=96, sequences=4, reads=(Reads(4000, 4000, 0),), passes=1)


def test_exchange_by_hand() -> None:
    sheet = replace(
        hardware_of("h100"), interconnect_bandwidth=2.0**38, interconnect_latency=2.0**-16
    )
    # 65 all-reduces send 2 * 3/4 of 96 tokens x 4096 x 2 bytes; the all-gather 3/4 of 4 x 128256.
    sent = 65 * 1.5 * 96 * 4096 * 2 + 0.75 * 4 * 128256 * 2
    expected = 66 * 2.0**-16 + sent / 2**38
    assert Exchange(budget_of(4), sheet).seconds(WORK) == pytest.approx(expected, rel=1e-12)


def test_more_devices_are_faster_but_not_as_many_times() -> None:
    times = [time_model_of("roofline", budget_of(n), "h100").seconds(WORK) for n in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[3] < 4
    swap = [
        time_model_of("roofline", budget_of(n), "h100").swap_seconds(1 << 20, True) for n in (1, 8)
    ]
    assert swap[0] == swap[1]


def test_devices_without_a_link_between_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'cpu-16' states no interconnect_bandwidth"):
        time_model_of("roofline", budget_of(2), "cpu-16")
    with pytest.raises(InputError, match="table was measured for whole models"):
        time_model_of(f"table:{tmp_path}", budget_of(2), "h100")

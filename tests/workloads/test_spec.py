"""Workloads by name."""

from pathlib import Path

import pytest

from workloads.arrivals import ClosedLoop, Gamma
from workloads.errors import InputError
from workloads.lengths import Constant, Uniform
from workloads.spec import WORKLOADS, describe, descriptions, workload_of
from workloads.synthetic.batch import Batch
from workloads.synthetic.chat import Chat
from workloads.traces.azure import Azure

AZURE = str(Path(__file__).parent / "data" / "azure.csv")


def test_names_and_options() -> None:
    assert workload_of("chat") == Chat()
    assert workload_of("chat", requests=5, rate=2.0, seed=9) == Chat(requests=5, rate=2.0, seed=9)
    assert workload_of("batch", seed=3, output="constant:tokens=4") == Batch(
        seed=3, output=Constant(4)
    )
    assert workload_of(f"azure:{AZURE}", requests=2, seed=5, speedup="4") == Azure(
        AZURE, requests=2, speedup=4.0
    )


def test_text_is_converted() -> None:
    made = workload_of(
        "chat", turns="3", system="7", arrivals="gamma:cv=4,rate=0.5", user="uniform:low=1,high=3"
    )
    assert made == Chat(turns=3.0, system=7, arrivals=Gamma(0.5, 4.0), user=Uniform(1, 3))
    assert workload_of("chat", rate=None, **{"max-context": "9000"}) == Chat(max_context=9000)


def test_options_in_the_spec() -> None:
    assert workload_of("chat:turns=2,arrivals=closed:clients=3") == Chat(
        turns=2.0, arrivals=ClosedLoop(3)
    )


def test_classes_that_are_not_registered() -> None:
    assert workload_of("workloads.synthetic.chat:Chat:turns=2") == Chat(turns=2.0)
    assert workload_of(f"workloads.traces.azure:Azure:{AZURE}") == Azure(AZURE)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("chatt", {}, "unknown workload 'chatt': there is no such file and no such name; did"),
        ("no.csv", {}, "unknown workload 'no.csv': there is no such file and no such name; known:"),
        ("azur:x.csv", {}, "unknown workload 'azur'; did you mean 'azure'?"),
        ("", {}, "unknown workload ''"),
        ("azure", {}, "reads a file: expected azure:PATH"),
        ("azure:", {}, "reads a file: expected azure:PATH"),
        ("azure:no.csv", {}, "no.csv: cannot be read: No such file or directory"),
        ("chat", {"turn": 3}, "chat has no option 'turn'; did you mean 'turns'?"),
        ("chat", {"xyzzy": 3}, "chat has no option 'xyzzy'; known: arrivals, "),
        ("batch", {"rate": 2.0}, "batch has no option 'rate'"),
        ("chat", {"requests": -1}, "chat: requests: expected a whole number from 1 up to 1e+09"),
        ("chat", {"requests": True}, "got True"),
        ("chat", {"rate": float("nan")}, "chat: rate: expected a finite number"),
        ("chat", {"rate": float("inf")}, "chat: rate: expected a finite number"),
        ("chat", {"turns": "many"}, "chat: turns: expected a finite number from 1 up to 10000"),
        ("chat", {"seed": -1}, "chat: seed:"),
        ("chat", {"user": "lognormul:tokens=3"}, "unknown length distribution 'lognormul'; did"),
        ("chat", {"arrivals": "poison"}, "unknown arrival process 'poison'; did you mean"),
        ("chat:turns", {}, "expected KEY=VALUE"),
        (f"azure:{AZURE}", {"start": -1}, "azure: start: expected a finite number from 0"),
        ("workloads.synthetic.chat:Chta", {}, "workload 'workloads.synthetic.chat:Chta' cannot"),
        ("workloads.lengths:Constant:tokens=3", {}, "is not a workload"),
        ("workloads.prefix:PrefixTree", {}, "expected a dataclass"),
        ("agent", {"max_context": 5000}, "agent: max_context: expected at least 18144"),
        ("rag", {"documents": 10**6, "retrieved": 4}, "expected fewer than 2**62 sequences"),
        ("multi-tenant", {"tenants": "a=chat"}, "expected CLASS@PRIORITY=WORKLOAD; ..., got 'a="),
        ("multi-tenant", {"tenants": "a@0=chta"}, "unknown workload 'chta': there is no such file"),
        ("multi-tenant", {"tenants": "a@0=chat:arrivals=closed"}, "a: expected sessions that st"),
    ],
)
def test_what_cannot_be_made_is_named(spec: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refused:
        workload_of(spec, **options)  # type: ignore[arg-type]
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_listing() -> None:
    built_in = {"alpaca", "azure", "batch", "chat", "jsonl", "long-context", "mooncake", "sharegpt"}
    assert built_in <= set(WORKLOADS.names())
    for each in descriptions():
        assert each.summary.endswith((".", "out.")), each.name
        assert all(line.text for line in each.options), each.name
    chat = describe("chat")
    assert chat.usage == "chat"
    assert ("turns", "4.0") in [(line.name, line.default) for line in chat.options]
    azure = describe("azure")
    assert azure.usage == "azure:PATH"
    assert ("rate", "none") in [(line.name, line.default) for line in azure.options]
    assert "path" not in [line.name for line in azure.options]


@pytest.mark.parametrize(
    "name",
    [
        "agent",
        "alpaca",
        "batch",
        "beam-search",
        "chat",
        "client-mix",
        "code",
        "few-shot",
        "long-context",
        "multi-tenant",
        "parallel-sampling",
        "rag",
        "sharegpt",
    ],
)
def test_registered_names_are_the_classes_own(name: str) -> None:
    assert workload_of(name).name == name

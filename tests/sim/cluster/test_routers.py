"""Routers: who is chosen, by hand."""

import pytest

from sim.cluster.router import ROUTERS, Load, router_of
from workloads.errors import InputError
from workloads.request import Request


def request(i: int, prompt: int = 100, path=None, conversation=None) -> Request:
    return Request(i, 0.0, prompt, 10, path=path, conversation=conversation)


def choices(router, requests, loads) -> list[int]:
    return [router.choose(each, loads) for each in requests]


def test_all_are_found() -> None:
    assert ROUTERS.names() == [
        *("least-loaded", "power-of-two", "prefix-aware", "round-robin", "session-sticky")
    ]
    with pytest.raises(InputError, match="unknown router 'round-robbin'; did you mean"):
        router_of("round-robbin", 2, 0, {})
    with pytest.raises(InputError, match="least-loaded has no option 'of'"):
        router_of("least-loaded", 2, 0, {"of": "tokens"})
    with pytest.raises(InputError, match="is not a router"):
        router_of("sim.cluster.router:Load", 2, 0, {})


def test_round_robin() -> None:
    loads = [Load(9, 9), Load(), Load()]
    router = router_of("round-robin", 3, 0, {})
    assert choices(router, map(request, range(5)), loads) == [0, 1, 2, 0, 1]


def test_least_loaded_by_tokens_or_by_requests() -> None:
    loads = [Load(1, 900), Load(3, 300), Load(3, 300)]
    assert router_of("least-loaded", 3, 0, {}).choose(request(0), loads) == 1
    by_requests = router_of("least-loaded", 3, 0, {"by": "requests"})
    assert by_requests.choose(request(0), loads) == 0


def test_power_of_two_draws_by_its_seed_and_avoids_the_busiest() -> None:
    loads = [Load(0), Load(1), Load(2), Load(3)]
    requests = [request(i) for i in range(200)]
    drawn = choices(router_of("power-of-two", 4, 7, {}), requests, loads)
    assert drawn == choices(router_of("power-of-two", 4, 7, {}), requests, loads)
    assert drawn != choices(router_of("power-of-two", 4, 8, {}), requests, loads)
    # Replica r is chosen when both drawn are r or busier: 3, 2, 1 and 0 of the 6 pairs.
    counts = [drawn.count(replica) for replica in range(4)]
    assert counts[3] == 0
    assert counts[0] > counts[1] > counts[2] > 0
    assert router_of("power-of-two", 1, 0, {}).choose(request(0), loads[:1]) == 0


def test_sticky_sessions() -> None:
    router = router_of("session-sticky", 2, 0, {})
    idle, busy = [Load(), Load()], [Load(5), Load(1)]
    assert router.choose(request(0, conversation=3), idle) == 0
    assert router.choose(request(1, conversation=4), busy) == 1
    # Home is where the first turn was, whatever the load is now.
    assert router.choose(request(2, conversation=3), busy) == 0
    assert router.choose(request(3), busy) == 1


def test_prefix_aware() -> None:
    router = router_of("prefix-aware", 2, 0, {"imbalance": 4})
    even = [Load(), Load()]
    shared = 1
    # Nothing matches: the replica that was sent the fewest tokens, 0 and then 1.
    assert router.choose(request(0, 100, ((shared, 60), (2, 110))), even) == 0
    assert router.choose(request(1, 100, ((9, 110),)), even) == 1
    # 60 of 100 tokens are on replica 0: more than 0.3.
    assert router.choose(request(2, 100, ((shared, 60), (3, 110))), even) == 0
    # 60 of 300 are less than that: replica 1 was sent 100 tokens, replica 0 140.
    assert router.choose(request(3, 300, ((shared, 60), (4, 310))), even) == 1
    # Out of balance, so the prefix does not count.
    assert router.choose(request(4, 100, ((shared, 60), (5, 110))), [Load(5), Load(0)]) == 1
    # By 5 requests, but not by 1.5 times: still in balance. Both were sent the prefix.
    assert router.choose(request(5, 100, ((shared, 60), (6, 110))), [Load(25), Load(20)]) == 0


def test_prefix_aware_counts_only_what_was_sent() -> None:
    router = router_of("prefix-aware", 2, 0, {"threshold": 0.5})
    even = [Load(), Load()]
    # The prompt is 40 of the 110 tokens of branch 1; the output was never sent.
    assert router.choose(request(0, 40, ((1, 50),)), even) == 0
    assert router.choose(request(1, 100, ((1, 110),)), even) == 1
    assert router.choose(request(2, 100, ((1, 110),)), even) == 1
    assert router.choose(request(3, 100), even) == 0

"""Names, addresses, and look-ups in threads that may hang."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.loop import Loop
from host.resolver import MAX_ADDRESSES, MAX_WAITING, Answer, Resolver, literal, matches, normal_host, permitted


@pytest.mark.parametrize(
    ("untrusted", "expected"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("my_host.local", "my_host.local"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::FFFF:7f00:1", "::ffff:127.0.0.1"),
        # IDNA makes digits and dots of these, and so an address of a name.
        ("127\u30020\u30020\u30021", "127.0.0.1"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
    ],
)
def test_hosts_have_one_spelling(untrusted: str, expected: str) -> None:
    found = normal_host(untrusted)
    assert found is not None
    assert found == str(literal(expected) or expected)


NO_HOSTS = [
    *("", ".", "..", "a..b", ".a", "a b", "a\0b", "a\nb", "a/b", "user@a", "a:80", "-a.test", "a-.test", "*", "*.test"),
    *("fe80::1%eth0", "[::1", "[a]", "a%b", "xn--ü", "\ud800", "x" * 64 + ".test", "a." * 127 + "toolong", "ü" * 300),
]


@pytest.mark.parametrize("untrusted", NO_HOSTS)
def test_what_is_no_host(untrusted: str) -> None:
    assert normal_host(untrusted) is None


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_host_or_not(untrusted: str) -> None:
    for text in (untrusted, untrusted + ".test", f"[{untrusted}]"):
        found = normal_host(text)
        if found is not None:
            assert found.isascii()
            assert normal_host(found) == found


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("example.com", "example.com", True),
        ("Example.com.", "example.com", True),
        ("example.com", "www.example.com", False),
        ("example.com", "example.com.evil.test", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*.bücher.example", "www.xn--bcher-kva.example", True),
        ("10.0.0.5", "10.0.0.5", True),
        ("::1", "::1", True),
        ("*.0.0.5", "10.0.0.5", False),
        ("*.", "example.com", False),
        ("*", "example.com", False),
        ("", "example.com", False),
    ],
)
def test_patterns(pattern: str, host: str, expected: bool) -> None:
    assert matches(pattern, host) is expected


# Every range that IANA's registries of special addresses name as not globally reachable, and what carries one.
NOT_GLOBAL = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "127.0.0.1", "127.255.255.255",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:a00:1::", "2002:c0a8:101::1", "2002:e000:1::", "3fff::1", "5f00::1", "4000::1",
    "fc00::1", "fd00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "not-an-address", "127.1",
]  # fmt: skip
GLOBAL = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "192.0.1.1", "198.20.0.1",
    "223.255.255.254", "2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_GLOBAL)
def test_what_is_not_global_is_refused(address: str) -> None:
    assert permitted(address, ()) is None
    assert permitted(address, ("203.0.114.0/24", "2a00::/16")) is None


@pytest.mark.parametrize("address", GLOBAL)
def test_what_is_global_is_permitted(address: str) -> None:
    assert permitted(address, ()) == str(literal(address))


def test_a_mapped_address_is_judged_and_connected_to_as_what_it_is() -> None:
    assert permitted("::ffff:8.8.8.8", ()) == "8.8.8.8"
    assert permitted("::ffff:10.0.0.1", ["10.0.0.0/8"]) == "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "network", "expected"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.9/24", True),
        ("10.1.2.3", "10.1.3.0/24", False),
        ("10.1.2.3", "::/0", False),
        ("127.0.0.1", "10.0.0.0/8", False),
        ("fd00::5", "fd00::/8", True),
        ("fe80::1%eth0", "fe80::/10", False),
        ("64:ff9b::10.1.2.3", "10.0.0.0/8", True),
        ("2002:a01:203::1", "10.0.0.0/8", True),
        ("2002:a01:203::1", "2002::/16", True),
    ],
)
def test_a_network_that_was_named_is_permitted(address: str, network: str, expected: bool) -> None:
    assert permitted(address, [network]) == (str(literal(address)) if expected else None)


@settings(deadline=None)
@given(st.ip_addresses() | st.text())
def test_any_address_is_permitted_or_not(address: Any) -> None:
    found = permitted(str(address), ())
    assert found is None or literal(found) is not None


# --- look-ups ----------------------------------------------------------------------------------------


class Names:
    """A resolver whose answers the test holds back until it lets them go."""

    def __init__(self, loop: Loop, seconds: float = 5.0) -> None:
        self.loop = loop
        self.go = threading.Event()
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.answers: list[Answer] = []
        self.resolver = Resolver(loop, threads=4, lookup=self.lookup, seconds=seconds)

    def lookup(self, host: str, port: int, **_: Any) -> list[Any]:
        self.threads.add(threading.get_ident())
        self.asked.append(host)
        if host.startswith("slow"):
            self.go.wait(10)
        if host == "none.test":
            raise socket.gaierror(-2, "Name or service not known")
        if host == "odd.test":
            raise UnicodeError("label too long")
        return [(2, 1, 6, "", (f"192.0.2.{n % 7}", port)) for n in range(30)]

    def ask(self, host: str, lane: str = "tool") -> Any:
        return self.resolver.resolve(host, 80, self.answers.append, lane)

    def until(self, count: int) -> None:
        end = self.loop.now() + 10
        while len(self.answers) < count:
            assert self.loop.now() < end
            self.loop.call_later(0.01, lambda: None)
            self.loop.step()


@pytest.fixture
def names(loop: Loop) -> Iterator[Names]:
    made = Names(loop)
    yield made
    made.go.set()
    made.resolver.close()


def test_an_answer_is_a_short_list_without_repeats(names: Names) -> None:
    names.ask("a.test")
    names.until(1)
    assert names.answers == [[f"192.0.2.{n}" for n in range(7)]]
    assert len(names.answers[0]) <= MAX_ADDRESSES


def test_a_failure_is_a_text(names: Names) -> None:
    names.ask("none.test")
    names.until(1)
    names.ask("odd.test")
    names.until(2)
    assert names.answers == ["none.test: Name or service not known", "odd.test: the name cannot be looked up"]


def test_an_address_is_its_own_answer_but_never_from_inside_the_call(names: Names) -> None:
    names.ask("::1")
    assert not names.answers
    names.until(1)
    assert names.answers == [["::1"]]
    assert not names.asked


def test_a_cancelled_lookup_is_silent_and_costs_no_thread(names: Names) -> None:
    for number in range(20):
        names.ask(f"slow{number}.test").cancel()
    names.go.set()
    names.ask("a.test")
    names.until(1)
    assert len(names.answers) == 1
    assert len(names.asked) <= 4


def test_names_that_hang_neither_block_nor_grow_nor_hold_up_the_model(loop: Loop) -> None:
    names = Names(loop, seconds=0.3)
    for number in range(3 + MAX_WAITING + 50):
        names.ask(f"slow{number}.test")
    names.ask("model.test", lane="model")
    names.until(51)
    assert names.answers.count("too many names are being looked up") >= 47
    assert [f"192.0.2.{n}" for n in range(7)] in names.answers
    names.until(3 + MAX_WAITING + 51)
    assert any("in time" in answer for answer in names.answers)
    assert len(names.threads) <= 4
    names.go.set()
    names.resolver.close()


def test_an_answer_after_the_time_limit_or_the_end_is_dropped(loop: Loop) -> None:
    names = Names(loop, seconds=0.05)
    names.ask("slow.test")
    names.until(1)
    assert names.answers == ["slow.test: no answer from the resolver in time"]
    names.ask("slow2.test")
    names.resolver.close()
    names.go.set()
    end = loop.now() + 0.2
    while loop.now() < end:
        loop.call_later(0.01, lambda: None)
        loop.step()
    assert len(names.answers) <= 2


def test_the_system_s_own_resolver_knows_localhost(loop: Loop) -> None:
    names = Names(loop)
    names.resolver = Resolver(loop)
    names.ask("localhost")
    names.until(1)
    assert set(names.answers[0]) <= {"127.0.0.1", "::1"}
    names.resolver.close()

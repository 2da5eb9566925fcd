"""Who is calling, by the headers of proxies, and what a client cannot do about it."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.address import IPAddress, Source
from relayd.wire.forwarded import Contradiction, forwarded_source

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def trusted(address: IPAddress) -> bool:
    return any(address in network for network in TRUSTED)


def by_x_forwarded_for(*values: bytes) -> Source | None:
    return forwarded_source(values, [], trusted)


def by_forwarded(*values: bytes) -> Source | None:
    return forwarded_source([], values, trusted)


def source(text: str, port: int = 0) -> Source:
    return Source(ip_address(text), port)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((), None),
        ((b"",), None),
        ((b" , ,",), None),
        ((b"192.0.2.7",), source("192.0.2.7")),
        ((b"192.0.2.7:5000",), source("192.0.2.7", 5000)),
        ((b"2001:db8::9",), source("2001:db8::9")),
        ((b"2001:DB8:0::9",), source("2001:db8::9")),
        ((b"[2001:db8::9]",), source("2001:db8::9")),
        ((b"[2001:db8::9]:5000",), source("2001:db8::9", 5000)),
        ((b"::ffff:192.0.2.7",), source("192.0.2.7")),
        ((b"6.6.6.6, 192.0.2.7",), source("192.0.2.7")),
        ((b"6.6.6.6,192.0.2.7\t,\t10.0.0.1",), source("192.0.2.7")),
        ((b"6.6.6.6", b"192.0.2.7"), source("192.0.2.7")),
        ((b"6.6.6.6, 192.0.2.7", b"10.0.0.1, fd00::1"), source("192.0.2.7")),
        ((b"192.0.2.7, ::ffff:10.0.0.1",), source("192.0.2.7")),
        ((b"10.0.0.3, 10.0.0.2, 10.0.0.1",), source("10.0.0.3")),
        ((b"192.0.2.7, , ",), source("192.0.2.7")),
        # What is malformed ends the walk at the last address that can be relied on.
        ((b"6.6.6.6, unknown, 10.0.0.1:9",), source("10.0.0.1", 9)),
        ((b"6.6.6.6, unknown",), None),
        ((b"6.6.6.6, unix:",), None),
        ((b"6.6.6.6, 192.0.2.07",), None),
        ((b"6.6.6.6, 192.0.2",), None),
        ((b"6.6.6.6, 192.0.2.7:65536",), None),
        ((b"6.6.6.6, 192.0.2.7:",), None),
        ((b"6.6.6.6, 192.0.2.7:+1",), None),
        ((b"6.6.6.6, fe80::1%eth0",), None),
        ((b"6.6.6.6, [192.0.2.7]",), None),
        ((b"6.6.6.6, [2001:db8::9",), None),
        ((b"6.6.6.6, 2001:db8::9]:1",), None),
        ((b"6.6.6.6, 192.0.2.7 10.0.0.1",), None),
        ((b'6.6.6.6, "192.0.2.7"',), None),
        ((b"6.6.6.6, \xd9\xa1.1.1.1",), None),
        ((b"6.6.6.6, 192.0.2.7\0",), None),
        ((b"6.6.6.6, localhost",), None),
        ((b"6.6.6.6, 1",), None),
    ],
)
def test_x_forwarded_for_is_walked_from_the_right_to_the_first_that_is_no_proxy(
    values: tuple[bytes, ...], found: Source | None
) -> None:
    assert by_x_forwarded_for(*values) == found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((b"for=192.0.2.7",), source("192.0.2.7")),
        ((b"For=192.0.2.7;proto=https;by=203.0.113.43",), source("192.0.2.7")),
        ((b"by=203.0.113.43;FOR=192.0.2.7",), source("192.0.2.7")),
        ((b";;for=192.0.2.7;",), source("192.0.2.7")),
        ((b'for="192.0.2.7"',), source("192.0.2.7")),
        ((b'for="192.0.2.7:5000"',), source("192.0.2.7", 5000)),
        ((b'for="\\192.0.2\\.7"',), source("192.0.2.7")),
        ((b'for="[2001:db8::9]"',), source("2001:db8::9")),
        ((b'for="[2001:db8::9]:5000"',), source("2001:db8::9", 5000)),
        ((b'for="192.0.2.7:_port"',), source("192.0.2.7")),
        ((b'for="[::ffff:192.0.2.7]"',), source("192.0.2.7")),
        ((b"for=6.6.6.6, for=192.0.2.7 ,\tfor=10.0.0.1",), source("192.0.2.7")),
        ((b"for=6.6.6.6", b"for=192.0.2.7", b"for=10.0.0.1,"), source("192.0.2.7")),
        ((b'for=192.0.2.7;host="a,b", for=10.0.0.1;host="for=6.6.6.6,for=6.6.6.6"',), source("192.0.2.7")),
        ((b'for=192.0.2.7;x="a\\", for=6.6.6.6;y=\\"b"',), source("192.0.2.7")),
        ((b'for=192.0.2.7;x=";for=6.6.6.6"',), source("192.0.2.7")),
        # Quotes that a client opened do not swallow what its proxy appended.
        ((b'for=6.6.6.6;x=", for=192.0.2.7',), source("192.0.2.7")),
        ((b'for="6.6.6.6, for="[2001:db8::9]:80"',), source("2001:db8::9", 80)),
        ((b'for=6.6.6.6;x="\\, for="192.0.2.7";y="z"',), source("192.0.2.7")),
        # What hides, or is malformed, ends the walk at the last address that can be relied on.
        ((b"for=6.6.6.6, for=unknown",), None),
        ((b"for=6.6.6.6, for=_hidden, for=10.0.0.1",), source("10.0.0.1")),
        ((b'for=6.6.6.6, for="_hidden:80"',), None),
        ((b"for=6.6.6.6, by=10.0.0.1",), None),
        ((b"for=6.6.6.6, for=192.0.2.7;for=6.6.6.6",), None),
        ((b"for=6.6.6.6, for=192.0.2.7:5000",), None),
        ((b"for=6.6.6.6, for=[2001:db8::9]",), None),
        ((b'for=6.6.6.6, for="2001:db8::9"',), None),
        ((b"for=6.6.6.6, for=192.0.2.7; proto=https",), None),
        ((b"for=6.6.6.6, for =192.0.2.7",), None),
        ((b"for=6.6.6.6, 192.0.2.7",), None),
        ((b'for=6.6.6.6, for="192.0.2.7',), None),
        ((b'for=6.6.6.6, for="192.0.2.7" x',), None),
        ((b"for=6.6.6.6, for=192.0.2.7\0",), None),
        ((b'for=6.6.6.6, for="192.0.2.7\x7f"',), None),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(values: tuple[bytes, ...], found: Source | None) -> None:
    assert by_forwarded(*values) == found


CLIENTS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(
    lambda address: getattr(address, "ipv4_mapped", None) or address
)
STRANGERS = CLIENTS.filter(lambda address: not trusted(address))
LIES = st.one_of(
    st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n\0")),
    st.text('for=",;\\ 16.:[]_-x', max_size=60).map(str.encode),
)


def as_x_forwarded_for(address: IPv4Address | IPv6Address, port: int) -> bytes:
    if not port:
        return str(address).encode()
    return (f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}").encode()


def as_forwarded(address: IPv4Address | IPv6Address, port: int) -> bytes:
    node = f"[{address}]" if address.version == 6 else str(address)
    node = f"{node}:{port}" if port else node
    return (f'for="{node}"' if ":" in node else f"for={node}").encode()


@settings(deadline=None)
@given(
    st.lists(LIES, max_size=3),
    STRANGERS,
    st.integers(0, 65535),
    st.sampled_from(
        [b"", b";proto=https", b';by="[fd00::1]:443"', b';host="a,\\" for=6.6.6.6";by=_b', b';x=""']
    ),
    st.lists(st.sampled_from(["10.0.0.1", "fd00::2"]), max_size=2),
    st.booleans(),
)
def test_nothing_that_a_client_sends_changes_whom_it_is_taken_for(
    lies: list[bytes], client: IPv4Address, port: int, extra: bytes, proxies: list[str], on_a_line: bool
) -> None:
    """Proxies append to the client's last line or add lines of their own."""
    hops = [(client, port), *((ip_address(proxy), 0) for proxy in proxies)]
    for write, read in ((as_x_forwarded_for, by_x_forwarded_for), (as_forwarded, by_forwarded)):
        written = [write(*hop) + (extra if write is as_forwarded else b"") for hop in hops]
        lines = [*lies[:-1], b", ".join([*lies[-1:], *written])] if on_a_line else [*lies, *written]
        assert read(*lines) == Source(client, port)


@settings(deadline=None)
@given(st.lists(LIES, max_size=4), st.lists(LIES, max_size=4))
def test_no_values_make_it_fail(one: list[bytes], other: list[bytes]) -> None:
    for old, new in ((one, []), ([], other), (one, other)):
        try:
            found = forwarded_source(old, new, trusted)
        except Contradiction:
            assert old
            assert new
        else:
            assert found is None or isinstance(found, Source)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (b"192.0.2.7", b"for=192.0.2.7", source("192.0.2.7")),
        (b"192.0.2.7", b'for="192.0.2.7:5000"', source("192.0.2.7", 5000)),
        (b"::ffff:192.0.2.7", b'for="192.0.2.7:5000"', source("192.0.2.7", 5000)),
        (b"192.0.2.7, 10.0.0.1", b"for=192.0.2.7", source("192.0.2.7")),
        (b"192.0.2.7", b" , ", source("192.0.2.7")),
        (b"", b"for=192.0.2.7", source("192.0.2.7")),
        (b"unknown", b"for=_hidden", None),
    ],
)
def test_two_headers_that_agree_are_as_good_as_one(old: bytes, new: bytes, found: Source | None) -> None:
    assert forwarded_source([old], [new], trusted) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"6.6.6.6", b"for=192.0.2.7"),
        (b"192.0.2.7", b"for=6.6.6.6"),
        (b"10.0.0.1", b"for=192.0.2.7"),
        (b"192.0.2.7", b"for=_hidden"),
        (b"unknown", b"for=192.0.2.7"),
        (b"192.0.2.7", b'"'),
        (b"6.6.6.6, 192.0.2.7", b"for=192.0.2.7, for=6.6.6.6"),
    ],
)
def test_two_headers_that_disagree_are_a_contradiction(old: bytes, new: bytes) -> None:
    """Neither wins: a client forges the one that its proxy does not write."""
    with pytest.raises(Contradiction):
        forwarded_source([old], [new], trusted)


@pytest.mark.parametrize(
    "lines", [[b"," * 100], [b"," * 60, b"", b"," * 40], [b", ," * 25, b"10.0.0.1" + b",\t" * 50]]
)
def test_of_a_list_the_last_100_commas_are_looked_through_and_no_more(lines: list[bytes]) -> None:
    """A client behind a proxy that passes its list on may have filled a whole head with commas."""
    last = source("10.0.0.1") if b"10" in lines[-1] else None
    for prefix, read in ((b"", by_x_forwarded_for), (b"for=", by_forwarded)):
        client = prefix + b"192.0.2.7"
        more = [line.replace(b"10", prefix + b"10", 1) for line in lines]
        assert read(client + more[0], *more[1:]) == read(client, *more) == source("192.0.2.7")
        assert read(client + b"," + more[0], *more[1:]) == read(client + b",", *more) == last
        assert read(client, b"x" + more[0], *more[1:]) == last


def test_a_list_that_is_longer_is_one_that_says_something() -> None:
    with pytest.raises(Contradiction):
        forwarded_source([b"192.0.2.7"], [b"," * 101], trusted)
    assert forwarded_source([b"192.0.2.7"], [b"," * 100], trusted) == source("192.0.2.7")


@pytest.mark.parametrize(
    "lie", [b" ", b",", b";", b"a=b;", b"a=b,", b'x="a,', b'a="\\",', b'a="\\"', b'"', b"\t;,"]
)
def test_a_value_full_of_lies_is_read_in_time_that_grows_with_its_length_alone(lie: bytes) -> None:
    """It is 32 times as long as a request head may be: with squares in it, nobody would see the end of this."""
    value = lie * (512 * 1024 // len(lie)) + b"@, for=10.0.0.1"
    assert by_forwarded(value) == by_x_forwarded_for(value.replace(b"for=", b"")) == source("10.0.0.1")

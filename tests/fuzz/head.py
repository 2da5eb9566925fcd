"""The request head: nothing is taken that h11 refuses or reads otherwise, nothing honest is refused."""

import re

from attrs import evolve

from relayd.wire.head import BadHead, Head, may_become_head, parse_head
from relayd.wire.upgrade import BadHeaders, binary_hello, phone_hello
from tests.wire.oracles import h11_reading

LONGEST = 1_000
WORDS = (
    b"GET /v1/client HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Host: ",
    b"HTTP/1.0",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\r\n\t",
    b": ",
    b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Upgrade: websocket\r\n",
    b"User-Agent: a\r\n",
    b"X-Pyrycode-Server: a\r\n",
    b"X-Pyrycode-Version: 1\r\n",
    b"X-Pyrycode-Token: a\r\n",
    b"X-Pyrycode-Device-Name: ",
    b"http://a/",
)

_CONTROLS = bytes(byte for byte in range(0x20) if byte not in b"\t\r\n") + b"\x7f"
_WITHOUT_CONTROLS = bytes.maketrans(_CONTROLS, b"x" * len(_CONTROLS))
_END = b"\r\n\r\n"


def check(data: bytes) -> None:
    """Read ``data`` up to its first empty line as a request head."""
    end = data.find(_END)
    _check_that_it_comes_in_pieces(data if end < 0 else data[:end])
    if end < 0:
        return
    data = data[: end + len(_END)]
    try:
        head = parse_head(data)
    except BadHead:
        theirs = h11_reading(data)
        assert theirs is None or _is_forgiven_by_h11(data, theirs)
        return
    # While it came in, nobody may have found that it cannot become a head.
    assert [cut for cut in range(len(data)) if not may_become_head(data[:cut])] == []
    # h11 refuses control characters in values, which are kept here for whoever escapes them.
    printable = data.translate(_WITHOUT_CONTROLS)
    assert _as_h11_writes_it(parse_head(printable)) == h11_reading(printable)
    _check_greetings(head)


def _check_that_it_comes_in_pieces(data: bytes) -> None:
    """The first half and then the rest: what is known of the one makes no difference."""
    half = len(data) // 2
    if may_become_head(data[:half]):
        assert may_become_head(data, half) == may_become_head(data)


def _as_h11_writes_it(head: Head) -> Head:
    fields = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in head.fields]
    return evolve(head, fields=fields)


def _is_forgiven_by_h11(data: bytes, theirs: Head) -> bool:
    """Whether ``data`` has one of the shapes that h11 lets pass and that we refuse on purpose."""
    fields = re.split(rb"\r?\n", data)
    lengths = re.findall(rb"(?im)^content-length[ \t]*:(.*)", data)
    return (
        re.search(rb"(?<!\r)\n", data) is not None
        # Folding, and white space around the name of a field.
        or any(line[:1] in (b" ", b"\t") for line in fields[1:])
        or re.search(rb"(?m)^[^:\r\n]*[ \t]+:", data.partition(b"\n")[2]) is not None
        # Targets that are no path, and other versions.
        or re.match(rb"[^ ]+ /[^ ]* HTTP/1\.[01]\r\n", data) is None
        or len(lengths) > 1
        or any(b"," in length or len(length) > 18 for length in lengths)
        or (theirs.values(b"transfer-encoding") != [] and (lengths != [] or theirs.minor_version == 0))
    )


def _check_greetings(head: Head) -> None:
    """Whatever the routing headers are, they are refused in one way, or fit to be shown and bounded."""
    try:
        binary = binary_hello(head.fields)
    except BadHeaders:
        pass
    else:
        assert 0 < len(binary.server_id) <= 128
        assert binary.server_id.isascii()
        assert binary.server_id.isprintable()
        _check_shown(binary.version)
        assert head.values(b"x-pyrycode-server") == [binary.server_id.encode()]
    for require_token in (True, False):
        try:
            phone = phone_hello(head.fields, require_token=require_token)
        except BadHeaders:
            continue
        assert head.values(b"x-pyrycode-token") or not require_token
        assert head.values(b"x-pyrycode-server") == [phone.server_id.encode()]
        _check_shown(phone.device_name)


def _check_shown(text: str) -> None:
    # The longest escape is that of a character beyond 16 bits: 10 characters for one.
    assert len(text) <= 128 * 10
    assert not set(text) & {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E)}

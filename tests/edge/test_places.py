"""Places on a listener that one or two are to reach at any time."""

import socket

import pytest
import trio

from relayd.edge.places import Places
from relayd.edge.stream import PlainStream
from relayd.ops.events import Event, InternalError


@pytest.mark.parametrize("grouped", [False, True])
async def test_what_goes_wrong_for_one_is_reported_and_costs_nobody_else(grouped: bool) -> None:
    events: list[Event] = []
    places = Places(1, "scrapes", "metrics", events.append)
    for _ in range(2):
        ours, theirs = socket.socketpair()
        with theirs:
            with places.serving(PlainStream(ours)):
                await trio.lowlevel.checkpoint()
                raise ExceptionGroup("", [ZeroDivisionError()]) if grouped else ZeroDivisionError
            assert theirs.recv(1) == b""
    # Nor is a place lost by it: nobody has had to make room.
    assert len(events) == 2
    for event in events:
        assert isinstance(event, InternalError)
        assert event.remote == "metrics"
        assert event.error.startswith("ZeroDivisionError")

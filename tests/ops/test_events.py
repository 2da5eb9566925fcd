"""What every event must have to be logged."""

import re
import string

import pytest
from attrs import fields

from relayd.ops import events
from relayd.ops.events import Event, event_types
from relayd.ops.journal import as_entry
from relayd.ops.lines import as_json, as_text
from tests.ops.examples import HOSTILE, example

UNLIMITED = {
    "certificate_loaded",
    "certificate_refused",
    "listening",
    "capacity",
    "descriptors_missing",
    "memory_missing",
    "metrics_listening",
    "admin_listening",
    "buffers_bounded",
    "admin_unavailable",
    "journal_unavailable",
    "challenges_listening",
    "acme_account_opened",
    "certificate_awaited",
    "certificate_restored",
    "certificate_issued",
    "certificate_renewed",
    "certificate_failed",
    "state_not_kept",
    "operator_closed",
    "operator_evicted",
    "reloaded",
    "reload_refused",
    "draining",
    "stopped",
    "entries_withheld",
    "entries_lost",
}
"""What an operator causes, or relayd itself; strangers cause all the rest."""


def test_every_event_that_can_be_imported_is_in_the_table() -> None:
    exported = {
        value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)
    }
    assert exported - {Event} == set(event_types())


def test_every_event_has_a_message_id_of_its_own() -> None:
    missing = [event.name for event in event_types() if "message_id" not in vars(event)]
    assert missing == [], "write one beside each, from: systemd-id128 new"
    ids = [event.message_id for event in event_types()]
    assert all(re.fullmatch("[0-9a-f]{32}", message_id) for message_id in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("event_type", event_types())
def test_a_message_has_no_fields_but_those_of_its_event(event_type: type[Event]) -> None:
    used = {name for _, name, _, _ in string.Formatter().parse(event_type.message) if name is not None}
    assert used <= {attribute.name for attribute in fields(event_type)}


@pytest.mark.parametrize("event_type", event_types())
def test_names_of_fields_are_names_that_journald_takes(event_type: type[Event]) -> None:
    for attribute in fields(event_type):
        assert re.fullmatch("[A-Z][A-Z0-9_]{0,63}", f"RELAYD_{attribute.name.upper()}")


def test_whatever_strangers_can_cause_has_a_limit() -> None:
    assert {event.name for event in event_types() if event.limit is None} == UNLIMITED


@pytest.mark.parametrize("event_type", event_types())
def test_no_value_can_steer_a_terminal_or_begin_a_line(event_type: type[Event]) -> None:
    line = as_text(colour=False)(example(event_type, HOSTILE)).decode()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    message = next(part for part in as_entry(example(event_type, HOSTILE)).split(b"\n") if b"MESSAGE" in part)
    assert message.decode().isprintable()


@pytest.mark.parametrize("event_type", event_types())
def test_every_value_makes_one_line_of_json(event_type: type[Event]) -> None:
    line = as_json(example(event_type, HOSTILE))
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")

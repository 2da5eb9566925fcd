"""All events, and the table of them in `docs/events.md`."""

from attrs import fields

from relayd.ops.events import admin, certificates, faults, life, limits, peers, refusals
from relayd.ops.events.event import Event

_SUBJECTS = (life, admin, certificates, refusals, limits, peers, faults)


def event_types() -> list[type[Event]]:
    """Every event, subject by subject, in the order of their files."""
    found = [value for subject in _SUBJECTS for value in vars(subject).values()]
    return [
        value for value in found if isinstance(value, type) and issubclass(value, Event) and value is not Event
    ]


def as_markdown() -> str:
    """The table of `docs/events.md`."""
    rows = ["| event | level | fields | when | logged at most | MESSAGE_ID |", "|---|---|---|---|---|---|"]
    for event in event_types():
        names = ", ".join(f"`{attribute.name}`" for attribute in fields(event))
        limit = f"{event.limit.burst:,}, then {event.limit.per_second:g}/s" if event.limit else ""
        rows.append(
            f"| `{event.name}` | {event.level} | {names} | {event.__doc__} | {limit} | `{event.message_id}` |"
        )
    return "\n".join(rows)

"""Events to log, and bytes to find again."""

from attrs import fields

from relayd.ops.events import Event, PhoneRegistered, PhoneUnregistered

REGISTERED = PhoneRegistered("demo", "c-1", "192.0.2.1:5", "Pixel 8")
UNREGISTERED = PhoneUnregistered("demo", "c-1", "192.0.2.1:5", 1011, "relay", "phone backlog full")

HOSTILE = 'a b="c"\n\r\0\x1b[31m\x7f\x9b\u202e\u2028\U000e0041\\ \udc80{server_id}'
"""What an event would hold if the edge let everything through."""


def example(event_type: type[Event], text: str = "text", number: int = 7) -> Event:
    """An event of this type whose every field has this text, or this number."""
    values = [number if attribute.type is int else text for attribute in fields(event_type)]
    return event_type(*values)

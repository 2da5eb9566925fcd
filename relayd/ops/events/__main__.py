"""Prints the table of `docs/events.md`."""

from relayd.ops.events.table import as_markdown

print(as_markdown())

"""What the documents say of the code is what the code says."""

from pathlib import Path

from attrs import fields

from relayd.ops.events import as_markdown
from relayd.settings import Settings

ROOT = Path(__file__).parent.parent


def test_events_document_holds_the_table_of_the_event_types() -> None:
    assert as_markdown() in (ROOT / "docs/events.md").read_text()


def test_readme_names_every_flag() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [a.name for a in fields(Settings) if f"`--{a.name.replace('_', '-')}" not in readme]
    assert missing == []

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


def test_architecture_names_every_file_in_its_room() -> None:
    rooms = (ROOT / "docs/architecture.md").read_text().partition("```\nrelayd/\n")[2].partition("```")[0]
    listed, folder = set(), ""
    for line in rooms.splitlines():
        name = line.split()[0]
        if not line.startswith("    "):
            folder = name if name.endswith("/") else ""
        listed.add(f"{'' if name == folder else folder}{name}")
    # A command is found by its name.
    there = {str(file.relative_to(ROOT / "relayd")) for file in (ROOT / "relayd").rglob("[!_]*.py")}
    assert {file for file in there if not file.startswith("commands/")} - listed == set()
    assert {file for file in listed if file.endswith(".py")} - there == set()

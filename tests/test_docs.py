"""What the documents say of the code is what the code says."""

import re
import shlex
from pathlib import Path

import pytest
import trustme
from attrs import fields

from relayd.cli import main
from relayd.ops.events import as_markdown
from relayd.setting import flag_of, setting_of, shown
from relayd.settings import Settings

ROOT = Path(__file__).parent.parent


def test_events_document_holds_the_table_of_the_event_types() -> None:
    assert as_markdown() in (ROOT / "docs/events.md").read_text()


def test_readme_names_every_flag() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [a.name for a in fields(Settings) if f"`--{a.name.replace('_', '-')}" not in readme]
    assert missing == []


def test_flags_of_every_command_of_the_readme_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trustme.CA().issue_cert("relay.example.org")
    made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "key.pem").chmod(0o600)
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"`relayd (--[^`]+)`", readme) + re.findall(r'make run ARGS="([^"]+)"', readme)
    assert "--listen :8443 --tls-cert chain.pem --tls-key key.pem" in commands
    for flags in commands:
        assert main(["check", "--config", "/dev/null", *shlex.split(flags)]) == 0, flags
        shown = capsys.readouterr().out
        assert ("--tls-cert" in flags) == (f" {tmp_path}/chain.pem " in shown), shown


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


def test_security_has_the_default_and_the_floor_of_every_limit() -> None:
    text = (ROOT / "docs/security.md").read_text()
    for attribute in fields(Settings):
        weakest = setting_of(attribute).weakest
        if weakest is not None:
            flag, default = flag_of(attribute.name), shown(attribute.default)
            assert f"\n| `--{flag}` | {default} | {weakest:.12g} | " in text, flag


def test_every_test_that_security_names_is_run_by_what_it_says() -> None:
    text = (ROOT / "docs/security.md").read_text()
    of_acme = re.findall(r"tests/acme/\w+\.py", (ROOT / "Makefile").read_text())
    sources = {
        "": [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")],
        "†": [(ROOT / path).read_text() for path in of_acme],
    }
    # A name may be cut off by …, or have parameters.
    named = set(re.findall(r"`(test_[a-z0-9_]+)(?:[\[…][^`]*)?`(†?)", text))
    assert len([name for name, mark in named if not mark]) > 100
    assert len([name for name, mark in named if mark]) > 3
    lost = {name for name, mark in named if not any(f"def {name}" in source for source in sources[mark])}
    assert lost == set()


def test_every_link_to_a_heading_leads_to_one() -> None:
    pages = {path.name: path.read_text() for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]}
    anchors = {
        name: {
            re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
            for line in re.findall(r"^#+ .+$", text, re.MULTILINE)
        }
        for name, text in pages.items()
    }
    for name, text in pages.items():
        for target, anchor in re.findall(r"\]\((?:docs/|\.\./)?([\w.-]*\.md)?#([\w-]+)\)", text):
            assert anchor in anchors[target or name], f"{name}: {target}#{anchor}"

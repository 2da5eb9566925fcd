"""What CI and releases get from PyPI: exactly what requirements/ says, and nobody is asked in vain about it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parent.parent
PINS: Final = sorted((ROOT / "requirements").glob("*.txt"))

_PIN: Final = re.compile(
    r"([a-z0-9-]+)==(\S+)(?: ; ([^\\\n]+))? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|\n))+"
)
"""A name, a version, a marker, and hashes."""

FAKE_AUDIT: Final = """
import os, sys
service = sys.argv[sys.argv.index("--vulnerability-service") + 1]
knows, vulnerable = os.environ["KNOWS"].split(","), os.environ["VULNERABLE"] == "yes"
if service not in knows:
    sys.exit("no route to host")
if any("known-bad" in argument for argument in sys.argv):
    print("PYSEC-2018-28")
    sys.exit(1)
assert "--strict" in sys.argv
print("asked about", sys.argv[-1])
sys.exit(vulnerable)
"""


def pinned(path: Path) -> dict[str, str]:
    """Names and versions of what it pins for the likes of us."""
    pins = list(_PIN.finditer(path.read_text()))
    return {pin[1]: pin[2] for pin in pins if pin[3] is None or Marker(pin[3]).evaluate()}


def demanded(project: dict[str, Any], *groups: str, extras: bool = True) -> list[Requirement]:
    found = [Requirement(line) for line in project["project"]["dependencies"]]
    for lines in project["project"]["optional-dependencies"].values() if extras else ():
        found += [Requirement(line) for line in lines]
    for group in groups:
        for line in project["dependency-groups"][group]:
            included = (
                demanded(project, line["include-group"]) if isinstance(line, dict) else [Requirement(line)]
            )
            found += included
    return found


@pytest.mark.parametrize(
    ("name", "groups", "extras"), [("runtime", (), False), ("acme", (), True), ("ci", ("dev", "release"), True)]
)
def test_all_that_the_project_asks_for_is_pinned_to_what_it_accepts(
    name: str, groups: tuple[str, ...], extras: bool
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = pinned(ROOT / "requirements" / f"{name}.txt")
    stale = [
        str(requirement)
        for requirement in demanded(project, *groups, extras=extras)
        if pins.get(canonicalize_name(requirement.name)) is None
        or not requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    ]
    assert stale == [], "run `make pins`"


def test_ci_tests_with_what_releases_are_made_of() -> None:
    ci = pinned(ROOT / "requirements" / "ci.txt")
    acme = pinned(ROOT / "requirements" / "acme.txt")
    runtime = pinned(ROOT / "requirements" / "runtime.txt")
    assert {name: acme[name] for name in runtime} == runtime
    assert {name: ci[name] for name in acme} == acme


def test_every_dependency_is_counted_and_has_its_reason() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## Dependencies\n")[2].partition("\n## ")[0].replace("_", "-")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = {canonicalize_name(requirement.name) for requirement in demanded(project, extras=False)}
    runtime = set(pinned(ROOT / "requirements" / "runtime.txt"))
    acme = set(pinned(ROOT / "requirements" / "acme.txt")) - runtime
    assert {name for name in direct | {"acme"} if f"\n| {name} |" not in section} == set()
    assert {name for name in runtime | acme if not re.search(rf"\b{name}\b", section.lower())} == set()
    assert f"{len(direct)} direct, {len(runtime - direct)} behind them, {len(acme)} more" in section


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.name)
def test_every_pin_has_its_hashes_and_no_index_is_named(path: Path) -> None:
    text = path.read_text()
    rest = _PIN.sub("", text)
    assert pinned(path)
    assert [line for line in rest.splitlines() if not line.lstrip().startswith("#")] == []
    assert "http" not in text


@pytest.mark.parametrize(
    ("knows", "vulnerable", "status", "said"),
    [
        ("pypi,osv", "no", 0, "asked about"),
        ("osv", "no", 0, "asked about"),
        ("osv", "yes", 1, "asked about"),
        ("", "yes", 0, "NOT DONE"),
    ],
)
def test_an_audit_fails_for_what_is_found_and_says_so_when_there_is_nobody_to_ask(
    tmp_path: Path, knows: str, vulnerable: str, status: int, said: str
) -> None:
    (tmp_path / "pip_audit.py").write_text(FAKE_AUDIT)
    result = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py", "pins.txt"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "KNOWS": knows, "VULNERABLE": vulnerable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (status, "")
    assert said in result.stdout

"""``relayd systemd install`` and ``uninstall``: relayd as a service of systemd, and back.

Every file that is written begins with a seal over the rest, by which a later run can tell a file that
somebody has edited from one that an older relayd wrote. Edited ones are never touched.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from attrs import fields

import relayd
from relayd.configuration import DEFAULT_FILE
from relayd.setting import flag_of, setting_of, shown
from relayd.settings import Settings

__all__ = ["configure", "run"]

_UNITS: Final = ("relayd.socket", "relayd.service")
_UNIT_DIRECTORY: Final = Path("/etc/systemd/system")
_WANTED: Final = ("sockets.target.wants/relayd.socket", "multi-user.target.wants/relayd.service")
"""What ``systemctl enable`` makes of them."""

_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 (what the unit hides)

_KNOWS_NOTIFY_RELOAD: Final = 253

_INSTALLED: Final = """\
Next:
  systemctl daemon-reload
  systemctl enable --now relayd.socket relayd.service
  systemctl status relayd
After an upgrade, instead of the last two: systemctl restart relayd.service"""

_REMOVED: Final = """\
Next:
  systemctl stop relayd.socket relayd.service
  systemctl daemon-reload"""

_ELSEWHERE: Final = """\
relayd: {} is out of the service's reach: it runs as a user of its own, which sees
neither homes nor the /tmp of others. Install relayd where everybody may read, and from there:
  python3 -m venv /opt/relayd
  /opt/relayd/bin/pip install RELAYD
  /opt/relayd/bin/relayd systemd install"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Take ``install`` or ``uninstall``, and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, text in (
        ("install", f"write {' and '.join(_UNITS)} to {_UNIT_DIRECTORY}, and {DEFAULT_FILE} if there is none"),
        ("uninstall", "remove what install wrote, but for what was edited since"),
    ):
        configured = actions.add_parser(action, help=text, description=text, allow_abbrev=False)
        configured.add_argument("--dry-run", action="store_true", help="change nothing, and show what would be")
        configured.add_argument(
            "--root",
            metavar="DIR",
            type=Path,
            help="for packagers: take DIR for /, and do not ask whether a service could reach this relayd",
        )


def run(options: argparse.Namespace) -> int:
    """Do it; return 0, or 1 with the reason and what to do about it on standard error."""
    if os.geteuid() != 0 and options.root is None and not options.dry_run:
        print(
            f"relayd: {_UNIT_DIRECTORY} is for root to change: "
            f"sudo {' '.join(_program())} systemd {options.action}",
            file=sys.stderr,
        )
        return 1
    root = Path("/") if options.root is None else options.root
    try:
        if options.action == "uninstall":
            return _uninstall(root, dry_run=options.dry_run)
        return _install(root, _out_of_reach() if options.root is None else None, dry_run=options.dry_run)
    except OSError as error:
        if error.filename is None:  # That of standard output, to which we print.
            raise
        print(f"relayd: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _install(root: Path, hidden: Path | None, *, dry_run: bool) -> int:
    """``hidden`` is what of this relayd a service could not reach: then nothing is written."""
    if hidden is not None and not dry_run:
        print(_ELSEWHERE.format(hidden), file=sys.stderr)
        return 1
    units = {_below(root, _UNIT_DIRECTORY / name): _sealed(text) for name, text in _units().items()}
    if _any_edited(list(units)):
        return 1
    for path, text in units.items():
        if path.exists() and path.read_text() == text:
            print(f"unchanged {path}")
        else:
            _write(path, text, dry_run=dry_run)
    settings = _below(root, DEFAULT_FILE)
    if settings.exists():
        print(f"unchanged {settings}")
    else:
        _write(settings, _sealed(_example()), dry_run=dry_run)
    if hidden is not None:
        # In the end, as what was shown is long.
        print(end="", flush=True)
        print(_ELSEWHERE.format(hidden), file=sys.stderr)
        return 1
    print(_INSTALLED)
    return 0


def _uninstall(root: Path, *, dry_run: bool) -> int:
    enabled = [link for link in _WANTED if os.path.lexists(_below(root, _UNIT_DIRECTORY / link))]
    if enabled:
        print(
            "relayd: still enabled; first: systemctl disable --now relayd.socket relayd.service",
            file=sys.stderr,
        )
        return 1
    units = [_below(root, _UNIT_DIRECTORY / name) for name in _UNITS]
    if _any_edited(units):
        return 1
    for path in units:
        _remove(path, dry_run=dry_run)
        if (extra := path.with_name(f"{path.name}.d")).exists():
            print(f"left {extra}, which is of your making")
    settings = _below(root, DEFAULT_FILE)
    if settings.exists() and not _is_sealed(settings):
        print(f"left {settings}, which was edited")
    else:
        _remove(settings, dry_run=dry_run)
        if not dry_run and settings.parent.exists() and not any(settings.parent.iterdir()):
            settings.parent.rmdir()
    print(_REMOVED)
    return 0


def _any_edited(paths: list[Path]) -> bool:
    """Whether one of ``paths`` was edited; if so, nothing may be done, and this says why and what then."""
    edited = [path for path in paths if path.exists() and not _is_sealed(path)]
    for path in edited:
        print(
            f"relayd: {path} was edited, or is not relayd's. Nothing was changed. Move it away and run this "
            f'again; your changes are better kept in "systemctl edit {path.name}"',
            file=sys.stderr,
        )
    return bool(edited)


def _write(path: Path, text: str, *, dry_run: bool) -> None:
    if dry_run:
        print(f"would write {path}:\n\n{textwrap.indent(text, '    ')}")
        return
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        # Whatever the umask says: the service runs as a user of its own.
        path.parent.chmod(0o755)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
    print(f"wrote {path}")


def _remove(path: Path, *, dry_run: bool) -> None:
    if path.exists():
        if not dry_run:
            path.unlink()
        print(f"{'would remove' if dry_run else 'removed'} {path}")


def _units() -> Mapping[str, str]:
    """The units by name, for the relayd that runs this and the systemd that is here."""
    data = resources.files(relayd) / "systemd"
    units = {name: (data / name).read_text() for name in _UNITS}
    program = " ".join(_program())
    service = units["relayd.service"].replace("ExecStart=/usr/bin/relayd ", f"ExecStart={program} ")
    if _systemd_version() < _KNOWS_NOTIFY_RELOAD:
        service = service.replace("Type=notify-reload\n", "Type=notify\nExecReload=kill -HUP $MAINPID\n")
    return {**units, "relayd.service": service}


def _program() -> list[str]:
    script = Path(sysconfig.get_path("scripts")) / "relayd"
    return [str(script)] if script.exists() else [sys.executable, "-m", "relayd"]


def _out_of_reach() -> Path | None:
    """What of this relayd a service could not read, or could not be named in a unit; None if all is well."""
    for part in (*map(Path, (_program()[0], sys.prefix, sys.base_prefix)), Path(relayd.__file__).parent):
        path = part.resolve()
        within = [path, *path.parents]
        if any(Path(hidden) in within for hidden in _HIDDEN) or not re.fullmatch(r"[\w/.+@-]+", str(part)):
            return part
        if any(not parent.stat().st_mode & 0o001 for parent in path.parents):
            return part
    return None


def _systemd_version() -> int:
    """The version of the systemd that is here; one that knows everything if there is none."""
    try:
        done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return _KNOWS_NOTIFY_RELOAD
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else _KNOWS_NOTIFY_RELOAD


def _example() -> str:
    """A file of settings in which every default stands as a comment."""
    parts = [
        "# Settings of relayd, each with its default. A flag or a variable wins over what is set here.\n"
        '# "relayd check" says what is in force, "systemctl reload relayd" has it read again.\n'
        '# The addresses of the service are in relayd.socket: "systemctl edit relayd.socket". If listen is\n'
        '# set all the same, it must name those sockets as well: listen = ["fd:relayd", ...].\n',
        "# Here as in the unit, so that relayd check refuses what the service would.\nproduction = true\n",
    ]
    for attribute in fields(Settings):
        if attribute.name == "production":
            continue
        text = textwrap.fill(setting_of(attribute).help, 98, initial_indent="# ", subsequent_indent="# ")
        parts.append(f"{text}\n#{flag_of(attribute.name)} = {_toml(attribute.default)}\n")
    return "\n".join(parts)


def _toml(value: object) -> str:
    if isinstance(value, tuple) and value:
        return f"[{', '.join(_toml(item) for item in value)}]"
    return shown(value) if isinstance(value, bool | int | float) else json.dumps(shown(value))


def _sealed(text: str) -> str:
    seal = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f'# Written by "relayd systemd install", which knows by this whether it was edited: {seal}\n{text}'


def _is_sealed(path: Path) -> bool:
    text = path.read_text(errors="replace")
    return text == _sealed(text.partition("\n")[2])


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")

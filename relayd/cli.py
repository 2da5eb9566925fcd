"""The command line -> `relayd.settings.Settings` -> the daemon."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import trio
from attrs import fields

from relayd import __version__
from relayd.daemon import run
from relayd.edge.listener import CannotListen
from relayd.ops.log import logger
from relayd.settings import BadSetting, Settings, load, setting_of

__all__ = ["main"]

_DESCRIPTION = """\
A WebSocket relay. A binary and its phones dial in, name the same server-id, and relayd carries
end-to-end encrypted frames between them. It reads none of them and writes nothing to disk.
"""

_EPILOG = """\
Every setting is also an environment variable, RELAYD_LISTEN for --listen and so on (several
addresses separated by commas); a flag wins over its variable. Durations are seconds, with
fractions if you like.

  relayd                                   try it out: this machine only, port 8080
  relayd --listen :8080                    every address, IPv4 and IPv6
  relayd --listen unix:/run/relayd.sock    behind a proxy on the same machine

SIGTERM or SIGINT closes every connection with 1001 and exits 0; a second one exits at once. Exit
status 1: an address could not be listened on. 2: a setting was refused.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run relayd with ``arguments`` (`sys.argv` without them); return the exit status."""
    flags = vars(_parser().parse_args(arguments))
    try:
        settings = load(flags, os.environ)
    except BadSetting as refusal:
        print(f"relayd: {refusal}", file=sys.stderr)
        return 2
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(encoding="utf-8")  # as JSON is, whatever the locale
    emit = logger(sys.stderr, level=settings.log_level, log_format=settings.log_format)
    try:
        return trio.run(run, settings, emit)
    except* CannotListen as failures:
        for failure in failures.exceptions:
            print(f"relayd: {_innermost(failure)}", file=sys.stderr)
    return 1


def _innermost(error: BaseException) -> BaseException:
    return _innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _parser() -> _Parser:
    parser = _Parser(
        prog="relayd",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"relayd {__version__}")
    for attribute in fields(Settings):
        setting = setting_of(attribute)
        flag = f"--{attribute.name.replace('_', '-')}"
        text = f"{setting.help} (default: {_shown(attribute.default)})".replace("%", "%%")
        if isinstance(attribute.default, bool):
            group = parser.add_mutually_exclusive_group()
            group.add_argument(flag, action="store_const", const="true", help=text)
            group.add_argument(
                flag.replace("--", "--no-", 1), action="store_const", const="false", dest=attribute.name
            )
        else:
            action = "append" if isinstance(attribute.default, tuple) else "store"
            parser.add_argument(flag, action=action, metavar=setting.metavar, help=text)
    return parser


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ", ".join(str(item) for item in default)
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)

"""The command line -> `relayd.settings.Settings` -> the daemon, or one of `relayd.commands`."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import trio

from relayd import __version__
from relayd.commands import COMMANDS, Unanswered
from relayd.configuration import BadSetting, load
from relayd.edge.certificates import BadCertificate
from relayd.edge.listener import CannotListen
from relayd.edge.passed import PassedSockets, take_passed_sockets
from relayd.flags import Parser, add_settings, given
from relayd.ops.capacity import System
from relayd.ops.journal import error_line
from relayd.ops.log import Log
from relayd.ops.production import NotForProduction, refuse_addresses, refuse_limits, refuse_process
from relayd.ops.systemd import ServiceManager
from relayd.service import run
from relayd.settings import Settings

__all__ = ["main"]

_DESCRIPTION = """\
A WebSocket relay. A binary and its phones dial in, name the same server-id, and relayd carries
end-to-end encrypted frames between them. It reads none of them and keeps none of them.

Without a command it is the relay.
"""

_EPILOG = """\
Every setting is also an environment variable, RELAYD_LISTEN for --listen and so on (several
addresses separated by commas), and a key of the file, listen = ":8080". A flag wins over its
variable, and that over the file. Durations are seconds, with fractions if you like. A path in a flag
may begin at the current directory; elsewhere it is absolute.

  relayd                                   try it out: this machine only, port 8080
  relayd --listen :8080                    every address, IPv4 and IPv6
  relayd --listen unix:/run/relayd.sock    behind a proxy on the same machine
  relayd --listen :443 --tls-cert /etc/relayd/chain.pem --tls-key /etc/relayd/key.pem
  relayd check                             what is set, and where
  relayd doctor ws://127.0.0.1:8080        is all of it there, seen from a client?
  relayd systemd install                   a service of systemd, with sockets that outlive a restart
  relayd status                            what the running relayd is doing

SIGHUP reads the settings again and takes over those that can change while running. SIGTERM or
SIGINT closes every connection with 1001 and exits 0; a second one exits at once. Exit status 1: an
address could not be listened on. 2: a setting was refused, or what --production does not allow.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run relayd with ``arguments`` (`sys.argv` without them); return the exit status."""
    asked: argparse.Namespace | int = 128 + signal.SIGPIPE
    try:
        asked = _asked(arguments)
    except* BrokenPipeError:
        # Who reads has seen enough, as of `relayd check | head -1`. SIGPIPE ends others then, which Python
        # ignores: so our status is theirs, and Python's own flush at the end has nothing to complain of.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return asked if isinstance(asked, int) else _relay(asked)


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace | int:
    """The options of the relay that is asked for; or the exit status of what was, if it is done.

    Raises BrokenPipeError, or a group of it, if nobody reads the output.
    """
    try:
        parser = _parser()
        parser.refuse_unknown_flags(sys.argv[1:] if arguments is None else arguments, COMMANDS)
        options = parser.parse_args(arguments)
        return options if options.command is None else _run_command(options)
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _relay(options: argparse.Namespace) -> int:
    passed = take_passed_sockets(os.environ, os.getpid())
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    reread = partial(load, given(options), os.environ, passed.addresses)
    try:
        return _serve(reread().settings, lambda: reread().settings, passed, manager)
    except (BadSetting, BadCertificate, NotForProduction) as refusal:
        print(error_line(f"relayd: {refusal}"), file=sys.stderr)
        return 2


def _serve(
    settings: Settings, reread: Callable[[], Settings], passed: PassedSockets, manager: ServiceManager
) -> int:
    """Raises `BadCertificate` and `NotForProduction`."""
    if settings.production:
        refuse_process()
        refuse_addresses(settings)
        refuse_limits(settings, System.here())
    status = 0
    try:
        with closing(manager), closing(_log(settings)) as log:
            return trio.run(run, settings, log, reread, passed, manager)
    except* CannotListen as failures:
        _complain(failures)
        status = 1
    except* NotForProduction as refusals:
        _complain(refusals)
        status = 2
    return status


def _complain(failures: BaseExceptionGroup[Exception]) -> None:
    for failure in failures.exceptions:
        print(error_line(f"relayd: {_innermost(failure)}"), file=sys.stderr)


def _log(settings: Settings) -> Log:
    # Python leaves None there if it was started without descriptor 2, which a connection may have now.
    fd = None if sys.stderr is None else sys.stderr.fileno()
    return Log(fd, level=settings.log_level, log_format=settings.log_format)


def _run_command(options: argparse.Namespace) -> int:
    try:
        code: int = _command(options.command).run(options)
    except BadSetting as refusal:
        print(error_line(f"relayd: {refusal}"), file=sys.stderr)
        return 2
    except Unanswered as failure:
        print(error_line(f"relayd: {failure}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _innermost(error: BaseException) -> BaseException:
    return _innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


class _CommandParser(Parser):
    """The parser of a command. Its flags are there once it is used: only then is the module imported."""

    def __init__(self, *, command: str = "", **options: Any) -> None:
        """Without a ``command``, it is the parser of a command's own sub-command."""
        super().__init__(**options)
        self._command = command

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Take the flags, and parse them."""
        if self._command:
            _command(self._command).configure(self)
        return super().parse_known_args(args, namespace)


def _command(name: str) -> ModuleType:
    """The module of the command called ``name``. The relay itself needs none, nor the memory that it takes."""
    return import_module(f"relayd.commands.{name}")


def _parser() -> Parser:
    parser = Parser(
        prog="relayd",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"relayd {__version__}")
    add_settings(parser)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=_CommandParser
    )
    for name, text in COMMANDS.items():
        commands.add_parser(name, command=name, help=text, description=text, allow_abbrev=False)
    return parser

"""Settings as flags of a command line."""

import argparse
import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from attrs import fields

from relayd.configuration import DEFAULT_FILE
from relayd.ops.journal import error_line
from relayd.setting import flag_of, setting_of, shown
from relayd.settings import Settings

__all__ = ["Parser", "add_settings", "given"]


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what it does not understand."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, error_line(f"{self.prog}: {message} (see {self.prog} --help)\n"))

    def refuse_unknown_flags(self, arguments: Sequence[str], before: Collection[str]) -> None:
        """Exit, with the nearest name, if a flag among ``arguments`` is none, up to the first of ``before``.

        To argparse its value would be the next argument, and wrong as that.
        """
        for argument in arguments:
            name = argument.partition("=")[0]
            if argument in before:
                return
            if name.startswith("--") and name not in self._option_string_actions:
                nearest = difflib.get_close_matches(name, self._option_string_actions, 1)
                self.error(f"there is no flag {name}" + (f"; did you mean {nearest[0]}?" if nearest else ""))


def add_settings(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Give ``parser`` a flag for each setting, or for those called ``only``, and ``--config``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"settings in TOML, each under the name of its flag (default: {DEFAULT_FILE}, if it is there)",
    )
    for attribute in fields(Settings):
        if only is not None and attribute.name not in only:
            continue
        setting = setting_of(attribute)
        flag = f"--{flag_of(attribute.name)}"
        text = f"{setting.help} (default: {_shown_default(attribute.default)})".replace("%", "%%")
        if isinstance(attribute.default, bool):
            group = parser.add_mutually_exclusive_group()
            group.add_argument(
                flag,
                action="store_const",
                const="true",
                default=argparse.SUPPRESS,
                dest=attribute.name,
                help=text,
            )
            group.add_argument(
                flag.replace("--", "--no-", 1),
                action="store_const",
                const="false",
                default=argparse.SUPPRESS,
                dest=attribute.name,
            )
        else:
            action = "append" if isinstance(attribute.default, tuple) else "store"
            parser.add_argument(
                flag,
                action=action,
                metavar=setting.metavar,
                default=argparse.SUPPRESS,
                dest=attribute.name,
                help=text,
            )


def given(options: argparse.Namespace) -> Mapping[str, str | Sequence[str]]:
    """The flags among ``options`` as `relayd.configuration.load` takes them, with their paths made absolute."""
    flags = dict(vars(options))
    # Without a current directory, since somebody has removed it, a path that begins there is refused as it is.
    with suppress(FileNotFoundError):
        directory = os.getcwd()
        for attribute in fields(Settings):
            if isinstance(text := flags.get(attribute.name), str):
                flags[attribute.name] = setting_of(attribute).from_flag(text, directory)
    return flags


def _shown_default(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return shown(default)

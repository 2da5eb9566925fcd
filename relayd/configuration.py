"""Where settings come from: defaults < a file < the environment < flags; each refusal names its source."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import evolve, fields, frozen

from relayd.setting import flag_of, setting_of, shown
from relayd.settings import Settings
from relayd.values import Address

__all__ = ["DEFAULT_FILE", "BadSetting", "Loaded", "load", "reloaded"]

DEFAULT_FILE: Final = Path("/etc/relayd/relayd.toml")
"""Read if it is there, unless another is named."""

ENVIRONMENT_PREFIX: Final = "RELAYD_"
FILE_FLAG: Final = "config"

_KNOWN: Final = {attribute.name: setting_of(attribute) for attribute in fields(Settings)}


class BadSetting(ValueError):
    """A value or a file was refused; its text is the one line to show."""

    @classmethod
    def value(cls, source: str, value: str, accepted: str) -> "BadSetting":
        """A setting has a ``value`` from ``source``, whose words name the setting, that is not ``accepted``."""
        return cls(f"{source} is {_quoted(value)}, but {accepted} is accepted")


@frozen
class Loaded:
    """Settings, and for each the words that say where its value came from."""

    settings: Settings
    sources: Mapping[str, str]
    """By field: "the default", "the flag --grace" and so on."""


def load(
    flags: Mapping[str, str | Sequence[str]],
    environment: Mapping[str, str],
    passed: tuple[Address, ...] = (),
) -> Loaded:
    """Settings from their defaults, under a file, under ``RELAYD_…`` variables, under flags; all as text.

    ``flags`` has the field's name for a key, and only flags that were given; ``config`` among them names
    the file. Sockets that were ``passed`` on are where to listen if nobody says, but for those that metrics
    and challenges take. Raises `BadSetting` for the first value that is not accepted, or for two that
    cannot be together. Other ``RELAYD_…`` variables are left alone: Kubernetes, for one, sets some for
    every service.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(_KNOWN, "the default")
    read = _read_file(flags, environment)
    for name, source, text in (*_from_file(read), *_from_environment(environment), *_from_flags(flags)):
        try:
            values[name] = _KNOWN[name].parse(text)
        except ValueError:
            raise BadSetting.value(source, text, _KNOWN[name].accepted) from None
        sources[name] = source
    elsewhere = (*values.get("metrics_listen", ()), *values.get("http_listen", ()))
    taken = {address.fd for address in elsewhere}
    rest = tuple(address for address in passed if address.fd not in taken)
    if rest and "listen" not in values:
        values["listen"], sources["listen"] = rest, "LISTEN_FDS"
    settings = Settings(**values)
    contradiction = settings.contradiction()
    if contradiction is not None:
        raise BadSetting(contradiction)
    return Loaded(settings, sources)


def reloaded(old: Settings, new: Settings) -> tuple[Settings, list[str], list[str]]:
    """What becomes of ``old`` when ``new`` was read while relayd runs.

    Returns the settings to go on with, the names of those that changed, and the names of those that
    would have but need a restart. Raises `BadSetting` if those to go on with cannot be together.
    """
    differing = [name for name in _KNOWN if getattr(old, name) != getattr(new, name)]
    live = [name for name in differing if _KNOWN[name].live]
    settings = evolve(old, **{name: getattr(new, name) for name in live})
    contradiction = settings.contradiction()
    if contradiction is not None:
        raise BadSetting(contradiction)
    return settings, live, [name for name in differing if name not in live]


_Found = Iterator[tuple[str, str, str]]
"""Name of the field, words for the source, text."""


def _from_flags(flags: Mapping[str, str | Sequence[str]]) -> _Found:
    for name, given in flags.items():
        if name in _KNOWN:
            yield name, f"the flag --{flag_of(name)}", given if isinstance(given, str) else ",".join(given)


def _from_environment(environment: Mapping[str, str]) -> _Found:
    for variable, text in sorted(environment.items()):
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and name in _KNOWN:
            yield name, f"the environment variable {variable}", text


def _read_file(
    flags: Mapping[str, str | Sequence[str]], environment: Mapping[str, str]
) -> tuple[Path, str] | None:
    named = flags.get(FILE_FLAG) or environment.get(ENVIRONMENT_PREFIX + FILE_FLAG.upper())
    assert named is None or isinstance(named, str)
    file = Path(named) if named else DEFAULT_FILE
    try:
        return file, file.read_text("utf-8")
    except FileNotFoundError as error:
        if not named:
            return None
        raise BadSetting(f"{file}: cannot be read: {error.strerror}") from None
    except OSError as error:
        raise BadSetting(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadSetting(f"{file}: is not UTF-8") from None


def _from_file(read: tuple[Path, str] | None) -> _Found:
    if read is None:
        return
    file, text = read
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # tomllib has no other word for a number with too many digits, or for too deep a nest.
        raise BadSetting(f"{file}: is not TOML: {_quoted(str(error))}") from None
    flags = {flag_of(name): name for name in _KNOWN}
    for key, value in document.items():
        if key not in flags:
            nearest = difflib.get_close_matches(flag_of(key), flags, 1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise BadSetting(f"{file}: there is no setting {_quoted(key)}{hint}")
        yield flags[key], f"{key} in {file}", _text_of(value)


def _text_of(value: object) -> str:
    """A value of the file as it would be written in a flag."""
    if isinstance(value, list):
        return ",".join(_text_of(item) for item in value)
    return shown(value) if isinstance(value, bool) else str(value)


def _quoted(value: str) -> str:
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    return f'"{shown}"' if shown.isprintable() else ascii(shown)

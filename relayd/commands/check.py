"""``relayd check``: every setting with its value and source, or the first that is refused."""

import argparse
import os
import sys
from typing import Final

from attrs import fields

from relayd.configuration import BadSetting, load
from relayd.daemon import import_domains
from relayd.edge.certificates import BadCertificate, read_certificate
from relayd.flags import add_settings, given
from relayd.ops.capacity import System, buffer_limit, limits_of
from relayd.ops.journal import error_line
from relayd.ops.production import NotForProduction, refuse_addresses, refuse_limits, refuse_process
from relayd.setting import flag_of, shown
from relayd.settings import Settings

__all__ = ["configure", "run"]

_NOT_LOOKED_AT: Final = (
    "relayd: who runs it is looked at when it starts, not here: with production it does not start as root, nor "
    "with more capabilities than cap_net_bind_service, as this check was run"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the flags that the relay takes."""
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Print the settings that ``relayd`` with these flags would have."""
    system = System.here()
    try:
        loaded = load(given(options), os.environ)
        # In the order of a start, so that of two faults both name the same one first.
        refuse_addresses(loaded.settings)
        refuse_limits(loaded.settings, system)
        if loaded.settings.tls_cert:
            read_certificate(loaded.settings.tls_cert, loaded.settings.tls_key)
        remark = import_domains().examine(loaded.settings, os.environ) if loaded.settings.domain else ""
    except (BadSetting, BadCertificate, NotForProduction) as refusal:
        print(error_line(f"relayd: {refusal}"), file=sys.stderr)
        return 2
    limits = limits_of(loaded.settings, system)
    found = {
        "max_connections": limits.connections,
        "max_handshakes": limits.handshakes,
        "max_buffered_bytes": buffer_limit(loaded.settings, system),
    }
    rows = []
    for attribute in fields(Settings):
        name, value = attribute.name, getattr(loaded.settings, attribute.name)
        text = f"auto={found[name]}" if name in found and value == "auto" else shown(value)
        rows.append((flag_of(name), text, loaded.sources[name]))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}")
    if loaded.settings.production and _is_too_mighty():
        print(_NOT_LOOKED_AT, file=sys.stderr)
    if remark:
        print(f"relayd: {remark}", file=sys.stderr)
    return 0


def _is_too_mighty() -> bool:
    """Whether a relay that is started as we were would be refused: no fault of the settings, as under sudo."""
    try:
        refuse_process()
    except NotForProduction:
        return True
    return False

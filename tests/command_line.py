"""``relayd`` with arguments, in this process: to start another interpreter takes longer than most commands."""

import contextlib
import io
import os
from subprocess import CompletedProcess
from unittest import mock

from relayd.cli import main

__all__ = ["relayd"]


def relayd(*arguments: str, **variables: str) -> CompletedProcess[str]:
    """What a command does: its exit status, and what it writes. No variable is set but ``variables``."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**clean, "RELAYD_CONFIG": "/dev/null", **variables}, clear=True),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
    return CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())

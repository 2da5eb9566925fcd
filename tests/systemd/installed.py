"""``relayd systemd`` run into a directory."""

import os
from pathlib import Path
from subprocess import CompletedProcess

from tests.command_line import relayd


def relayd_systemd(action: str, root: Path, *flags: str, **variables: str) -> CompletedProcess[str]:
    """Run ``relayd systemd ACTION`` with ``root`` in place of the system's own."""
    return relayd("systemd", action, "--root", str(root), *flags, **variables)


def install(root: Path, *flags: str, **variables: str) -> CompletedProcess[str]:
    """Run ``relayd systemd install``."""
    return relayd_systemd("install", root, *flags, **variables)


def uninstall(root: Path, *flags: str) -> CompletedProcess[str]:
    """Run ``relayd systemd uninstall``."""
    return relayd_systemd("uninstall", root, *flags)


def older_systemd(directory: Path) -> dict[str, str]:
    """Variables with which ``systemctl --version`` says what Debian 12's does."""
    systemctl = directory / "bin" / "systemctl"
    systemctl.parent.mkdir(exist_ok=True)
    systemctl.write_text('#!/bin/sh\necho "systemd 252 (252.39-1~deb12u2)"\n')
    systemctl.chmod(0o755)
    return {"PATH": f"{systemctl.parent}:{os.environ['PATH']}"}

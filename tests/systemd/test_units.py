"""The units that are shipped, judged by systemd's own tools."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.relay_process import WAIT, RelayProcess
from tests.systemd.installed import install, older_systemd

WITHOUT_NEW_WRITABLE_CODE = """
import ctypes, os, sys
# PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN, from linux/prctl.h: what MemoryDenyWriteExecute= has the kernel do.
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit("this test wants Linux 6.3 or later")
os.execv(sys.argv[1], sys.argv[1:])
"""


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, which must know Type=notify-reload."""
    tool = shutil.which("systemd-analyze")
    assert tool, "systemd-analyze is missing; install Debian's package systemd"
    version = re.match(r"systemd (\d+)", subprocess.check_output([tool, "--version"], text=True))
    assert version
    assert int(version[1]) >= 253, "systemd 253 or later is wanted; Debian 12 has it in bookworm-backports"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=WAIT, check=False)


@pytest.fixture(params=["this systemd", "one without notify-reload"])
def units(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The directory of the units that were installed for one systemd or another."""
    variables: Mapping[str, str] = {} if request.param == "this systemd" else older_systemd(tmp_path)
    assert install(tmp_path, **variables).returncode == 0
    return tmp_path / "etc/systemd/system"


def test_systemd_has_nothing_to_say_against_the_units(units: Path) -> None:
    done = analyze("verify", units / "relayd.service", units / "relayd.socket")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exposure_is_at_most_1_0(units: Path) -> None:
    # In tenths.
    done = analyze("security", "--offline=true", "--no-pager", "--threshold=10", units / "relayd.service")
    assert done.returncode == 0, done.stdout
    exposure = re.search(r"Overall exposure level for relayd.service: ([0-9.]+)", done.stdout)
    assert exposure
    assert float(exposure[1]) <= 1.0


def test_type_is_what_systemd_knows(tmp_path: Path) -> None:
    service = tmp_path / "etc/systemd/system/relayd.service"
    install(tmp_path, **older_systemd(tmp_path))
    assert {"Type=notify", "ExecReload=kill -HUP $MAINPID"} <= set(service.read_text().splitlines())
    assert install(tmp_path).returncode == 0
    text = service.read_text().splitlines()
    assert "Type=notify-reload" in text
    assert not [line for line in text if line.startswith("ExecReload")]


def test_relayd_runs_where_memory_is_never_both_written_and_executed(tmp_path: Path) -> None:
    wrapper = [sys.executable, "-c", WITHOUT_NEW_WRITABLE_CODE]
    relay = RelayProcess(tmp_path / "log", wrapper=wrapper)
    try:
        headers = {"x-pyrycode-server": "s", "x-pyrycode-version": "1", "x-pyrycode-token": "t"}
        with (
            connect(relay.url("/v1/server"), additional_headers=headers) as binary,
            connect(relay.url("/v1/client"), additional_headers=headers) as phone,
        ):
            phone.send("[1]")
            assert '"frame":[1]' in str(binary.recv(WAIT))
            assert binary.ping().wait(WAIT)
        assert relay.stop(signal.SIGTERM) == 0
    finally:
        relay.process.kill()
        relay.process.wait()
    assert "Traceback" not in relay.log_text()

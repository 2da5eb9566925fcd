"""``relayd systemd install`` and ``uninstall``."""

import os
import re
import sys
from pathlib import Path

import pytest

from relayd.cli import main
from relayd.commands import systemd
from relayd.configuration import load
from relayd.settings import Settings
from tests.systemd.installed import install, older_systemd, uninstall

FILES = ("etc/systemd/system/relayd.socket", "etc/systemd/system/relayd.service", "etc/relayd/relayd.toml")


def contents(root: Path) -> dict[str, str]:
    """Every file below ``root`` that is not a tool of the test's."""
    files = (path for path in root.rglob("*") if path.is_file() and path.parent.name != "bin")
    return {str(path.relative_to(root)): path.read_text() for path in files}


def test_install_writes_and_names_its_files_and_says_how_to_go_on(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:3] == [f"wrote {tmp_path / file}" for file in FILES]
    assert "systemctl daemon-reload\n  systemctl enable --now relayd.socket relayd.service\n" in done.stdout
    assert contents(tmp_path).keys() == set(FILES)
    # A user that systemd makes up must be able to read them.
    assert {(tmp_path / file).stat().st_mode & 0o777 for file in FILES} == {0o644}


def test_a_narrow_umask_keeps_the_services_own_user_from_nothing(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        install(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "etc/relayd").stat().st_mode & 0o777 == 0o755
    assert {(tmp_path / file).stat().st_mode & 0o777 for file in FILES} == {0o644}


def test_the_service_runs_the_relayd_that_installed_it(tmp_path: Path) -> None:
    install(tmp_path)
    started = re.findall(r"^ExecStart=(\S+)(.*)$", (tmp_path / FILES[1]).read_text(), re.MULTILINE)
    assert started == [(str(Path(sys.executable).parent / "relayd"), " --production")]


def test_a_second_install_changes_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    before = {file: (tmp_path / file).stat().st_mtime_ns for file in FILES}
    done = install(tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:3] == [f"unchanged {tmp_path / file}" for file in FILES]
    assert {file: (tmp_path / file).stat().st_mtime_ns for file in FILES} == before


def test_what_another_relayd_wrote_is_replaced(tmp_path: Path) -> None:
    install(tmp_path, **older_systemd(tmp_path))
    done = install(tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:3] == [
        f"unchanged {tmp_path / FILES[0]}",
        f"wrote {tmp_path / FILES[1]}",
        f"unchanged {tmp_path / FILES[2]}",
    ]


def test_dry_run_shows_everything_and_changes_nothing(tmp_path: Path) -> None:
    done = install(tmp_path, "--dry-run")
    assert done.returncode == 0
    for part in (*FILES, "Type=notify", "ListenStream=127.0.0.1:8080", "#max-phones = 16"):
        assert part in done.stdout
    assert contents(tmp_path) == {}
    install(tmp_path)
    before = contents(tmp_path)
    done = uninstall(tmp_path, "--dry-run")
    assert done.stdout.splitlines()[:3] == [f"would remove {tmp_path / file}" for file in FILES]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("file", FILES[:2])
def test_a_unit_that_was_edited_is_not_touched_and_nothing_else_either(tmp_path: Path, file: str) -> None:
    install(tmp_path, **older_systemd(tmp_path))
    unit = tmp_path / file
    unit.write_text(unit.read_text() + "# mine\n")
    before = contents(tmp_path)
    for done in (install(tmp_path), uninstall(tmp_path)):
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{unit} was edited" in done.stderr
        assert f"systemctl edit {unit.name}" in done.stderr
    assert contents(tmp_path) == before


def test_settings_that_are_there_are_kept_by_both(tmp_path: Path) -> None:
    settings = tmp_path / FILES[2]
    settings.parent.mkdir(parents=True)
    settings.write_text("max-phones = 3\n")
    assert f"unchanged {settings}" in install(tmp_path).stdout
    done = uninstall(tmp_path)
    assert (done.returncode, f"left {settings}" in done.stdout) == (0, True)
    assert contents(tmp_path) == {FILES[2]: "max-phones = 3\n"}


def test_uninstall_removes_all_that_install_wrote_but_not_what_others_did(tmp_path: Path) -> None:
    install(tmp_path)
    drop_in = tmp_path / "etc/systemd/system/relayd.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nMemoryMax=1G\n")
    done = uninstall(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        f"removed {tmp_path / FILES[0]}",
        f"removed {tmp_path / FILES[1]}",
    ]
    assert f"left {drop_in.parent}" in done.stdout
    assert contents(tmp_path).keys() == {str(drop_in.relative_to(tmp_path))}
    assert not (tmp_path / "etc/relayd").exists()
    assert uninstall(tmp_path).returncode == 0


def test_units_that_are_enabled_are_not_removed(tmp_path: Path) -> None:
    install(tmp_path)
    link = tmp_path / "etc/systemd/system/sockets.target.wants/relayd.socket"
    link.parent.mkdir()
    link.symlink_to("/etc/systemd/system/relayd.socket")
    done = uninstall(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "systemctl disable --now relayd.socket relayd.service" in done.stderr
    assert contents(tmp_path).keys() >= set(FILES)


def test_a_directory_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("in the way")
    done = install(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(tmp_path / "etc") in done.stderr


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_without_root_it_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, action: str
) -> None:
    monkeypatch.setattr(systemd, "_UNIT_DIRECTORY", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["systemd", action]) == 1
    assert re.search(rf"sudo /\S+ systemd {action}$", capsys.readouterr().err, re.MULTILINE)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("prefix", ["/root/.local/share/pipx/venvs/relayd", "/home/me/relayd", "/tmp/relayd"])
def test_a_relayd_that_no_service_could_reach_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, prefix: str
) -> None:
    monkeypatch.setattr(systemd, "_UNIT_DIRECTORY", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(systemd, "_program", lambda: [f"{prefix}/bin/relayd"])
    assert main(["systemd", "install"]) == 1
    error = capsys.readouterr().err
    assert f"{prefix}/bin/relayd is out of the service's reach" in error
    assert "/opt/relayd/bin/relayd systemd install" in error
    assert contents(tmp_path) == {}
    # Somebody who tries relayd at home may look all the same, and is told that it would come to nothing.
    assert main(["systemd", "install", "--dry-run"]) == 1
    shown = capsys.readouterr()
    assert f"would write {tmp_path}/relayd.service:" in shown.out
    assert f"ExecStart={prefix}/bin/relayd --production" in shown.out
    assert "systemctl enable" not in shown.out
    assert shown.err == error
    assert contents(tmp_path) == {}


def test_the_example_holds_every_setting_with_its_default(tmp_path: Path) -> None:
    install(tmp_path)
    example = tmp_path / FILES[2]
    assert load({"config": str(example)}, {}).settings == Settings(production=True)
    text = re.sub(r"^#(?=[a-z-]+ = )", "", example.read_text(), flags=re.MULTILINE)
    example.write_text(text)
    loaded = load({"config": str(example)}, {})
    assert loaded.settings == Settings(production=True)
    assert [source for source in loaded.sources.values() if str(example) not in source] == []

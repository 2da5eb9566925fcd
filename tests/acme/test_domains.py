"""What is refused before anybody listens: directories and files of no use, each in one line."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd.acme.binding import BadBinding, Binding, read_binding
from relayd.acme.cache import open_cache
from relayd.cli import main
from relayd.configuration import BadSetting
from relayd.domains import Domains
from relayd.edge.certificates import Certificates
from relayd.ops.events import Event
from relayd.settings import LETS_ENCRYPT, Settings
from relayd.wire.client_hello import ClientHello
from tests.acme.fakes import DAY, made_certificate

KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@pytest.mark.parametrize(
    ("setting", "value", "line"),
    [
        ("state_dir", "/proc/relayd", "state-dir: state directory /proc/relayd: No such file or directory; "),
        ("acme_ca_file", "/nowhere", "acme-ca-file: /nowhere: cannot be read: No such file or directory"),
        ("acme_ca_file", "/dev/null", "acme-ca-file: /dev/null: there is no certificate in PEM in it"),
        ("acme_eab_file", "/nowhere", "acme-eab-file: /nowhere: cannot be read: No such file or directory"),
    ],
)
async def test_what_cannot_be_used_is_refused_in_one_line_that_names_the_setting(
    tmp_path: Path, setting: str, value: str, line: str
) -> None:
    events: list[Event] = []
    values: dict[str, Any] = {"domain": ("a.example",), "state_dir": str(tmp_path / "state"), setting: value}
    settings = Settings(**values)
    with pytest.raises(BadSetting) as refusal:
        Domains(settings, Certificates(events.append), {}, events.append)
    assert str(refusal.value).startswith(line)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("setting", "name", "line"),
    [
        (
            "acme_eab_file",
            "eab.toml",
            "acme-eab-file: .*eab.toml: others can read this key; mend it with: chmod",
        ),
        ("acme_ca_file", "none", "acme-ca-file: .*none: cannot be read: No such file"),
        ("state_dir", "open", "state-dir: state directory .*open: has mode 0755"),
        (
            "state_dir",
            "not/there",
            "state-dir: state directory .*there: No such file or directory; make it with",
        ),
        ("state_dir", "eab.toml", "state-dir: state directory .*eab.toml: Not a directory; "),
        ("state_dir", "eab.toml/below", "state-dir: state directory .*below: Not a directory; "),
        ("state_dir", "holding", "state-dir: state directory .*holding/acme-v02.*: has mode 0755"),
    ],
)
def test_check_refuses_what_a_start_would_in_the_same_words_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, name: str, line: str
) -> None:
    written(tmp_path / "eab.toml", f'key-id = "k"\nhmac-key = "{KEY}"', 0o644)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    open_cache(tmp_path / "holding", LETS_ENCRYPT).close()
    for inner in (tmp_path / "holding").iterdir():
        inner.chmod(0o755)
    values: dict[str, Any] = {"state_dir": str(tmp_path / "made"), setting: str(tmp_path / name)}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]
    before = set(tmp_path.rglob("*"))
    assert main(["check", "--config", "/dev/null", "--domain", "a.example", *flags]) == 2
    said = capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before
    with pytest.raises(BadSetting, match=f"^{line}") as refusal:
        Domains(Settings(domain=("a.example",), **values), Certificates(print), {}, print)
    assert said == f"relayd: {refusal.value}\n"


def test_check_of_a_domain_passes_before_the_state_directory_is_there_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["check", "--config", "/dev/null", "--domain", "a.example", "--state-dir", str(tmp_path / "state")]
    assert main(flags) == 0
    assert list(tmp_path.iterdir()) == []
    open_cache(tmp_path / "state", LETS_ENCRYPT).close()
    assert main(flags) == 0
    assert capsys.readouterr().err == ""


def test_check_refuses_a_state_directory_where_it_could_not_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK | os.X_OK))
    directory = tmp_path / "state"
    flags = ["check", "--config", "/dev/null", "--domain", "a.example", "--state-dir", str(directory)]
    assert main(flags) == 2
    assert (
        f"state directory {directory}: Permission denied; make it with: install -d" in capsys.readouterr().err
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_check_by_root_passes_a_state_directory_of_another_user_with_a_word_and_by_nobody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    flags = ["check", "--config", "/dev/null", "--domain", "a.example", "--state-dir", str(directory)]
    assert main(flags) == 0
    assert f"the state directory {directory} is another user's" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(flags) == 2
    assert "belongs to user 12345, but relayd is 1000" in capsys.readouterr().err


def test_check_of_a_domain_without_the_library_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("relayd.domains", "relayd.acme.client"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "acme", None)
    assert main(["check", "--config", "/dev/null", "--domain", "a.example"]) == 2
    assert "domain: takes the module acme, which is not installed" in capsys.readouterr().err


def written(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("text", "binding"),
    [
        (f'key-id = "kid-1"\nhmac-key = "{KEY}"\n', Binding("kid-1", KEY)),
        (f"# from the CA\nhmac-key = '{KEY[:-2]}=='\nkey-id = 'k'", Binding("k", KEY[:-2])),
    ],
)
def test_the_key_of_an_account_is_read_from_a_file(tmp_path: Path, text: str, binding: Binding) -> None:
    assert read_binding(written(tmp_path / "eab.toml", text, 0o640)) == binding


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        "[" * 5000,
        "\ud800",
        'key-id = "k"',
        f'key-id = 1\nhmac-key = "{KEY}"',
        f'key-id = "k"\nhmac-key = "{KEY}"\nmore = 1',
        f'key-id = ""\nhmac-key = "{KEY}"',
        f'key-id = "a\\nb"\nhmac-key = "{KEY}"',
        f'key-id = "k"\nhmac-key = "{KEY[:-3]}"',
        'key-id = "k"\nhmac-key = "SECRETsecret+/=="',
        'key-id = "k"\nhmac-key = ""',
    ],
)
def test_a_file_that_holds_no_such_key_is_refused_without_a_word_of_what_is_in_it(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "eab.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    path.chmod(0o600)
    with pytest.raises(BadBinding) as refusal:
        read_binding(str(path))
    line = str(refusal.value)
    assert line.isprintable()
    assert KEY[:12] not in line
    assert "SECRET" not in line


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    path = written(tmp_path / "eab.toml", f'key-id = "k"\nhmac-key = "{KEY}"', 0o644)
    with pytest.raises(BadBinding, match=f"others can read this key; mend it with: chmod o= {path}"):
        read_binding(path)


@pytest.mark.parametrize("begins", [-90 * DAY, -DAY, DAY])
async def test_a_certificate_is_served_whatever_its_dates_since_it_may_be_our_clock_that_is_wrong(
    tmp_path: Path, begins: timedelta
) -> None:
    events: list[Event] = []
    now = datetime.now(UTC)
    made = made_certificate("a.example", now + begins, now + begins + 60 * DAY)
    settings = Settings(domain=("a.example",), state_dir=str(tmp_path / "state"))
    cache = open_cache(tmp_path / "state", settings.acme_directory)
    cache.write("a.example.pem", made.pem)
    cache.close()
    certificates = Certificates(events.append)
    nothing = certificates.choose(ClientHello("a.example"))
    domains = Domains(settings, certificates, {}, events.append)
    domains.restore()
    domains.close()
    assert [event.name for event in events] == ["certificate_restored"]
    assert certificates.choose(ClientHello("a.example")) is not nothing
    assert domains.complete


def test_nobody_without_a_domain_pays_for_the_library() -> None:
    script = (
        "import sys, relayd.cli, relayd.daemon\n"
        "print([name for name in ('acme', 'cryptography', 'josepy', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"[]\n"

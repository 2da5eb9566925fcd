"""The state directory: who may enter, what is in it, and what is left of it when writing fails."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.acme.cache import Cache, CannotCache, open_cache, state_directory
from tests.acme.fakes import ON_A_SMALL_DISK

CA = "https://ca.example.org/dir"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = open_cache(tmp_path / "state", CA)
    yield cache
    cache.close()


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_what_was_written_is_read_by_another_and_nobody_else_may(cache: Cache, tmp_path: Path) -> None:
    assert cache.read("a.pem") is None
    cache.write("a.pem", b"one")
    cache.write("a.pem", b"two")
    again = open_cache(tmp_path / "state", CA)
    assert again.read("a.pem") == b"two"
    again.close()
    (file,) = files_in(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file.parent.parent)] == [0o700, 0o700]


def test_each_ca_has_a_directory_of_its_own_that_bears_its_name(cache: Cache, tmp_path: Path) -> None:
    cache.write("a.pem", b"one")
    other = open_cache(tmp_path / "state", "https://ca.example.org/staging")
    assert other.read("a.pem") is None
    other.close()
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert len(names) == 2
    assert all(name.startswith("ca.example.org-") for name in names)


def test_a_mode_that_is_too_wide_is_refused_with_a_command_that_mends_it(tmp_path: Path) -> None:
    directory = tmp_path / "it's mine"
    directory.mkdir()
    directory.chmod(0o750)
    with pytest.raises(CannotCache, match="has mode 0750") as refusal:
        open_cache(directory, CA)
    command = str(refusal.value).partition("mend it with: ")[2]
    subprocess.run(command, shell=True, check=True)
    open_cache(directory, CA).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused_with_a_command_that_mends_it(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    with pytest.raises(CannotCache, match="belongs to user 12345") as refusal:
        open_cache(directory, CA)
    command = str(refusal.value).partition("mend it with: ")[2]
    subprocess.run(command, shell=True, check=True)
    open_cache(directory, CA).close()


def test_the_directory_of_a_ca_is_looked_at_as_well(cache: Cache, tmp_path: Path) -> None:
    (inner,) = (tmp_path / "state").iterdir()
    inner.chmod(0o755)
    with pytest.raises(CannotCache, match=f"{inner}.* has mode 0755"):
        open_cache(tmp_path / "state", CA)


def test_a_directory_that_cannot_be_made_is_refused_with_a_command_that_makes_it(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there"
    with pytest.raises(CannotCache, match="No such file or directory") as refusal:
        open_cache(directory, CA)
    command = str(refusal.value).partition("make it with: ")[2].partition(",")[0]
    subprocess.run(command, shell=True, check=True)
    open_cache(directory, CA).close()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(CannotCache, match="Not a directory"):
        open_cache(tmp_path / "state", CA)


def test_a_link_to_a_private_directory_is_followed_as_systemd_makes_one(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to("private")
    open_cache(tmp_path / "state", CA).close()


def test_links_and_other_things_in_the_place_of_a_file_are_not_read(cache: Cache, tmp_path: Path) -> None:
    (inner,) = (tmp_path / "state").iterdir()
    (inner / "link.pem").symlink_to("/etc/passwd")
    os.mkfifo(inner / "pipe.pem")
    for name, number in (("link.pem", errno.ELOOP), ("pipe.pem", errno.EINVAL)):
        with pytest.raises(OSError, match=os.strerror(number)):
            cache.read(name)


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_its_name_before_anybody_is_told(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    sync, replace = os.fsync, os.replace

    def watched_sync(fd: int) -> None:
        found = os.fstat(fd)
        done.append(("directory", 0) if stat.S_ISDIR(found.st_mode) else ("file", found.st_size))
        sync(fd)

    def watched_replace(new: str, name: str, **places: int) -> None:
        done.append(("name", 0))
        replace(new, name, **places)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    cache.write("a.pem", b"whole")
    assert done == [("file", 5), ("name", 0), ("directory", 0)]


FULL_DISK = """
import errno, sys
from pathlib import Path
from relayd.acme.cache import open_cache
cache = open_cache(Path(sys.argv[1]) / "state", "https://ca.example.org/dir")
cache.write("a.pem", b"old")
try:
    cache.write("a.pem", bytes(1_000_000))
except OSError as error:
    print(errno.errorcode[error.errno], cache.read("a.pem"))
print([path.name for path in Path(sys.argv[1]).rglob("*") if path.is_file()])
"""


def test_on_a_full_disk_the_old_file_stays_and_nothing_is_left_of_the_new_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ON_A_SMALL_DISK, tmp_path, sys.executable, "-c", FULL_DISK, tmp_path],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout.decode().splitlines() == ["ENOSPC b'old'", "['a.pem']"]


def test_a_new_file_that_an_earlier_process_left_half_written_is_in_nobodys_way(
    cache: Cache, tmp_path: Path
) -> None:
    (inner,) = (tmp_path / "state").iterdir()
    (inner / ".a.pem.new").write_bytes(b"half of a much longer file")
    (inner / ".a.pem.new").chmod(0o644)
    cache.write("a.pem", b"whole")
    (file,) = files_in(tmp_path)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"whole", 0o600)


@pytest.mark.parametrize(
    ("setting", "environment", "path"),
    [
        ("auto", {}, "/var/lib/relayd"),
        ("auto", {"STATE_DIRECTORY": ""}, "/var/lib/relayd"),
        ("auto", {"STATE_DIRECTORY": "/var/lib/private/relayd"}, "/var/lib/private/relayd"),
        ("auto", {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}, "/var/lib/one"),
        ("/srv/state", {"STATE_DIRECTORY": "/var/lib/relayd"}, "/srv/state"),
    ],
)
def test_the_state_directory_is_the_one_that_is_set_or_systemds_or_a_fixed_one(
    setting: str, environment: dict[str, str], path: str
) -> None:
    assert state_directory(setting, environment) == Path(path)

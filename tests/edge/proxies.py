"""nginx and HAProxy, as the docs configure them."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.relay_process import until

DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"

NGINX = """
daemon off;
master_process off;
error_log stderr;
pid {directory}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {servers}
}}
"""


def documented(language: str, number: int, changes: Mapping[str, str]) -> str:
    """An example of "Behind a proxy" with other places in it; fails if one of these is not there."""
    section = DOCUMENT.read_text().partition("\n## Behind a proxy\n")[2].partition("\n## ")[0]
    text: str = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]
    for old, new in changes.items():
        assert old in text, (old, text)
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def nginx(directory: Path, servers: str, port: int) -> Iterator[None]:
    """nginx with these server blocks, until it listens on ``port``."""
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, servers=servers))
    with _running(directory, ["nginx", "-c", str(config), "-p", str(directory)], port):
        yield


@contextlib.contextmanager
def haproxy(directory: Path, config: str, port: int) -> Iterator[None]:
    """HAProxy with this configuration, until it listens on ``port``."""
    file = directory / "haproxy.cfg"
    file.write_text(config)
    with _running(directory, ["haproxy", "-db", "-f", str(file)], port):
        yield


@contextlib.contextmanager
def _running(directory: Path, command: list[str], port: int) -> Iterator[None]:
    tool = command[0]
    assert shutil.which(tool), f"this test needs {tool}: apt-get install {tool}"
    log = directory / f"{tool}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            return _listens(port)

        until(listens, f"{tool} on port {port}")
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)

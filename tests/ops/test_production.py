"""``--production``: what a relay on the internet must not be, each with the reason and the fix in one line."""

import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from attrs import evolve, fields

from relayd.cli import main
from relayd.configuration import BadSetting, load
from relayd.ops.capacity import System
from relayd.ops.production import (
    NotForProduction,
    process_objections,
    refuse_listener,
    refuse_metrics_listener,
)
from relayd.setting import setting_of
from relayd.settings import Settings
from relayd.values import Address
from tests.relay_process import WAIT, RelayProcess, until

Start = Callable[..., RelayProcess]

HARMLESS = "Name:\trelayd\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"
BIND = "0000000000000400"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def test_process_of_an_ordinary_user_without_capabilities_or_to_bind_low_ports_is_fine() -> None:
    assert list(process_objections(1000, HARMLESS)) == []
    assert list(process_objections(1000, HARMLESS.replace("0" * 16, BIND))) == []


def test_root_is_refused_with_what_to_do() -> None:
    assert "User= in a unit" in next(process_objections(0, HARMLESS))


@pytest.mark.parametrize("name", ["CapInh", "CapPrm", "CapEff"])
def test_any_other_capability_is_refused_in_whatever_set_it_is(name: str) -> None:
    status = HARMLESS.replace(f"{name}:\t0000000000000000", f"{name}:\t0000000000001400")
    (objection,) = process_objections(1000, status)
    assert f"{name} is 0000000000001400" in objection
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in objection


EVERYBODY = ["", "0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "relay.example.org"]
"""Hosts at which strangers, or a network, get to a listener."""


def settings_for_production(**texts: str) -> Settings:
    return load({"config": "/dev/null", "production": "true", **texts}, {}).settings


@pytest.mark.parametrize("host", EVERYBODY)
def test_plain_listener_for_everybody_is_refused_unless_a_proxy_is_declared(host: str) -> None:
    at = Address(host, 8080)
    with pytest.raises(NotForProduction, match="without TLS; set tls-cert and tls-key"):
        refuse_listener(at, Settings(production=True))
    refuse_listener(at, Settings())
    refuse_listener(at, settings_for_production(trusted_proxies="10.0.0.0/8"))
    refuse_listener(evolve(at, tls=True), Settings(production=True))


@pytest.mark.parametrize("host", EVERYBODY)
@pytest.mark.parametrize("proxies", ["unix", "127.0.0.1", "127.0.0.0/8,::1,unix"])
def test_a_proxy_on_this_machine_is_no_reason_to_listen_for_everybody(host: str, proxies: str) -> None:
    settings = settings_for_production(trusted_proxies=proxies)
    with pytest.raises(NotForProduction, match=r"without TLS; .* or listen on 127\.0\.0\.1 or unix:/path"):
        refuse_listener(Address(host, 8080), settings)
    refuse_listener(Address(host, 8080, proxy=True), settings)
    refuse_listener(Address(host, 8080), evolve(settings, trusted_proxies=(IPv4Network("192.0.2.9"),)))


@pytest.mark.parametrize("host", EVERYBODY)
def test_the_proxy_of_another_listener_does_not_excuse_one_that_is_marked_plain_and_direct(host: str) -> None:
    proxies = settings_for_production(trusted_proxies="127.0.0.1,10.0.0.0/8")
    certified = evolve(proxies, tls_cert="/c", tls_key="/k")
    at = Address(host, 8080, tls=False, proxy=False)
    with pytest.raises(NotForProduction, match=r"in spite of the certificate; remove \+plain; or \+direct"):
        refuse_listener(at, certified)
    # Each of them alone may be for a proxy that speaks HTTP.
    refuse_listener(evolve(at, proxy=None), certified)
    refuse_listener(at, proxies)
    refuse_listener(evolve(at, host="127.0.0.1"), certified)


@pytest.mark.parametrize(
    "address",
    [
        Address("127.0.0.1", 1),
        Address("127.1.2.3", 1),
        Address("::1", 1),
        Address("localhost", 1),
        Address(path="/s"),
    ],
)
def test_plain_listener_for_this_machine_is_fine(address: Address) -> None:
    refuse_listener(address, Settings(production=True))


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "8.8.8.8", "relay.example.org"])
def test_metrics_for_everybody_are_refused_and_those_of_a_private_network_are_not(host: str) -> None:
    with pytest.raises(NotForProduction, match="everybody could read the metrics"):
        refuse_metrics_listener(Address(host, 9464), Settings(production=True))
    refuse_metrics_listener(Address(host, 9464), Settings())
    for private in (
        Address("10.0.0.5", 9464),
        Address("fd00::1", 9464),
        Address("::1", 9464),
        Address(path="/m"),
    ):
        refuse_metrics_listener(private, Settings(production=True))


LIMITS = [attribute for attribute in Settings.__attrs_attrs__ if setting_of(attribute).weakest is not None]


@pytest.mark.parametrize("name", [attribute.name for attribute in LIMITS])
def test_limit_that_is_weaker_than_its_floor_is_refused_and_the_floor_itself_is_not(name: str) -> None:
    weakest = next(setting_of(attribute).weakest for attribute in LIMITS if attribute.name == name)
    assert weakest is not None
    assert load({"production": "true", name: f"{weakest:.12g}"}, {}).settings
    weaker = {name: f"{weakest + 1:.12g}"}
    assert load(weaker, {}).settings
    with pytest.raises(
        BadSetting, match=f"^{name.replace('_', '-')}: .* is too weak a limit for production; set it"
    ):
        load({"production": "true", **weaker}, {})


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "::/0", "128.0.0.0/1", "2000::/3"])
def test_to_trust_everybody_as_a_proxy_is_refused(everybody: str) -> None:
    with pytest.raises(BadSetting, match=f"^trusted-proxies: {everybody} lets everybody say who he is"):
        load({"production": "true", "trusted_proxies": f"10.0.0.0/8,{everybody}"}, {})
    assert load({"trusted_proxies": everybody}, {}).settings


def test_every_bound_on_what_strangers_may_take_has_a_floor() -> None:
    names = Settings.__annotations__
    bounds = {"grace", *(name for name in names if name.startswith("max_") or name.endswith("_timeout"))}
    # How long a drain takes is the operator's own affair.
    assert bounds - {attribute.name for attribute in LIMITS} == {"drain_timeout"}


def test_check_says_what_a_start_would_end_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", "/dev/null", "--production", "--listen", ":8080"]) == 2
    assert "relayd: production: :8080 would take anybody's connections" in capsys.readouterr().err
    behind = ["--trusted-proxies", "127.0.0.1"]
    assert main(["check", "--config", "/dev/null", "--production", "--listen", ":8080", *behind]) == 2
    capsys.readouterr()
    assert main(["check", "--config", "/dev/null", "--production", *behind]) == 0
    assert main(["check", "--config", "/dev/null", "--production"]) == 0


@pytest.mark.parametrize(
    ("uid", "capabilities", "flags", "said"),
    [
        (0, "0", ["--production"], True),
        (1000, "1400", ["--production"], True),
        (1000, "400", ["--production"], False),
        (0, "0", [], False),
    ],
)
def test_check_by_root_passes_and_says_that_the_start_looks_at_who_runs_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    capabilities: str,
    flags: list[str],
    said: bool,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    read_text = Path.read_text

    def read(path: Path, *options: str) -> str:
        return f"CapEff:\t{capabilities}\n" if path == Path("/proc/self/status") else read_text(path, *options)

    monkeypatch.setattr(Path, "read_text", read)
    assert main(["check", "--config", "/dev/null", *flags]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == len(fields(Settings))
    assert shown.err.count("\n") == said
    assert ("who runs it is looked at when it starts" in shown.err) is said


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--listen", "0.0.0.0:0"], "production: 0.0.0.0:0 would take anybody's connections without TLS"),
        (["--metrics-listen", "0.0.0.0:0"], "production: everybody could read the metrics at 0.0.0.0:0"),
        (
            ["--max-buffered-bytes", "2147483649"],
            "max-buffered-bytes: 2147483649 is too weak a limit for production",
        ),
        (["--max-connections", "400000"], "max-connections: 400000 is too weak a limit for production"),
    ],
)
def test_what_production_does_not_allow_ends_the_start_with_2_before_anything_is_opened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], line: str
) -> None:
    monkeypatch.setattr("relayd.cli.refuse_process", lambda: None)
    monkeypatch.setattr("relayd.cli.run", None)
    monkeypatch.setattr(System, "here", lambda: System(524_288, 4 * 1024**3))
    for command in ([], ["check"]):
        assert main([*command, "--config", "/dev/null", "--production", *flags]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith(f"relayd: {line}")
        assert (shown.out, shown.err.count("\n")) == ("", 1)
    if flags[0].startswith("--max"):
        assert main(["check", "--config", "/dev/null", *flags]) == 0


AS_NOBODY = (
    "-c",
    "import encodings.idna, os, sys, relayd.cli, relayd.ops.metrics_server\n"
    "os.setgroups([])\nos.setuid(65534)\nsys.exit(relayd.cli.main())\n",
)
"""relayd, whose files nobody but root may be able to read here."""


@needs_root
def test_relay_does_not_start_as_root_nor_for_everybody_and_does_as_an_ordinary_user(
    start_relay: Start,
) -> None:
    flags = ("--production", "--listen", "127.0.0.1:0")
    with socket.create_server(("0.0.0.0", 0)) as passed:
        number = passed.fileno()
        for refused, line in (
            (start_relay(*flags), "relayd would run as root; "),
            (
                start_relay("--production", "--listen", f"fd:{number}", program=AS_NOBODY, pass_fds=[number]),
                f"0.0.0.0:{passed.getsockname()[1]} would take anybody's connections without TLS; ",
            ),
            (
                start_relay(*flags, "--metrics-listen", f"fd:{number}", program=AS_NOBODY, pass_fds=[number]),
                "everybody could read the metrics at ",
            ),
        ):
            assert refused.process.wait(WAIT) == 2
            assert refused.log_text().startswith(f"relayd: production: {line}")
            # Nothing was listened on before.
            assert refused.log_text().count("\n") == 1
    ordinary = start_relay(*flags, program=AS_NOBODY)
    ordinary.event("listening")
    assert ordinary.stop() == 0


@needs_root
def test_a_reload_that_would_be_refused_at_the_start_is_refused(
    start_relay: Start, open_directory: Path
) -> None:
    file = open_directory / "relayd.toml"
    file.write_text('trusted-proxies = "10.0.0.1"\n')
    flags = ("--production", "--listen", "0.0.0.0:0", "--config", str(file))
    relay = start_relay(*flags, program=AS_NOBODY)

    def refused_with(beginning: str) -> bool:
        return any(event["error"].startswith(beginning) for event in relay.events("reload_refused"))

    relay.event("listening")
    for text, refusal in (
        ("", "production: 0.0.0.0:"),
        (
            f'trusted-proxies = "10.0.0.1"\nmax-buffered-bytes = {System.here().memory // 2 + 1}\n',
            "max-buffered-",
        ),
    ):
        file.write_text(text)
        relay.process.send_signal(signal.SIGHUP)
        until(partial(refused_with, refusal), refusal)
    assert relay.events("reloaded") == []
    assert relay.stop() == 0

"""Every setting by flag, by environment variable and by file, and the line that refuses a bad one."""

import re
from argparse import Namespace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from attrs import fields

from relayd.configuration import BadSetting, Loaded, load, reloaded
from relayd.flags import given
from relayd.setting import setting_of
from relayd.settings import Settings
from relayd.values import Address, Rate

GOOD = [
    ("listen", "unix:/run/r.sock", (Address(path="/run/r.sock"),)),
    ("listen", "fd:web,fd:3", (Address(fd="web"), Address(fd="3"))),
    ("listen", ":0,[::1]:8080", (Address("", 0), Address("::1", 8080))),
    ("listen", "8081", (Address("127.0.0.1", 8081),)),
    ("listen", "1,:2 [::1]:3", (Address("127.0.0.1", 1), Address("", 2), Address("::1", 3))),
    ("metrics_listen", "9464", (Address("127.0.0.1", 9464),)),
    (
        "metrics_listen",
        ":1,[::1]:2 0.0.0.0:3",
        (Address("127.0.0.1", 1), Address("::1", 2), Address("0.0.0.0", 3)),
    ),
    ("metrics_listen", "fd:metrics,unix:/run/m.sock", (Address(fd="metrics"), Address(path="/run/m.sock"))),
    ("proxy_protocol", "REQUIRE", "require"),
    (
        "trusted_proxies",
        "10.0.0.0/8, 192.0.2.7 2001:db8::/32,UNIX",
        (IPv4Network("10.0.0.0/8"), IPv4Network("192.0.2.7/32"), IPv6Network("2001:db8::/32"), "unix"),
    ),
    *((name, "0.25", 0.25) for name in ("grace", "heartbeat_interval", "heartbeat_timeout", "probe_timeout")),
    *((name, "7", 7.0) for name in ("handshake_timeout", "message_timeout", "write_timeout", "drain_timeout")),
    ("max_frame_bytes", "1000", 1000),
    ("max_phones", "3", 3),
    ("max_connections", "5000", 5000),
    ("max_connections_per_address", "50", 50),
    ("max_handshakes", "500", 500),
    ("upgrade_rate", "0", 0),
    ("upgrade_burst", "5", 5),
    ("outbox_bytes", "5000", 5000),
    ("production", "true", True),
    ("max_buffered_bytes", "1048576", 1048576),
    ("phone_rate", "1024/0", Rate(bytes=1024)),
    ("phone_rate", "0/1", Rate(frames=1)),
    ("binary_rate", "1048576/500", Rate(1048576, 500)),
    ("require_token", "false", False),
    ("log_level", "debug", "debug"),
    ("log_format", "text", "text"),
    ("domain", "Relay.example.org xn--bcher-kva.example", ("relay.example.org", "xn--bcher-kva.example")),
    ("http_listen", ":80,fd:http", (Address("", 80), Address(fd="http"))),
    ("state_dir", "/srv/state", "/srv/state"),
    ("acme_directory", "https://127.0.0.1:14000/dir", "https://127.0.0.1:14000/dir"),
    ("acme_ca_file", "/ca.pem", "/ca.pem"),
    ("acme_email", "a.b+c@example.org", "a.b+c@example.org"),
    ("acme_eab_file", "/eab.toml", "/eab.toml"),
    ("tls_cert", "/c.pem", "/c.pem"),
    ("tls_key", "/k.pem", "/k.pem"),
    ("admin_socket", "/run/r.sock", "/run/r.sock"),
    ("admin_socket", "unix:/run/r.sock", "/run/r.sock"),
    ("admin_socket", "OFF", "off"),
    ("admin_socket", "", "off"),
]


NOT_ALONE = {
    "tls_cert": {"tls_key": "/another.pem"},
    "tls_key": {"tls_cert": "/another.pem"},
    "proxy_protocol": {"trusted_proxies": "unix"},
    "http_listen": {"domain": "a.example"},
}
"""What has to be set, too."""


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_setting_is_taken_from_its_flag_and_from_its_variable(name: str, text: str, value: object) -> None:
    more = NOT_ALONE.get(name, {})
    assert getattr(load({name: text, **more}, {}).settings, name) == value
    assert getattr(load(more, {f"RELAYD_{name.upper()}": text}).settings, name) == value
    assert getattr(Settings(), name) != value


@pytest.mark.parametrize("name", sorted({name for name, _, _ in GOOD}))
def test_a_flag_wins_over_its_variable(name: str) -> None:
    text, value = next((text, value) for known, text, value in GOOD if known == name)
    other = {
        "listen": ":1",
        "metrics_listen": ":2",
        "proxy_protocol": "off",
        "trusted_proxies": "192.0.2.0/24",
        "production": "false",
        "require_token": "true",
        "log_level": "error",
        "log_format": "json",
        "admin_socket": "off",
        "tls_cert": "/other.pem",
        "tls_key": "/other.pem",
        "domain": "other.example",
        "http_listen": ":3",
        "state_dir": "/other",
        "acme_directory": "https://other.example/",
        "acme_ca_file": "/other.pem",
        "acme_email": "other@example.org",
        "acme_eab_file": "/other.toml",
        "max_buffered_bytes": "auto",
        "phone_rate": "off",
        "binary_rate": "off",
    }.get(name, "9")
    more = NOT_ALONE.get(name, {})
    assert getattr(load({name: text, **more}, {f"RELAYD_{name.upper()}": other}).settings, name) == value


PATHS = [a.name for a in fields(Settings) if setting_of(a).metavar in ("FILE", "DIR", "PATH")]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_in_a_flag_begins_at_the_current_directory_and_elsewhere_it_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    more = NOT_ALONE.get(name, {})
    typed = {
        "a/b.pem": f"{tmp_path}/a/b.pem",
        "../c": f"{tmp_path}/../c",
        "/d": "/d",
        "./off": f"{tmp_path}/off",
    }
    for text, path in typed.items():
        flags = given(Namespace(config="/dev/null", **{name: text}, **more))
        monkeypatch.chdir("/")
        assert getattr(load(flags, {}).settings, name) == path
        monkeypatch.chdir(tmp_path)
    assert (
        load(given(Namespace(config="/dev/null", **{name: "off"})), {}).settings
        == load({name: "off"}, {}).settings
    )
    file = tmp_path / "relayd.toml"
    file.write_text(f'{name.replace("_", "-")} = "b.pem"\n')
    refusal = r'is "b\.pem", but an absolute path \(or, in a flag alone, one from the current directory'
    with pytest.raises(BadSetting, match=refusal):
        load({}, {f"RELAYD_{name.upper()}": "b.pem"})
    with pytest.raises(BadSetting, match=refusal):
        load({"config": str(file)}, {})


def test_where_the_current_directory_is_gone_a_path_that_begins_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(BadSetting, match=r'"key\.pem", but an absolute path'):
        load(given(Namespace(config="/dev/null", tls_key="key.pem")), {})


def test_every_setting_is_in_the_table() -> None:
    assert {name for name, _, _ in GOOD} == {attribute.name for attribute in fields(Settings)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("grace", text) for text in ("", "-1", "nan", "inf", "1e3", "1_0", "86401", "1.", "a\nb")),
        ("heartbeat_interval", "0"),
        *(("max_phones", text) for text in ("0", "-1", "1.5", "1000001", "9" * 30, "\u0663")),
        *(("max_connections", text) for text in ("0", "many", "", "1000001")),
        *(("upgrade_rate", text) for text in ("-1", "auto", "60001")),
        *(
            ("listen", text)
            for text in (
                "",
                "localhost",
                ":65536",
                "65536",
                "8080x",
                "1,127.0.0.1:1",
                "unix:r",
                "::1:80",
                ":1,:1",
                "fd:",
                "fd:a:b",
                "unix:/" + "a" * 107,
            )
        ),
        *(("metrics_listen", text) for text in ("", "localhost", "fd:", ":65536", "9464,:9464", "unix:m")),
        *(("proxy_protocol", text) for text in ("", "on", "v2", "true")),
        *(
            ("trusted_proxies", text)
            for text in (
                "",
                "localhost",
                "10.0.0.1/8",
                "10.0.0.0/33",
                "10.0.0.0/255.0.0.0",
                "10.0.0",
                "010.0.0.0/8",
                "10.0.0.0/8,10.0.0.0/8",
                "off,10.0.0.0/8",
                "::1/64",
                "fe80::1%lo",
                "[::1]",
                "::ffff:10.0.0.1",
                "::ffff:10.0.0.0/104",
                "unix:/run/r.sock",
            )
        ),
        *(
            ("domain", text)
            for text in (
                *(
                    "localhost",
                    "*.example.org",
                    "a.example.",
                    "a..example",
                    "-a.example",
                    "a-.example",
                    "a_b.example",
                ),
                *(
                    "192.0.2.1",
                    "2001:db8::1",
                    "bücher.example",
                    "a.example,A.example",
                    "a.example/b",
                    "a.example:443",
                ),
                *("a" * 64 + ".example", "a." * 126 + "example", "b\u0663.example"),
            )
        ),
        *(("http_listen", text) for text in (":65536", "unix:h", ":80,:80", ":80+tls")),
        *(("state_dir", text) for text in ("state", "/a\0b", "/a\nb")),
        *(
            ("acme_directory", text)
            for text in (
                "",
                "http://a.example/",
                "https://",
                "https://a:b@c.example/",
                "https://a.example/ b",
                "ftp:",
            )
        ),
        *(("acme_email", text) for text in ("a", "a@", "@b", "a@b,c@d", "a@b?subject=c", "a b@c", "a@b\n")),
        *(("acme_ca_file", text) for text in ("ca.pem", "/a\0b")),
        *(("acme_eab_file", text) for text in ("eab.toml", "/a\0b")),
        *(("max_buffered_bytes", text) for text in ("", "0", "1048575", "1.5", "autos", "-1")),
        *(("phone_rate", text) for text in ("", "0", "1023/0", "1024", "/", "1024/-1", "a/b", "2048/1/1")),
        ("binary_rate", "1/1"),
        ("require_token", "maybe"),
        ("log_level", "loud"),
        ("log_format", "xml"),
        *(("admin_socket", text) for text in ("r.sock", "yes", "/" + "a" * 107, "/a\0b")),
    ],
)
def test_a_bad_value_is_refused_in_one_line_naming_setting_source_and_value(name: str, text: str) -> None:
    with pytest.raises(BadSetting) as refusal:
        load({}, {f"RELAYD_{name.upper()}": text})
    line = str(refusal.value)
    assert line.startswith(f"the environment variable RELAYD_{name.upper()} is ")
    assert line.endswith(" is accepted")
    assert line.isprintable()
    with pytest.raises(BadSetting, match=f"^the flag --{name.replace('_', '-')} is "):
        load({name: text}, {})


def test_a_mapped_address_of_a_proxy_is_refused_with_the_reason() -> None:
    with pytest.raises(BadSetting, match=r"\(as IPv4, never ::ffff:"):
        load({"trusted_proxies": "::ffff:10.0.0.1"}, {})


def from_file(path: Path, text: str) -> Loaded:
    path.write_text(text)
    return load({"config": str(path)}, {})


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ('listen = ":0"', "listen", (Address("", 0),)),
        ('listen = [":0", "unix:/run/r.sock"]', "listen", (Address("", 0), Address(path="/run/r.sock"))),
        ("listen = 8081", "listen", (Address("127.0.0.1", 8081),)),
        ('listen = [8081, ":8082"]', "listen", (Address("127.0.0.1", 8081), Address("", 8082))),
        ("grace = 5", "grace", 5.0),
        ("grace = 0.5", "grace", 0.5),
        ('grace = "7"', "grace", 7.0),
        ("max-phones = 3", "max_phones", 3),
        ("require-token = false", "require_token", False),
    ],
)
def test_a_setting_is_taken_from_the_file_under_the_name_of_its_flag(
    tmp_path: Path, line: str, name: str, value: object
) -> None:
    path = tmp_path / "relayd.toml"
    loaded = from_file(path, line)
    assert getattr(loaded.settings, name) == value
    assert loaded.sources[name] == f"{name.replace('_', '-')} in {path}"
    assert loaded.sources["log_level"] == "the default"


def test_a_variable_wins_over_the_file_and_a_flag_over_both(tmp_path: Path) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("max-phones = 1\ngrace = 1\nhandshake-timeout = 1\n")
    variables = {"RELAYD_CONFIG": str(path), "RELAYD_GRACE": "2", "RELAYD_HANDSHAKE_TIMEOUT": "2"}
    loaded = load({"handshake_timeout": "3"}, variables)
    settings = loaded.settings
    assert (settings.max_phones, settings.grace, settings.handshake_timeout) == (1, 2, 3)
    assert loaded.sources["grace"] == "the environment variable RELAYD_GRACE"
    assert loaded.sources["handshake_timeout"] == "the flag --handshake-timeout"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_phones = 3", ['there is no setting "max_phones"', "did you mean max-phones?"]),
        ("max-fones = 3", ['there is no setting "max-fones"', "did you mean max-phones?"]),
        ("xyzzy = 3", ['there is no setting "xyzzy"']),
        ("grace = true", ["grace in ", '"true"', "a number of seconds"]),
        ("[grace]\na = 1", ["grace in ", "a number of seconds"]),
        ("grace = 1979-05-27", ["grace in ", "a number of seconds"]),
        ("max-phones = 1.5", ["max-phones in ", '"1.5"']),
        ("listen = []", ["listen in ", "an address such as"]),
        ("grace =", ["is not TOML"]),
        (f"grace = {'9' * 5000}", ["is not TOML"]),
        (f"grace = {'[' * 5000}", ["is not TOML"]),
        ("grace = 1\ngrace = 2", ["is not TOML"]),
    ],
)
def test_a_file_that_is_refused_is_refused_in_one_line(tmp_path: Path, text: str, named: list[str]) -> None:
    with pytest.raises(BadSetting) as refusal:
        from_file(tmp_path / "relayd.toml", text)
    line = str(refusal.value)
    assert [part for part in named if part not in line] == []
    assert "relayd.toml" in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "source", ["the flag --max-phones", "the environment variable RELAYD_MAX_PHONES", "file"]
)
def test_a_value_that_is_refused_is_named_once_with_where_it_comes_from(tmp_path: Path, source: str) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("max-phones = 'many'\n" if source == "file" else "")
    flags = {"config": str(path), **({"max_phones": "many"} if "flag" in source else {})}
    variables = {"RELAYD_MAX_PHONES": "many"} if "variable" in source else {}
    with pytest.raises(BadSetting) as refusal:
        load(flags, variables)
    named = f"max-phones in {path}" if source == "file" else source
    assert str(refusal.value) == f'{named} is "many", but a whole number from 1 to 1000000 is accepted'


def test_a_file_that_was_named_must_be_there_and_readable(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(BadSetting, match=problem):
            load({"config": str(path)}, {})
    path = tmp_path / "latin"
    path.write_bytes(b"\xe9")
    with pytest.raises(BadSetting, match="is not UTF-8"):
        load({"config": str(path)}, {})


def test_only_live_settings_change_while_running() -> None:
    old = Settings()
    new = load({"max_phones": "3", "log_level": "debug", "grace": "1", "listen": ":0"}, {}).settings
    settings, changed, needs_restart = reloaded(old, new)
    assert changed == ["max_phones", "log_level"]
    assert needs_restart == ["listen", "grace"]
    assert (settings.max_phones, settings.log_level, settings.grace) == (3, "debug", old.grace)


def test_sockets_that_were_passed_on_are_where_to_listen_if_nobody_says() -> None:
    passed = (Address(fd="web"), Address(fd="4"))
    loaded = load({}, {}, passed)
    assert (loaded.settings.listen, loaded.sources["listen"]) == (passed, "LISTEN_FDS")
    assert load({}, {"RELAYD_LISTEN": ":0"}, passed).settings.listen == (Address("", 0),)
    assert load({"listen": "fd:4"}, {}, passed).settings.listen == (Address(fd="4"),)


def test_a_socket_that_metrics_take_is_none_of_those_to_listen_on_if_nobody_says() -> None:
    passed = (Address(fd="web"), Address(fd="metrics"))
    loaded = load({"metrics_listen": "fd:metrics"}, {}, passed)
    assert (loaded.settings.listen, loaded.sources["listen"]) == (passed[:1], "LISTEN_FDS")
    only = load({"metrics_listen": "fd:metrics"}, {}, passed[1:])
    assert (only.settings.listen, only.sources["listen"]) == (Settings().listen, "the default")


REQUIRING = [
    {"listen": ":0+proxy"},
    {"listen": ":0,fd:web+proxy"},
    {"listen": ":0", "proxy_protocol": "require"},
    {"proxy_protocol": "require"},
]


@pytest.mark.parametrize("flags", REQUIRING)
def test_a_proxy_header_is_required_from_proxies_that_are_named(flags: dict[str, str]) -> None:
    with pytest.raises(BadSetting) as refusal:
        load(flags, {})
    line = str(refusal.value)
    assert line.startswith("trusted-proxies: is not set, but ")
    assert line.endswith("--trusted-proxies 127.0.0.1")
    assert line.isprintable()
    load({**flags, "trusted_proxies": "127.0.0.1"}, {})


def test_a_proxy_header_on_a_unix_socket_is_required_from_whoever_may_open_it() -> None:
    load({"listen": "unix:/run/r.sock+proxy"}, {})
    load({"listen": "unix:/run/r.sock,:0+direct", "proxy_protocol": "require"}, {})
    with pytest.raises(BadSetting, match="trusted-proxies"):
        load({"listen": "unix:/run/r.sock,:0", "proxy_protocol": "require"}, {})


def test_a_reload_that_leaves_a_listener_without_its_proxies_is_refused() -> None:
    old = load({"listen": ":0+proxy", "trusted_proxies": "127.0.0.1"}, {}).settings
    new = load({"listen": ":0"}, {}).settings
    with pytest.raises(BadSetting, match="trusted-proxies"):
        reloaded(old, new)
    new = load({"listen": ":0", "trusted_proxies": "10.0.0.0/8"}, {}).settings
    settings, changed, needs_restart = reloaded(old, new)
    assert (changed, needs_restart) == (["trusted_proxies"], ["listen"])
    assert settings.trusted_proxies == (IPv4Network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            {"http_listen": ":80"},
            "http-listen: is set, but domain is not, so no CA would come there: set domain to",
        ),
        (
            {"domain": "a.example", "listen": ":80+plain"},
            "domain: is set, but every listener is marked +plain, so nobody would see its certificate: "
            "leave +plain away from one of them, or add one",
        ),
        (
            {"listen": ":443+tls"},
            "listen: :443+tls is to speak TLS, for which domain, or tls-cert and tls-key,",
        ),
        ({"tls_key": "/k.pem"}, "tls-cert: is not set, but tls-key is"),
    ],
)
def test_settings_that_cannot_be_together_are_refused_in_one_line(flags: dict[str, str], line: str) -> None:
    with pytest.raises(BadSetting, match=f"^{re.escape(line)}"):
        load(flags, {})


def test_a_domain_has_every_listener_speak_tls_that_is_not_marked_plain() -> None:
    settings = load({"domain": "a.example", "listen": ":443,127.0.0.1:8080+plain"}, {}).settings
    assert [settings.resolved(address).tls for address in settings.listen] == [True, False]


def test_a_passed_socket_that_is_for_challenges_is_none_to_listen_on() -> None:
    passed = (Address(fd="relayd"), Address(fd="http"))
    loaded = load({"domain": "a.example", "http_listen": "fd:http"}, {}, passed)
    assert loaded.settings.listen == (Address(fd="relayd"),)

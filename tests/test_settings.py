"""Every setting by flag and by environment variable, and the line that refuses a bad one."""

import pytest
from attrs import fields

from relayd.settings import Address, BadSetting, Settings, load

GOOD = [
    ("listen", "unix:/run/r.sock", (Address(path="/run/r.sock"),)),
    ("listen", ":0,[::1]:8080", (Address("", 0), Address("::1", 8080))),
    *((name, "0.25", 0.25) for name in ("grace", "heartbeat_interval", "heartbeat_timeout", "probe_timeout")),
    *((name, "7", 7.0) for name in ("handshake_timeout", "message_timeout", "write_timeout", "drain_timeout")),
    ("max_frame_bytes", "1000", 1000),
    ("max_phones", "3", 3),
    ("outbox_bytes", "5000", 5000),
    ("require_token", "false", False),
    ("log_level", "debug", "debug"),
    ("log_format", "text", "text"),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_setting_is_taken_from_its_flag_and_from_its_variable(name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}, {}), name) == value
    assert getattr(load({}, {f"RELAYD_{name.upper()}": text}), name) == value
    assert getattr(Settings(), name) != value


@pytest.mark.parametrize("name", sorted({name for name, _, _ in GOOD}))
def test_a_flag_wins_over_its_variable(name: str) -> None:
    text, value = next((text, value) for known, text, value in GOOD if known == name)
    other = {"listen": ":1", "require_token": "true", "log_level": "error", "log_format": "json"}.get(name, "9")
    assert getattr(load({name: text}, {f"RELAYD_{name.upper()}": other}), name) == value


def test_every_setting_is_in_the_table() -> None:
    assert {name for name, _, _ in GOOD} == {attribute.name for attribute in fields(Settings)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("grace", text) for text in ("", "-1", "nan", "inf", "1e3", "1_0", "86401", "1.", "a\nb")),
        ("heartbeat_interval", "0"),
        *(("max_phones", text) for text in ("0", "-1", "1.5", "1000001", "9" * 30, "\u0663")),
        *(
            ("listen", text)
            for text in ("", "8080", ":65536", "unix:r", "::1:80", ":1,:1", "unix:/" + "a" * 107)
        ),
        ("require_token", "maybe"),
        ("log_level", "loud"),
        ("log_format", "xml"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_naming_setting_source_and_value(name: str, text: str) -> None:
    with pytest.raises(BadSetting) as refusal:
        load({}, {f"RELAYD_{name.upper()}": text})
    line = str(refusal.value)
    assert line.startswith(f"{name.replace('_', '-')}: the environment variable RELAYD_{name.upper()} is ")
    assert line.endswith(" is accepted")
    assert line.isprintable()
    with pytest.raises(BadSetting, match=f"the flag --{name.replace('_', '-')} is "):
        load({name: text}, {})

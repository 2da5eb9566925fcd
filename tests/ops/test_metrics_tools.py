"""The metrics of the real daemon, its alert rules and its dashboard, as Prometheus' own tools see them."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import trustme
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from relayd.ops.metrics import FAMILIES, as_markdown
from tests.relay_process import RelayProcess, relay_factory

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "prometheus/relayd.rules.yml"
DASHBOARD = json.loads((DOCS / "grafana/relayd.json").read_text())


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool, with ``text`` on its standard input."""
    program = which("promtool")
    assert program, "promtool is missing: apt-get install prometheus"
    return subprocess.run([program, *arguments], input=text, capture_output=True, text=True)


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run curl."""
    assert which("curl"), "curl is missing: apt-get install curl"
    return subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A daemon that serves metrics on a free port, and speaks TLS on one of its listeners."""
    directory = tmp_path_factory.mktemp("relay")
    pair = trustme.CA().issue_cert("relay.example.org")
    pair.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    pair.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "key.pem").chmod(0o600)
    flags = ("--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem"))
    listen = ("--listen", "127.0.0.1:0+plain", "--listen", f"unix:{directory}/tls.sock")
    with relay_factory(directory) as start:
        yield start("--metrics-listen", "0", *flags, *listen)


def scrape(relay: RelayProcess, *arguments: str) -> str:
    return curl(*arguments, f"http://{relay.event('metrics_listening')['address']}/metrics").stdout


def live_names(relay: RelayProcess) -> set[str]:
    names = set(re.findall(r"^([a-zA-Z_:][\w:]*)[{ ]", scrape(relay), re.MULTILINE))
    # Made by Prometheus itself for every scrape.
    return names | {"up"}


def test_promtool_finds_no_fault_in_a_scrape(metered: RelayProcess) -> None:
    found = promtool("check", "metrics", text=scrape(metered))
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_openmetrics_is_read_by_its_own_parser_and_has_every_metric(metered: RelayProcess) -> None:
    text = scrape(metered, "-H", "accept: application/openmetrics-text")
    parse: Callable[[str], Iterator[Metric]] = text_string_to_metric_families
    families = {family.name: family for family in parse(text)}
    for family in FAMILIES:
        name = family.name.removesuffix("_total")
        assert families[name].documentation == family.help
        assert families[name].type == family.type


def test_process_and_interpreter_are_there_too(metered: RelayProcess) -> None:
    assert {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "python_info",
        "python_gc_collections_total",
    } <= live_names(metered)


def test_a_port_alone_is_this_machine_only_and_none_is_off(
    metered: RelayProcess, start_relay: Callable[..., RelayProcess]
) -> None:
    assert metered.event("metrics_listening")["address"].startswith("127.0.0.1:")
    silent = start_relay()
    silent.event("listening")
    assert silent.stop() == 0
    assert silent.events("metrics_listening") == []


def test_metrics_are_served_on_a_unix_socket_whose_file_goes_in_the_end(
    tmp_path: Path, start_relay: Callable[..., RelayProcess]
) -> None:
    path = tmp_path / "metrics.sock"
    relay = start_relay("--metrics-listen", f"unix:{path}")
    relay.event("metrics_listening", address=f"unix:{path}")
    answer = curl("-i", "--unix-socket", str(path), "http://relay/metrics").stdout
    assert answer.startswith("HTTP/1.1 200 OK")
    assert relay.stop() == 0
    assert not path.exists()


def test_address_in_use_is_a_start_that_fails_with_a_line(
    metered: RelayProcess, start_relay: Callable[..., RelayProcess]
) -> None:
    address = metered.event("metrics_listening")["address"]
    relay = start_relay("--metrics-listen", address)
    assert relay.process.wait(20) == 1
    assert f"relayd: cannot listen on {address}: address in use" in relay.log_text()


def test_alert_rules_are_in_order_and_fire_when_they_should() -> None:
    found = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert found.returncode == 0, found.stdout + found.stderr
    found = promtool("test", "rules", str(RULES.with_name("relayd.rules.test.yml")))
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_has_a_test() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    tested = set(re.findall(r"alertname: (\w+)", RULES.with_name("relayd.rules.test.yml").read_text()))
    assert alerts == tested


def test_alert_rules_ask_for_nothing_that_is_not_there(metered: RelayProcess) -> None:
    assert names_in(RULES.read_text()) - live_names(metered) == set()


def names_in(text: str) -> set[str]:
    """The metrics that expressions in ``text`` name, by what they begin with and what follows."""
    return set(re.findall(r"\b(?:relayd|process|python)_\w+(?=[{\[) ]|$)|\bup(?=\{)", text))


def expressions(part: Any) -> Iterator[str]:
    """Every PromQL expression in a dashboard."""
    if isinstance(part, dict):
        if isinstance(part.get("expr"), str):
            yield part["expr"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from expressions(inner)


def test_every_expression_of_the_dashboard_parses_and_asks_for_what_is_there(
    metered: RelayProcess, tmp_path: Path
) -> None:
    found = list(expressions(DASHBOARD))
    live = live_names(metered)
    rules = []
    for number, expression in enumerate(found):
        assert names_in(expression), expression
        assert names_in(expression) - live == set(), expression
        filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
        assert "$" not in filled
        rules.append({"record": f"dashboard:{number}", "expr": filled})
    assert len(found) > 20
    path = tmp_path / "dashboard.rules.yml"
    # JSON is YAML.
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(found)} rules found" in checked.stdout


def test_an_expression_that_does_not_parse_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.rules.yml"
    path.write_text(
        json.dumps({"groups": [{"name": "a", "rules": [{"record": "a:b", "expr": "sum(rate(up[5m])"}]}]})
    )
    assert promtool("check", "rules", str(path)).returncode != 0
    assert names_in("sum(rate(relayd_nowhere_total[5m]))") == {"relayd_nowhere_total"}


def test_dashboard_shows_every_metric_and_can_be_imported() -> None:
    shown = set().union(*(names_in(expression) for expression in expressions(DASHBOARD)))
    missing = {family.name for family in FAMILIES if not shown & {family.name, f"{family.name}_bucket"}}
    assert missing == set()
    assert DASHBOARD["uid"] == "relayd"
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "instance"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_operations_document_holds_the_table_of_the_metrics() -> None:
    assert as_markdown() in (DOCS / "operations.md").read_text()

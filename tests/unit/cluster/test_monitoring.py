"""What Prometheus and Grafana are told: every metric and label exists, every alert was seen to be raised, promtool agrees.

Not shown: that Grafana draws it; it cannot be had here. That Ray serves our metrics: tests/ray/test_seen.py.
"""

from __future__ import annotations

import inspect
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client import generate_latest
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder
from ray.autoscaler._private.prom_metrics import AutoscalerPrometheusMetrics
from ray.core.generated.gcs_pb2 import ActorTableData
from ray.dashboard import http_server_head
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels
from ray.dashboard.modules.reporter import reporter_head

from anchornet.cascade.rows import FAILED, OK, UNREADABLE
from jobs.shell.metrics import COUNTERS, GAUGES, HISTOGRAMS, NAMES
from tests.unit.cluster.cluster_files import AWS, GCP, ROOT, cluster_of, too_old
from tests.unit.cluster.kuberay_files import documents_of
from tests.unit.cluster.monitoring_files import (
    CASES,
    CONFIG,
    DASHBOARD,
    EXPOSED,
    FOLDER,
    GROUPS,
    RAYS_OWN,
    RULES,
    VARIABLES,
    all_expressions,
    data_sources,
    labels_in,
    metrics_in,
    panel_expressions,
)

PAGE = (ROOT / "docs" / "cluster.md").read_text()
EXPRESSIONS = all_expressions()

each_alert = pytest.mark.parametrize("alert", sorted(RULES))
each_expression = pytest.mark.parametrize("where", sorted(EXPRESSIONS))
as_installed = pytest.mark.skipif(too_old(), reason="the cluster files are for the Ray of cluster/Dockerfile")


def promtool(*words: str) -> str:
    """What promtool says; fails when it objects."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (it comes with Prometheus)")
    done = subprocess.run([found, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@as_installed
def test_ray_shows_prometheus_our_metrics_under_their_names() -> None:
    # What a node's agent does with what the ledger's process sends it.
    recorder = OpenTelemetryMetricRecorder()
    for name, text in COUNTERS.items():
        recorder.register_counter_metric(name, text)
    for name, text in GAUGES.items():
        recorder.register_gauge_metric(name, text)
    for name, text in HISTOGRAMS.items():
        recorder.register_histogram_metric(name, text, [1.0, 2.0])
    for name in NAMES:
        recorder.set_metric_value(name, {"run": "photos-1a2b3c"}, 1.0)
    shown = set(re.findall(r"^(ray_anchornet_\w+)\{", generate_latest().decode(), re.MULTILINE))
    assert shown == set(EXPOSED)


@each_expression
def test_every_metric_exists(where: str) -> None:
    named = metrics_in(EXPRESSIONS[where])
    assert named or EXPRESSIONS[where].startswith("ALERTS{")
    assert sorted(named - set(EXPOSED) - set(RAYS_OWN)) == []


def test_every_metric_of_ours_is_seen_somewhere() -> None:
    seen = set().union(*map(metrics_in, EXPRESSIONS.values()))
    assert sorted(f"ray_{name}" for name in NAMES if not seen & {f"ray_{name}", f"ray_{name}_bucket"}) == []


@each_expression
def test_every_label_is_one_of_its_metric_and_has_such_a_value(where: str) -> None:
    values = {"status": {OK, FAILED, UNREADABLE}, "State": set(ActorTableData.ActorState.keys())}
    for asked in labels_in(EXPRESSIONS[where]):
        assert asked.label in {**EXPOSED, **RAYS_OWN}[asked.metric]
        if asked.value and asked.label in values:
            assert set(asked.value.split("|")) <= values[asked.label]


@pytest.mark.parametrize(
    "wrong",
    [
        'ray_anchornet_images_to_label{exit="glance"}',
        "sum by (stage) (ray_anchornet_images_to_label)",
        "sum by (run, le) (ray_anchornet_batch_rows_sum)",
        "ray_anchornet_images_to_label and on (stage) ray_anchornet_batch_rows_count",
    ],
)
def test_a_label_that_a_metric_does_not_have_is_found(wrong: str) -> None:
    assert any(asked.label not in EXPOSED[asked.metric] for asked in labels_in(wrong))


@as_installed
def test_the_metrics_of_ray_itself_are_ones_that_it_has() -> None:
    autoscaler = AutoscalerPrometheusMetrics(session_name="s")
    panels = inspect.getsource(default_dashboard_panels)
    for name, labels in RAYS_OWN.items():
        if name.startswith("autoscaler_"):
            given = dict.fromkeys(labels, "s")
            getattr(autoscaler, name.removeprefix("autoscaler_")).labels(**given).set(3)
            assert autoscaler.registry.get_sample_value(name, given) == 3
        else:
            assert f'sum({name}{{{{Source="gcs",{{global_filters}}}}}}) by (State)' in panels
            assert re.search(rf"sum\({name}\{{.*\) by \(Name\)", panels)


def test_promtool_accepts_the_configuration_and_the_alerts() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "config", str(FOLDER / "prometheus.yml"))


def test_every_alert_is_raised_when_it_should_be_and_not_otherwise() -> None:
    promtool("test", "rules", str(FOLDER / "alerts_test.yml"))


@each_alert
def test_an_alert_has_a_case_that_raises_it_and_one_that_does_not(alert: str) -> None:
    checks = [check for case in CASES for check in case["alert_rule_test"] if check["alertname"] == alert]
    assert {bool(check["exp_alerts"]) for check in checks} == {True, False}


@each_alert
def test_an_alert_says_how_urgent_it_is_whom_it_is_about_and_where_to_read_on(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    said = rule["annotations"]["description"]
    assert "$value" in said and "$labels." in said and said.endswith(".")
    page, _, heading = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert heading in [each.lower().replace(" ", "-") for each in headings]
    assert f"`{alert}`" in PAGE


def test_the_page_names_no_alert_that_does_not_exist() -> None:
    assert set(re.findall(r"`(Anchornet\w+)`", PAGE)) == set(RULES)


@as_installed
def test_prometheus_asks_the_head_for_its_targets_with_the_token_of_the_cluster() -> None:
    [scraped] = CONFIG["scrape_configs"]
    [discovery] = scraped["http_sd_configs"]
    url = urlsplit(discovery["url"])
    assert f'@routes.get("{url.path}")' in inspect.getsource(reporter_head)
    assert url.path not in inspect.getsource(http_server_head)  # where the paths without a token are listed
    for path in (AWS, GCP):
        cluster = cluster_of(path)
        assert discovery["authorization"]["credentials_file"] in cluster["file_mounts"]
        assert f"--dashboard-host={url.hostname}" in " ".join(cluster["head_start_ray_commands"])
    assert url.port == 8265


def test_kubernetes_is_asked_as_often() -> None:
    [monitor] = documents_of("podmonitor")
    assert {each["interval"] for each in monitor["spec"]["podMetricsEndpoints"]} == {
        CONFIG["global"]["scrape_interval"]
    }


def test_the_command_of_the_page_makes_a_rule_of_the_prometheus_operator() -> None:
    [line] = [each for each in PAGE.splitlines() if "kind: PrometheusRule" in each]
    command, _, last = line.partition(" | ")
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert last.startswith("kubectl apply ")
    assert yaml.safe_load(made) == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "anchornet"},
        "spec": {"groups": GROUPS},
    }


def test_promtool_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [*panel_expressions().values(), *(each["expr"] for each in DASHBOARD["annotations"]["list"])]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def test_the_dashboard_has_an_address_of_its_own_and_takes_any_data_source() -> None:
    assert DASHBOARD["uid"] == "anchornet"
    assert "id" not in DASHBOARD  # a number of one Grafana
    assert VARIABLES["datasource"]["type"] == "datasource"
    named = list(data_sources(DASHBOARD))
    assert len(named) > len(DASHBOARD["panels"])
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in named)


def test_every_variable_is_declared_and_used() -> None:
    text = (FOLDER / "grafana" / "anchornet.json").read_text()
    assert set(re.findall(r"\$\{?([a-z]+)", text)) == set(VARIABLES)
    assert VARIABLES["run"]["query"]["query"] == "label_values(ray_anchornet_images_to_label, run)"


def test_every_panel_says_what_it_shows_and_has_its_own_number_and_place() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"] and panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_grafana_finds_the_dashboard_where_the_page_puts_it() -> None:
    [provider] = yaml.safe_load((FOLDER / "grafana" / "provider.yaml").read_text())["providers"]
    assert f"/cluster/monitoring/grafana:{provider['options']['path']}:ro" in PAGE

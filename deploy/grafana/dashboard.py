"""Writes the Grafana dashboard, dashboards/inkit-exporter.json beside this file: `make dashboard`.

It uses Grafana's own SDK, because its types come from Grafana's schema: mypy finds a misspelt option, which Grafana
would silently ignore. Queries that panels share are written once, and panels are laid out by their order. If you only
want the dashboard, take the JSON. You need neither this file nor the SDK.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from zlib import crc32

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as values
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

COMMITTED: Final = Path(__file__).parent / "dashboards" / "inkit-exporter.json"

_DOCS = "https://github.com/inkit-exporter/inkit-exporter/blob/main/docs"
_DATASOURCE = values.DataSourceRef(type_val="prometheus", uid="${datasource}")

# Selectors. A target may have no cluster and no namespace.
_PLACE = 'job=~"$job", cluster=~"$cluster", namespace=~"$namespace"'
_EXPORTER = f'{{{_PLACE}, instance=~"$instance"}}'
_ACCOUNT = f'{{{_PLACE}, instance=~"$instance", account=~"$account"}}'
_DESTINATION = f'{{{_PLACE}, instance=~"$instance", account=~"$account", destination=~"$destination"}}'

# What the rules make of an account has no instance: the exporter that polls the account does.
_OF_THE_EXPORTERS = (
    f"and on (job, cluster, namespace, account) last_over_time(inkit_poll_interval_seconds{_ACCOUNT}[1h])"
)
_ALERTS = f'ALERTS{{{_PLACE}, alertname=~"Inkit.+", alertstate="firing"'
_FIRING = (
    f'({_ALERTS}, instance=~"$instance"}} or {_ALERTS}, instance="", account=""}} '
    f'or {_ALERTS}, instance="", account=~"$account"}} {_OF_THE_EXPORTERS})'
)

# A poll a minute is the default, and counters stand still in between: shorter steps would draw a comb.
_STEP = "1m"
# What "now" means for failures: long enough for a few polls and some batches, short enough to see that it is over.
_NOW = "15m"
_INKITS_LIMIT = 300

_GREEN, _YELLOW, _ORANGE, _RED, _BLUE, _GREY = "green", "yellow", "orange", "red", "blue", "#808080"
_FAILED_SHARE = ((None, _GREEN), (0.01, _YELLOW), (0.05, _ORANGE), (0.2, _RED))
_ANY_IS_BAD = ((None, _GREEN), (1, _RED))
_PER_MINUTE = "suffix:/min"
_LABELS_ONLY = ""

# Labels that tell accounts and exporters of the same name apart, where there are any: in queries, legends and tables.
_BY = "cluster, namespace"
_PREFIX = "{{cluster}} {{namespace}} "
_KEYS = {"cluster": "Cluster", "namespace": "Namespace"}

_Steps = Sequence[tuple[float | None, str]]
_P = TypeVar("_P", bargauge.Panel, stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel)


# Of series whose names end in a batch status or the outcome of a request.
_COLOURS: Final = {
    "completed|created|2..": _GREEN,
    "failed|4..": _RED,
    "5..": "dark-red",
    "in_progress": _BLUE,
    "pending": _YELLOW,
    "cancelled": _GREY,
    "timeout": _ORANGE,
}


def render() -> str:
    """The dashboard's JSON."""
    built = _dashboard().build()
    for panel in built.panels or []:
        panel.id_val = panel_id(f"{panel.type_val}: {panel.title}" if panel.type_val == "row" else panel.title or "")
    data = json.loads(JSONEncoder().encode(built))
    for link in data["links"]:
        del link["placement"]  # the SDK's default hides links in a menu
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def panel_id(title: str) -> int:
    """The id of a panel, to which alerts link. It stays when other panels come and go."""
    return crc32(title.encode()) % 100_000


def _dashboard() -> dashboard.Dashboard:
    board = (
        dashboard.Dashboard("Inkit exporter")
        .uid("inkit-exporter")
        .description("Documents that Inkit sends to destinations: is anything failing, where, since when.")
        .tags(["inkit", "prometheus"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("1m")
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(_link("Runbooks", f"{_DOCS}/runbooks.md"))
        .link(_link("Metrics", f"{_DOCS}/metrics.md"))
        .link(_link("About this dashboard", f"{_DOCS}/grafana.md"))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "Job", "label_values(inkit_poll_interval_seconds, job)"))
        .with_variable(
            _variable(
                "cluster", "Cluster", 'label_values(inkit_poll_interval_seconds{job=~"$job"}, cluster)'
            ).all_value(".*")
        )
        .with_variable(
            _variable(
                "namespace",
                "Namespace",
                'label_values(inkit_poll_interval_seconds{job=~"$job", cluster=~"$cluster"}, namespace)',
            ).all_value(".*")
        )
        .with_variable(_variable("instance", "Exporter", f"label_values(up{{{_PLACE}}}, instance)").all_value(".+"))
        .with_variable(
            _variable("account", "Account", f"label_values(inkit_poll_interval_seconds{_EXPORTER}, account)").all_value(
                ".+"
            )
        )
        .with_variable(
            _variable(
                "destination",
                "Destination",
                f"label_values(inkit_documents_completed_total{_ACCOUNT}, destination)",
            ).all_value(".+")
        )
        .annotation(
            _annotation("Firing alerts", _FIRING, _RED)
            .title_format("{{alertname}}")
            .text_format(_PREFIX + "{{account}} {{destination}}")
            .tag_keys("severity")
        )
        .annotation(
            _annotation("Exporter starts", f"process_start_time_seconds{_EXPORTER} * 1000", _BLUE)
            .title_format("Exporter started")
            .text_format(_PREFIX + "{{instance}}")
            .use_value_for_time(use_value_for_time=True)
        )
    )
    for title, panels in (
        ("Overview: is anything failing, where, since when", _overview()),
        ("Destinations", _destinations()),
        ("Accounts", _accounts()),
        ("The exporter, and what it spends of the API's budget", _exporter()),
    ):
        board.with_row(dashboard.Row(title))
        for panel in panels:
            board.with_panel(panel)
    return board


_Panels = list[bargauge.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel]


def _overview() -> _Panels:
    failed_now = f"sum by ({_BY}, account, destination) (increase(inkit_documents_failed_total{_DESTINATION}[{_NOW}]))"
    in_range = "[$__range:$__interval]"
    last_calm = f"max_over_time(timestamp({failed_now} == 0){in_range})"
    first_seen = f"min_over_time(timestamp({failed_now} > 0){in_range})"
    failed_in_range = (
        f"sum by ({_BY}, account, destination) (increase(inkit_documents_failed_total{_DESTINATION}[$__range] @ end()))"
    )
    alert_labels = {
        "severity": "Severity",
        "alertname": "Alert",
        "cluster": "Cluster",
        "namespace": "Namespace",
        "account": "Account",
        "destination": "Destination",
        "instance": "Exporter",
    }
    return [
        # `== bool`, so that all is well is 0, and nothing to look at is no value instead of a reassuring 0.
        _stat(
            "Exporters down",
            "Targets of the job that Prometheus can't scrape. While one is down, all other numbers here lack its "
            "accounts. See the runbook of InkitExporterDown.",
            f"sum(up{_EXPORTER} == bool 0)",
            empty="No target in the job",
            steps=_ANY_IS_BAD,
        ),
        _stat(
            "Accounts down",
            "Accounts whose last poll of Inkit's API failed. Their numbers are old. The row Accounts tells the reason.",
            f"sum(inkit_up{_ACCOUNT} == bool 0)",
            empty="No account polled yet",
            steps=_ANY_IS_BAD,
        ),
        _stat(
            "Firing alerts",
            "Alerts of rules.yml that fire; the table below names them.",
            # The objective is recorded at all times: with the rules loaded there is a 0, without them no value.
            f"count({_FIRING}) or 0 * count(inkit:slo_objective:ratio)",
            empty="rules.yml not loaded",
            steps=_ANY_IS_BAD,
        ).links([_link("Runbooks", f"{_DOCS}/runbooks.md")]),
        _stat(
            "Destinations with failures now",
            f"Destinations for which documents failed within the last {_NOW}, counted for each account.",
            f"sum({failed_now} > bool 0)",
            empty="No data",
            steps=_ANY_IS_BAD,
            width=4,
        ),
        _stat(
            "Failed documents",
            "Share of the documents finished in the time shown that failed. "
            "Documents that had finished when the exporter started are not counted.",
            _share("", "$__range"),
            unit="percentunit",
            empty="None finished",
            steps=_FAILED_SHARE,
            width=4,
        ).decimals(1),
        _stat(
            "Longest standstill",
            "For how long one unfinished batch has not changed, the longest of all. "
            "Red from 6 hours on; InkitBatchStuck also looks at what is usual.",
            f"max(time() - inkit_unfinished_batches_oldest_change_timestamp_seconds{_ACCOUNT})",
            unit="s",
            empty="None known",
            steps=((None, _GREEN), (1800, _YELLOW), (6 * 3600, _RED)),
            width=4,
        ),
        _stat(
            "Data age",
            "Time since the last complete poll of an account, the longest of all accounts. "
            "By default, the exporter withdraws an account's numbers after five minutes.",
            f"max(time() - inkit_last_successful_poll_timestamp_seconds{_ACCOUNT})",
            unit="s",
            empty="No data",
            steps=((None, _GREEN), (180, _YELLOW), (300, _RED)),
        ),
        _table(
            "Failing now",
            f"Destinations for which documents failed within {_NOW}. Since: the end of the last {_NOW} without a "
            "failure, or the first failure in the time shown; if that is the start of the time shown, widen it.",
            [
                _Column(
                    "Failing since",
                    f"1000 * (({last_calm} or {first_seen}) and on ({_BY}, account, destination) {failed_now} > 0)",
                    unit="dateTimeAsIsoNoDateIfToday",
                ),
                _Column("Failed", f"{failed_now} > 0", unit="short", decimals=0),
                _Column(
                    "Failed of finished",
                    _share(f"{_BY}, account, destination", _NOW) + " > 0",
                    unit="percentunit",
                    steps=_FAILED_SHARE,
                ),
            ],
            keys=_KEYS | {"account": "Account", "destination": "Destination"},
            empty="No document failed within the last " + _NOW,
        ).sort_by([common.TableSortByFieldState().display_name("Failed").desc(desc=True)]),
        _timeline(
            "When documents failed",
            "Destinations for which a document failed in the time shown. Each step shows which share of the documents "
            "that finished in it failed. Without finished documents, there is a gap.",
            _query(
                f"{_share('cluster, namespace, account, destination', '$__rate_interval')} "
                f"and on ({_BY}, account, destination) {failed_in_range} > 0",
                _PREFIX + "{{account}} · {{destination}}",
                step="5m",
            ),
            unit="percentunit",
            empty="No document failed in the time shown",
            steps=((None, _GREEN), (0.0001, _YELLOW), (0.05, _ORANGE), (0.2, _RED)),
        ),
        _table(
            "What fires",
            "Alerts that fire, and since when their condition is true. Click on a name to open the runbook.",
            [
                _Column(
                    "Since",
                    f"1000 * max by ({', '.join(alert_labels)}) (ALERTS_FOR_STATE and ignoring (alertstate) {_FIRING})",
                    unit="dateTimeAsIsoNoDateIfToday",
                )
            ],
            keys=alert_labels,
            empty="No alert fires",
            height=7,
        )
        .override_by_name("Severity", [_property("mappings", [_SEVERITY]), _COLOURED])
        .override_by_name(
            "Alert",
            [
                _property(
                    "links", [{"title": "Runbook", "url": _DOCS + "/runbooks.md#${__value.text}", "targetBlank": True}]
                )
            ],
        ),
        _timeline(
            "Polls of each account",
            "Whether the last poll of Inkit's API succeeded. A gap: the exporter was not scraped.",
            _query(f"min by ({_BY}, account) (inkit_up{_ACCOUNT})", _PREFIX + "{{account}}"),
            unit="bool_on_off",
            empty="No account polled yet",
            steps=((None, _RED), (1, _GREEN)),
            height=7,
        ).mappings([_SUCCEEDED]),
    ]


def _destinations() -> _Panels:
    def documents(kind: str = "") -> str:
        return f"sum by ({_BY}, account, destination) (inkit_batch_documents{kind}{_DESTINATION})"

    def per_minute(kind: str) -> str:
        documents = f"inkit_documents_{kind}_total{_DESTINATION}"
        return f"60 * sum by ({_BY}, account, destination) (rate({documents}[$__rate_interval]))"

    legend = _PREFIX + "{{account}} · {{destination}}"
    return [
        _table(
            "Documents of the recent batches",
            "Documents of all batches created within poll.lookback, 24 hours by default, as of the last complete poll. "
            "Withdrawn when that is older than poll.stale_after.",
            [
                _Column("Documents", documents(), unit="short"),
                _Column("Delivered", documents("_completed"), unit="short"),
                _Column("In progress", documents("_in_progress"), unit="short"),
                _Column("Failed", documents("_failed"), unit="short"),
                _Column(
                    "Failed of all",
                    f"{documents('_failed')} / ({documents()} > 0)",
                    unit="percentunit",
                    steps=_FAILED_SHARE,
                ),
            ],
            keys=_KEYS | {"account": "Account", "destination": "Destination"},
            empty="No recent batches, or their numbers are withdrawn",
            width=24,
        ).sort_by([common.TableSortByFieldState().display_name("Failed").desc(desc=True)]),
        _graph(
            "Documents failed",
            "Documents seen to fail, a minute. The diamonds are exemplars: each a batch_id of such a batch.",
            [_query(per_minute("failed"), legend, exemplar=True)],
            unit=_PER_MINUTE,
            empty="No data",
        ),
        _graph(
            "Documents delivered",
            "Documents seen to complete, a minute. The diamonds are exemplars: each a batch_id of such a batch.",
            [_query(per_minute("completed"), legend, exemplar=True)],
            unit=_PER_MINUTE,
            empty="No data",
        ),
        _graph(
            "Share of documents that failed, over an hour",
            "Share of the documents finished within the last hour that failed. InkitDestinationFailing fires above 20% "
            "if at least 5 documents failed.",
            [_query(_share(f"{_BY}, account, destination", "1h"), legend)],
            unit="percentunit",
            empty="No document finished in the time shown",
            lines=((None, "transparent"), (0.2, _RED)),
        ).max(1),
        _graph(
            "Documents in progress",
            "Documents of the recent batches that are neither delivered nor failed. If they grow without end, "
            "something is stuck.",
            [_query(documents("_in_progress"), legend)],
            unit="short",
            empty="No recent batches, or their numbers are withdrawn",
        ),
    ]


def _accounts() -> _Panels:
    def by_account(metric: str, aggregation: str = "max") -> str:
        return f"{aggregation} by ({_BY}, account) ({metric}{_ACCOUNT})"

    def increase(metric: str) -> str:
        return f"sum by ({_BY}, account) (increase({metric}{_ACCOUNT}[$__range]))"

    failures = f"inkit_poll_failures_total{_ACCOUNT}"
    return [
        _table(
            "Accounts",
            "Health of each account. Failed polls and documents, unreadable records and inferred counts are for the "
            "time shown, all else is now. Standstill: for how long an unfinished batch has not changed, the longest. "
            "A window that is cut lacks older batches: raise poll.max_batches.",
            [
                _Column("Last poll", by_account("inkit_up", "min"), unit="bool_on_off", mappings=[_SUCCEEDED]),
                _Column(
                    "Data age",
                    f"time() - {by_account('inkit_last_successful_poll_timestamp_seconds', 'min')}",
                    unit="s",
                    steps=((None, _GREEN), (180, _YELLOW), (300, _RED)),
                ),
                _Column(
                    "Polls that failed",
                    f"{increase('inkit_poll_failures_total')} / ({increase('inkit_polls_total')} > 0)",
                    unit="percentunit",
                    steps=((None, _GREEN), (0.01, _YELLOW), (0.2, _RED)),
                ),
                _Column("Batches", by_account("inkit_batches", "sum"), unit="short"),
                _Column(
                    "Newest batch",
                    f"1000 * {by_account('inkit_newest_batch_created_timestamp_seconds')}",
                    unit="dateTimeFromNow",
                ),
                _Column(
                    "Oldest unfinished",
                    f"time() - {by_account('inkit_oldest_unfinished_batch_created_timestamp_seconds', 'min')}",
                    unit="s",
                ),
                _Column(
                    "Standstill",
                    f"time() - {by_account('inkit_unfinished_batches_oldest_change_timestamp_seconds', 'min')}",
                    unit="s",
                    steps=((None, _GREEN), (1800, _YELLOW), (6 * 3600, _RED)),
                ),
                _Column(
                    "Failed documents",
                    _share(f"{_BY}, account", "$__range"),
                    unit="percentunit",
                    steps=_FAILED_SHARE,
                ),
                _Column("Unreadable records", increase("inkit_invalid_batches_total"), unit="short", decimals=0),
                _Column("Inferred counts", increase("inkit_repaired_batches_total"), unit="short", decimals=0),
                _Column("Window", by_account("inkit_window_truncated"), unit="bool_on_off", mappings=[_CUT]),
            ],
            keys=_KEYS | {"account": "Account"},
            empty="No account: is the exporter scraped?",
            width=24,
        ),
        _graph(
            "Batches by status",
            "Batches created within poll.lookback, by the status that Inkit gives them.",
            [
                _query(
                    f"sum by ({_BY}, account, batch_status) (inkit_batches{_ACCOUNT})",
                    _PREFIX + "{{account}} · {{batch_status}}",
                )
            ],
            unit="short",
            empty="No recent batches, or their numbers are withdrawn",
            stacked=True,
            coloured=True,
        ),
        _graph(
            "Batches created and finished",
            "Batches seen to appear and to finish, a minute. The diamonds are exemplars: a batch_id.",
            [
                _query(
                    f"60 * sum by ({_BY}, account) (rate(inkit_batches_created_total{_ACCOUNT}[$__rate_interval]))",
                    _PREFIX + "{{account}} · created",
                    exemplar=True,
                ),
                _query(
                    f"60 * sum by ({_BY}, account, batch_status) "
                    f"(rate(inkit_batches_finished_total{_ACCOUNT}[$__rate_interval]))",
                    _PREFIX + "{{account}} · {{batch_status}}",
                ),
            ],
            unit=_PER_MINUTE,
            empty="No data",
            coloured=True,
        ),
        _graph(
            "Batch duration, over an hour",
            "From a batch's creation until a poll sees it finished: the time within which half of the batches finish, "
            "and 95% of them. The diamonds are exemplars: a batch_id.",
            _quantiles("inkit_batch_duration_seconds", "1h", exemplar=True),
            unit="s",
            empty="No batch finished in the time shown",
        ),
        _graph(
            "Unfinished batches: age and standstill",
            "How long the oldest one has been under way (dashed), and how long one of them has not changed. "
            "InkitBatchStuck fires at a standstill of 6 hours, earlier where batches are quick, later where not.",
            [
                _query(
                    f"time() - {by_account('inkit_unfinished_batches_oldest_change_timestamp_seconds', 'min')}",
                    _PREFIX + "{{account}} · standstill",
                ),
                _query(
                    f"time() - {by_account('inkit_oldest_unfinished_batch_created_timestamp_seconds', 'min')}",
                    _PREFIX + "{{account}} · age",
                ),
            ],
            unit="s",
            empty="All batches are finished",
            lines=((None, "transparent"), (6 * 3600, _RED)),
        ).override_by_regexp(*_dashed("/ · age$/")),
        _graph(
            "Burn of the error budget",
            "How fast documents fail, compared with the objective. 1 is the pace that the objective allows. "
            "InkitSloBurnFast fires above 14.4 over one hour, or 6 over six hours. Needs rules.yml.",
            [
                _query(
                    f'inkit:slo_burn:rate1h{{{_PLACE}, account=~"$account"}} {_OF_THE_EXPORTERS}',
                    _PREFIX + "{{account}} · 1 h",
                ),
                _query(
                    f'inkit:slo_burn:rate1d{{{_PLACE}, account=~"$account"}} {_OF_THE_EXPORTERS}',
                    _PREFIX + "{{account}} · 1 d",
                ),
            ],
            unit="suffix:times",
            empty="No document finished in the time shown, or rules.yml is not loaded",
            lines=((None, "transparent"), (1, _YELLOW), (14.4, _RED)),
        ),
        _graph(
            "Polls that failed, by reason",
            "Failed polls in each step. The runbooks InkitKeyRejected and InkitApiFailing say what helps.",
            [
                _query(
                    f"sum by ({_BY}, account, reason) (increase({failures}[$__rate_interval]))",
                    _PREFIX + "{{account}} · {{reason}}",
                )
            ],
            unit="short",
            empty="No data",
            stacked=True,
        ).draw_style(values.GraphDrawStyle.BARS),
    ]


def _exporter() -> _Panels:
    def per_instance(metric: str) -> str:
        return f"max by ({_BY}, instance) ({metric}{_EXPORTER})"

    requests = f"inkit_api_requests_total{_ACCOUNT}"
    return [
        _table(
            "Exporters",
            "Each exporter that Prometheus scrapes. Its name opens its status page, where that address can be reached "
            "from here; it shows each account's last error.",
            [
                _Column("Scraped", per_instance("up"), unit="bool_on_off", mappings=[_SCRAPED]),
                _Column(
                    _LABELS_ONLY,
                    f"max by ({_BY}, instance, version, revision) (inkit_exporter_build_info{_EXPORTER})",
                ),
                _Column(
                    _LABELS_ONLY, f"max by ({_BY}, instance, shard, shards) (inkit_exporter_shard_info{_EXPORTER})"
                ),
                _Column("Running for", f"time() - {per_instance('process_start_time_seconds')}", unit="s", decimals=1),
                _Column(
                    "Configuration",
                    per_instance("inkit_exporter_config_last_reload_successful"),
                    unit="bool_on_off",
                    mappings=[_LOADED],
                ),
                _Column(
                    "Storage",
                    per_instance("inkit_exporter_storage_healthy"),
                    unit="bool_on_off",
                    mappings=[_WRITES],
                ),
                _Column(
                    "Clock behind Inkit's",
                    f"max by ({_BY}, instance) (inkit_api_clock_skew_seconds{_EXPORTER})",
                    unit="s",
                    steps=((None, _RED), (-60, _GREEN), (60, _RED)),
                ),
                _Column(
                    "Configuration of",
                    f"1000 * {per_instance('inkit_exporter_config_last_reload_success_timestamp_seconds')}",
                    unit="dateTimeAsIsoNoDateIfToday",
                ),
            ],
            keys=_KEYS
            | {
                "instance": "Exporter",
                "shard": "Shard",
                "shards": "Of shards",
                "version": "Version",
                "revision": "Revision",
            },
            empty="No target in the job",
            width=24,
            height=6,
        ).override_by_name(
            "Exporter",
            [_property("links", [{"title": "Status page", "url": "http://${__value.text}/", "targetBlank": True}])],
        ),
        _common(
            bargauge.Panel(),
            "API requests a minute, of Inkit's 300",
            "What the exporter spends of the 300 requests a minute that Inkit allows each account, production's "
            "included; over the last five minutes. It never sends more than api.requests_per_minute, 60 by default.",
            unit=_PER_MINUTE,
            empty="No data",
            width=8,
            height=8,
        )
        .with_target(
            _query(
                f"60 * sum by ({_BY}, account) (rate({requests}[5m]))",
                _PREFIX + "{{account}}",
                instant=True,
            )
        )
        .orientation(values.VizOrientation.HORIZONTAL)
        .display_mode(values.BarGaugeDisplayMode.GRADIENT)
        .min(0)
        .max(_INKITS_LIMIT)
        .decimals(1)
        .thresholds(_thresholds(((None, _GREEN), (_INKITS_LIMIT / 2, _YELLOW), (_INKITS_LIMIT * 0.8, _RED)))),
        _graph(
            "API requests, by outcome",
            "Requests to Inkit's API a minute, by HTTP status, or by what went wrong if no complete answer arrived.",
            [
                _query(
                    f"60 * sum by ({_BY}, account, code) (rate({requests}[$__rate_interval])) > 0",
                    _PREFIX + "{{account}} · {{code}}",
                )
            ],
            unit=_PER_MINUTE,
            empty="No request in the time shown",
            stacked=True,
            coloured=True,
            width=8,
        ),
        _graph(
            "Duration of an API request",
            "From sending a request to the end of its answer: the time within which half of them end, and 95%.",
            _quantiles("inkit_api_request_duration_seconds", "$__rate_interval"),
            unit="s",
            empty="No request in the time shown",
            width=8,
        ),
        _graph(
            "Requests of a poll",
            "API requests of each account's last poll, retries included. Listing the whole window takes more.",
            [
                _query(
                    f"max by ({_BY}, account) (inkit_poll_requests{_ACCOUNT})",
                    _PREFIX + "{{account}}",
                )
            ],
            unit="short",
            empty="No account polled yet",
            width=8,
        ),
        _graph(
            "Duration of a poll",
            "Duration of each account's last poll, and poll.interval (dashed). If polls take longer, data get older.",
            [
                _query(
                    f"max by ({_BY}, account) (inkit_poll_duration_seconds{_ACCOUNT})",
                    _PREFIX + "{{account}}",
                ),
                _query(
                    f"max by ({_BY}, account) (inkit_poll_interval_seconds{_ACCOUNT})",
                    _PREFIX + "{{account}} · interval",
                ),
            ],
            unit="s",
            empty="No account polled yet",
            width=8,
        ).override_by_regexp(*_dashed("/ · interval$/")),
        _graph(
            "Waiting for the budget",
            "Share of the time in which requests waited for api.requests_per_minute, or because Inkit asked to wait. "
            "InkitApiThrottled fires above 25%.",
            [
                _query(
                    f"sum by ({_BY}, account) (rate(inkit_api_throttled_seconds_total{_ACCOUNT}[$__rate_interval]))",
                    _PREFIX + "{{account}}",
                )
            ],
            unit="percentunit",
            empty="No data",
            lines=((None, "transparent"), (0.25, _RED)),
            width=8,
        ),
        _graph(
            "Memory",
            "Resident memory of the exporter's process: about 42 MiB, and 1 kB more for each batch in the window.",
            [_query(f"process_resident_memory_bytes{_EXPORTER}", _PREFIX + "{{instance}}")],
            unit="bytes",
            empty="The exporter is not scraped, or its system tells no process metrics",
            width=6,
        ),
        _graph(
            "CPU",
            "CPU time of the exporter's process, in cores. It uses at most about one.",
            [
                _query(
                    f"rate(process_cpu_seconds_total{_EXPORTER}[$__rate_interval])",
                    _PREFIX + "{{instance}}",
                )
            ],
            unit="suffix:cores",
            empty="The exporter is not scraped, or its system tells no process metrics",
            width=6,
        ),
        _graph(
            "Open files",
            "File descriptors in use, and how many the process may have (dashed).",
            [
                _query(f"process_open_fds{_EXPORTER}", _PREFIX + "{{instance}}"),
                _query(f"process_max_fds{_EXPORTER}", _PREFIX + "{{instance}} · limit"),
            ],
            unit="short",
            empty="The exporter is not scraped, or its system tells no process metrics",
            width=6,
        )
        .scale_distribution(common.ScaleDistributionConfig().type(values.ScaleDistribution.LOG).log(10))
        .override_by_regexp(*_dashed("/ · limit$/")),
        _graph(
            "Duration of a scrape",
            "How long Prometheus took to read /metrics. A scrape never waits for Inkit.",
            [_query(f"scrape_duration_seconds{_EXPORTER}", _PREFIX + "{{instance}}")],
            unit="s",
            empty="No target in the job",
            width=6,
        ),
    ]


def _share(by: str, window: str) -> str:
    """Failed of finished documents; no value where none finished."""
    grouped = f"sum by ({by})" if by else "sum"
    failed, completed = (
        f"{grouped} (increase(inkit_documents_{kind}_total{_DESTINATION}[{window}]))"
        for kind in ("failed", "completed")
    )
    return f"{failed} / ({failed} + {completed} > 0)"


def _quantiles(histogram: str, window: str, *, exemplar: bool = False) -> list[prometheus.Dataquery]:
    buckets = f"sum by ({_BY}, account, le) (rate({histogram}_bucket{_ACCOUNT}[{window}]))"
    return [
        _query(
            f"histogram_quantile({quantile}, {buckets}) >= 0",
            _PREFIX + "{{account}} · " + name,
            exemplar=exemplar,
        )
        for quantile, name in ((0.5, "half"), (0.95, "95%"))
    ]


def _query(
    expression: str, legend: str = "", *, instant: bool = False, exemplar: bool = False, step: str = _STEP
) -> prometheus.Dataquery:
    query = prometheus.Dataquery().ref_id("A").datasource(_DATASOURCE).expr(expression).legend_format(legend)
    query.exemplar(exemplar)
    return query.instant() if instant else query.range().interval(step)


@dataclass(frozen=True)
class _Column:
    """A column of values; coloured where there are thresholds or texts for values.

    With `_LABELS_ONLY` for its name it brings its labels, and its values are not shown.
    """

    name: str
    expression: str
    unit: str = "none"
    steps: _Steps = ()
    mappings: Sequence[model.ValueMapping] = ()
    decimals: int | None = None

    def properties(self) -> list[model.DynamicConfigValue]:
        found = [_property("unit", self.unit), _property("noValue", "-")]
        if self.decimals is not None:
            found.append(_property("decimals", self.decimals))
        if self.steps:
            found.append(_property("thresholds", _thresholds(self.steps).build()))
        if self.mappings:
            found.append(_property("mappings", list(self.mappings)))
        return [*found, _COLOURED] if self.steps or self.mappings else found


def _table(
    title: str,
    description: str,
    columns: Sequence[_Column],
    *,
    keys: dict[str, str],
    empty: str,
    width: int = 12,
    height: int = 8,
) -> table.Panel:
    """A table of instant queries, joined by the labels they have in common; `keys` gives these their names."""
    panel = _common(table.Panel(), title, description, unit="none", empty=empty, width=width, height=height)
    names, unwanted = dict(keys), ["Time"]
    for letter, column in zip("ABCDEFGHIJKL", columns, strict=False):
        query = _query(column.expression, instant=True).format(PromQueryFormat.TABLE).ref_id(letter)
        panel.with_target(query.interval(_STEP))
        value = "Value" if len(columns) == 1 else f"Value #{letter}"
        if column.name == _LABELS_ONLY:
            unwanted.append(value)
        else:
            panel.override_by_name(column.name, column.properties())
            names[value] = column.name
    organize = {
        "excludeByName": dict.fromkeys(unwanted, True),
        "indexByName": {name: index for index, name in enumerate(names)},
        "renameByName": names,
    }
    return (
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(id_val="organize", options=organize))
        .cell_height(values.TableCellHeight.SM)
    )


def _stat(
    title: str,
    description: str,
    expression: str,
    *,
    empty: str,
    steps: _Steps,
    unit: str = "short",
    width: int = 3,
    mappings: Sequence[model.ValueMapping] = (),
) -> stat.Panel:
    nothing = model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NULL_AND_NAN, result=model.ValueMappingResult(text=empty, color=_GREY)
    )
    return (
        _common(stat.Panel(), title, description, unit=unit, empty=empty, width=width, height=4)
        .with_target(_query(expression, instant=True))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(steps))
        .mappings([model.SpecialValueMap(options=nothing), *mappings])
        .color_mode(values.BigValueColorMode.BACKGROUND)
        .graph_mode(values.BigValueGraphMode.NONE)
    )


def _timeline(
    title: str,
    description: str,
    query: prometheus.Dataquery,
    *,
    unit: str,
    empty: str,
    steps: _Steps,
    height: int = 8,
) -> statetimeline.Panel:
    return (
        _common(statetimeline.Panel(), title, description, unit=unit, empty=empty, width=12, height=height)
        .with_target(query)
        .thresholds(_thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .legend(common.VizLegendOptions().show_legend(show_legend=False))
        .show_value(values.VisibilityMode.NEVER)
        .merge_values(merge_values=True)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(80)
    )


def _graph(
    title: str,
    description: str,
    queries: Sequence[prometheus.Dataquery],
    *,
    unit: str,
    empty: str,
    width: int = 12,
    lines: _Steps = (),
    stacked: bool = False,
    coloured: bool = False,
) -> timeseries.Panel:
    """Time series from 0 up; `lines` are dashed ones at thresholds; `coloured` by how the series' names end."""
    panel = (
        _common(timeseries.Panel(), title, description, unit=unit, empty=empty, width=width, height=8)
        .min(0)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .line_width(1)
        .fill_opacity(60 if stacked else 8)
        .show_points(values.VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(values.LegendDisplayMode.LIST)
            .placement(values.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(values.TooltipDisplayMode.MULTI)
            .sort(values.SortOrder.DESCENDING)
            .hide_zeros(hide_zeros=True)
        )
    )
    for letter, query in zip("AB", queries, strict=False):
        panel.with_target(query.ref_id(letter))
    for pattern, colour in _COLOURS.items() if coloured else ():
        panel.override_by_regexp(f"/ · ({pattern})$/", [_property("color", {"mode": "fixed", "fixedColor": colour})])
    if stacked:
        panel.stacking(common.StackingConfig().mode(values.StackingMode.NORMAL))
    if lines:
        panel.thresholds(_thresholds(lines)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(values.GraphThresholdsStyleMode.DASHED)
        )
    return panel


def _common(panel: _P, title: str, description: str, *, unit: str, empty: str, width: int, height: int) -> _P:
    return (
        panel.title(title)
        .description(description)
        .datasource(_DATASOURCE)
        .unit(unit)
        .no_value(empty)
        .span(width)
        .height(height)
    )


def _dashed(pattern: str) -> tuple[str, list[model.DynamicConfigValue]]:
    """For the series of a limit."""
    dashed = {"fill": "dash", "dash": [8, 8]}
    return pattern, [_property("custom.lineStyle", dashed), _property("custom.fillOpacity", 0)]


def _thresholds(steps: _Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _texts(texts: dict[str, tuple[str, str]]) -> model.ValueMap:
    """Text and colour instead of a value."""
    return model.ValueMap(
        options={
            value: model.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(texts.items())
        }
    )


def _property(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


_COLOURED: Final = _property("custom.cellOptions", {"type": "color-text"})
_SUCCEEDED: Final = _texts({"1": ("succeeded", _GREEN), "0": ("FAILED", _RED)})
_CUT: Final = _texts({"0": ("whole", _GREEN), "1": ("CUT", _ORANGE)})
_SCRAPED: Final = _texts({"1": ("yes", _GREEN), "0": ("NO", _RED)})
_WRITES: Final = _texts({"1": ("writes", _GREEN), "0": ("FAILS", _RED)})
_LOADED: Final = _texts({"1": ("loaded", _GREEN), "0": ("REFUSED", _RED)})
_SEVERITY: Final = _texts({"critical": ("critical", _RED), "warning": ("warning", _ORANGE)})


def _link(title: str, url: str) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink(title)
        .type(model.DashboardLinkType.LINK)
        .icon("doc")
        .url(url)
        .target_blank(target_blank=True)
    )


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A choice of several values of a label, at first all. `all_value` instead of a list has new ones in it."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_DATASOURCE)
        .query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .definition(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _annotation(name: str, expression: str, colour: str) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(_DATASOURCE)
        .enable(enable=True)
        .expr(expression)
        .step("60s")
        .icon_color(colour)
    )


if __name__ == "__main__":
    COMMITTED.write_text(render(), encoding="utf-8")

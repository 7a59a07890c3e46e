"""The page of a comparison: one HTML file that needs nothing else, neither network nor server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.html import embedded, environment, raw
from reports.metrics import DISTRIBUTIONS, METRICS, STATISTICS, Summary, metric
from reports.plots import Picture
from reports.results import RunResult
from reports.table import legend_of, marked, tables_of
from reports.verdict import RULE, verdict_of


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as ``section.key`` and text: sections come last, as in ``config.toml``."""
    sections = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    lines = {f"{prefix}{k}": _words(v) for k, v in config.items() if k not in sections}
    for key, value in sections.items():
        lines |= flat(value, f"{prefix}{key}.")
    return lines


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return str(value)


def page_of(
    runs: Mapping[str, RunResult],
    pictures: Sequence[Picture],
    directories: Mapping[str, str],
) -> str:
    """The HTML text; ``directories`` names the run directory of each policy."""
    summaries = {policy: run.summary for policy, run in runs.items()}
    configs = {policy: flat(run.config) for policy, run in runs.items()}
    common = _shared_by(list(configs.values()))
    failures = {policy: run.failures() for policy, run in runs.items()}
    return (
        environment()
        .get_template("report.html")
        .render(
            css=raw("report.css"),
            js=raw("report.js"),
            verdict=verdict_of(summaries),
            rule=RULE,
            tables=tables_of(summaries),
            legend=legend_of(summaries),
            names={policy: marked(policy, summary) for policy, summary in summaries.items()},
            common=common,
            pictures=[embedded(picture) for picture in pictures],
            failures={policy: reasons for policy, reasons in failures.items() if reasons},
            statistics=STATISTICS,
            policies=[
                _policy(policy, run.summary, configs[policy], common, directories[policy])
                for policy, run in runs.items()
            ],
            metrics=[m for m in METRICS.values() if any(m.name in s for s in summaries.values())],
        )
    )


def _shared_by(configs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *others = configs
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }


def _policy(
    name: str,
    summary: Summary,
    config: Mapping[str, str],
    common: Mapping[str, str],
    directory: str,
) -> dict[str, Any]:
    scalars = (m for m in METRICS.values() if m.name not in DISTRIBUTIONS and m.name in summary)
    return {
        "name": name,
        "directory": directory,
        "settings": {key: value for key, value in config.items() if key not in common},
        "caches": summary["caches"],
        "latencies": {
            f"{METRICS[base].label} ({METRICS[base].unit})": [
                metric(path).text(metric(path).value_of(summary))
                for path in (f"{base}.{statistic}" for statistic in STATISTICS)
            ]
            for base in DISTRIBUTIONS
        },
        "numbers": {m.label: m.text_with_unit(m.value_of(summary)) for m in scalars},
    }

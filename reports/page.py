"""The page of a comparison: one HTML file that needs nothing else, neither network nor server."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from reports.metrics import DISTRIBUTIONS, METRICS, STATISTICS, Summary, metric
from reports.plots import Picture
from reports.results import RunResult
from reports.table import legend_of, marked, tables_of
from reports.verdict import RULE, verdict_of

LARGEST_SVG = 300_000
"""Bytes of SVG above which the page carries the PNG."""


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as ``section.key`` and text, in the order given."""
    lines: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            lines |= flat(value, f"{prefix}{key}.")
        else:
            lines[f"{prefix}{key}"] = _words(value)
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
    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    summaries = {policy: run.summary for policy, run in runs.items()}
    configs = {policy: flat(run.config) for policy, run in runs.items()}
    common = _shared_by(list(configs.values()))
    failures = {policy: run.failures() for policy, run in runs.items()}
    return environment.get_template("report.html").render(
        css=_raw(environment, "report.css"),
        js=_raw(environment, "report.js"),
        verdict=verdict_of(summaries),
        rule=RULE,
        tables=tables_of(summaries),
        legend=legend_of(summaries),
        names={policy: marked(policy, summary) for policy, summary in summaries.items()},
        common=common,
        pictures=[_picture(picture) for picture in pictures],
        failures={policy: reasons for policy, reasons in failures.items() if reasons},
        statistics=STATISTICS,
        policies=[
            _policy(policy, run.summary, configs[policy], common, directories[policy])
            for policy, run in runs.items()
        ],
        metrics=[m for m in METRICS.values() if any(m.name in s for s in summaries.values())],
    )


def _raw(environment: Environment, name: str) -> Markup:
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _shared_by(configs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *others = configs
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }


def _picture(picture: Picture) -> dict[str, str]:
    small = len(picture.svg) <= LARGEST_SVG
    kind, data = ("svg+xml", picture.svg) if small else ("png", picture.png)
    return {
        "name": picture.name,
        "title": picture.title,
        "caption": picture.caption,
        "source": f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}",
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

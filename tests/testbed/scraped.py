# SPDX-License-Identifier: MIT
"""What Prometheus' own client reads in a scrape."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def parsed(text: str) -> dict[str, dict[str, float]]:
    """The samples in a text, as Prometheus' own client reads them: name -> label's value -> number."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})["".join(sample.labels.values())] = sample.value
    return found

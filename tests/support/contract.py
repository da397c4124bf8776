"""What the exporter promises its users, read from its code: the metrics and flags that the documents must name."""

import re
import tomllib
from typing import Any

from prometheus_client import Metric

from inkit_exporter.api.batches import Counts
from inkit_exporter.api.usage import Usage
from inkit_exporter.cli import make_parser
from inkit_exporter.config import PollSettings
from inkit_exporter.metrics.account import AccountMetrics
from inkit_exporter.metrics.process import ProcessMetrics
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState
from inkit_exporter.storage.health import StorageHealth
from inkit_exporter.window.window import Snapshot
from support import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

SNAPSHOT = Snapshot(
    {("box", "completed"): Counts(1, 1, 0, 0)}, {"completed": 1}, 1.0, 1.0, truncated=False, oldest_change=1.0
)

HEALTH = StorageHealth(healthy=True, error=None, failures=0, size_bytes=0)


def exposed() -> dict[str, Metric]:
    """Every metric family of the exporter by its name in the text format."""
    usage = Usage(RateLimiter(60), clock_skew=0.5)
    polled = AccountState(
        account="a", settings=PollSettings(), usage=usage, up=True, polls=1, last_success=1.0, snapshot=SNAPSHOT
    )
    families = [*AccountMetrics(polled, lambda: 0.0).collect(), *ProcessMetrics(0, 1, lambda: HEALTH).collect()]
    return {_name(family): family for family in families if family.name.startswith("inkit_")}


def _name(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def flags() -> set[str]:
    """Every flag that `--help` lists, except `--help` itself."""
    return set(re.findall(r"^  (--[a-z.-]+)", make_parser().format_help(), flags=re.MULTILINE))

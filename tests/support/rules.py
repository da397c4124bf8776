"""The rules for Prometheus in `deploy/`, and the tests that promtool runs on them."""

from typing import Any

import yaml

from support import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TEST_FILES: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((PROMETHEUS / name).read_text()) for name in ("rules_test.yml", "rules_slow_test.yml")
}
RULE_TESTS: list[dict[str, Any]] = [test for content in TEST_FILES.values() for test in content["tests"]]

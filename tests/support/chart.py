"""The Helm chart, as Helm renders it."""

import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm

from support import ROOT, read_yaml

CHART = ROOT / "deploy" / "helm" / "inkit-exporter"

Object = dict[str, Any]
Values = Mapping[str, Any]

_chart = helm.Chart.load(CHART)


def render(*values: Values, name: str = "inkit-exporter", chart: helm.Chart = _chart) -> dict[str, Object]:
    """The objects by the template that makes each of them. Later values win over earlier ones."""
    texts = chart.render(merged(*values), name=name, namespace="monitoring")
    objects = {Path(path).stem: read_yaml(text) for path, text in texts.items() if path.endswith(".yaml")}
    return {template: made for template, made in objects.items() if made}


def check_schema(thing: Object, *versions: str) -> None:
    """Check an object against its schema in these versions of Kubernetes, and in the newest."""
    for version in (*versions, ""):
        _check_schema(json.dumps(thing), version)


@cache
def _check_schema(text: str, version: str) -> None:
    # Imported only here. It imports jsonschema, which takes 4 seconds to prepare a check of addresses, unless that
    # module is missing. Kubernetes' schemas do not ask for it.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    import kubernetes_validate  # type: ignore[import-untyped]  # noqa: PLC0415

    kubernetes_validate.validate(json.loads(text), version or kubernetes_validate.latest_version(), strict=True)


def notes(*values: Values) -> str:
    """What Helm prints after an installation."""
    return _chart.render(merged(*values), name="inkit-exporter", namespace="monitoring")[
        f"{CHART.name}/templates/NOTES.txt"
    ]


def merged(*values: Values) -> dict[str, Any]:
    """Several values files put over one another, as Helm does."""
    result: dict[str, Any] = {}
    for layer in values:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else value
    return result


def pod(objects: Mapping[str, Object]) -> Object:
    """The pod's specification."""
    spec: Object = objects["workload"]["spec"]["template"]["spec"]
    return spec


def container(objects: Mapping[str, Object]) -> Object:
    """The only container."""
    (only,) = pod(objects)["containers"]
    return dict(only)


def mount_path(objects: Mapping[str, Object], volume: str) -> Path:
    """Where a volume is mounted."""
    (path,) = [mount["mountPath"] for mount in container(objects)["volumeMounts"] if mount["name"] == volume]
    return Path(path)

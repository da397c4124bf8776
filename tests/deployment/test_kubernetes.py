"""The Kubernetes manifests: rendered as kubectl does, valid by Kubernetes' own schemas, and true to the exporter."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from support import ROOT
from support.api import TOKEN, Api, batch
from support.exporter import StartExporter, run_to_end
from support.samples import up

import inkit_exporter
from inkit_exporter.cli import DEFAULT_ADDRESS, make_parser
from inkit_exporter.config import Shard

OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
PROMETHEUS = ROOT / "deploy" / "prometheus"
PORT = int(DEFAULT_ADDRESS.removeprefix(":"))

pytestmark = pytest.mark.process  # of kubectl

Resource = dict[str, Any]


@cache
def render(overlay: str | Path) -> dict[str, Resource]:
    """The resources of an overlay by kind, of which each has one."""
    command = [str(Path(sys.executable).with_name("kubectl")), "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    resources: list[Resource] = list(yaml.safe_load_all(done.stdout))
    kinds = {resource["kind"]: resource for resource in resources}
    assert len(kinds) == len(resources)
    return kinds


def workload(overlay: str) -> Resource:
    return render(overlay)["StatefulSet" if overlay == "sharded" else "Deployment"]


def pod(overlay: str) -> Resource:
    spec: Resource = workload(overlay)["spec"]["template"]["spec"]
    return spec


def container(overlay: str) -> Resource:
    (only,) = pod(overlay)["containers"]
    return dict(only)


def mount_path(overlay: str, volume: str) -> str:
    """Where a volume is mounted, which must be read-only."""
    (path,) = [mount["mountPath"] for mount in container(overlay)["volumeMounts"] if mount["name"] == volume]
    assert all(mount["readOnly"] for mount in container(overlay)["volumeMounts"])
    return str(path)


EXPORTERS = pytest.mark.parametrize("overlay", ["single", "sharded"])


# The oldest version that labels pods with their ordinal, and the newest there is a schema for.
@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
@EXPORTERS
def test_every_resource_fits_kubernetes_schema(overlay: str, version: str) -> None:
    assert len(render(overlay)) >= 5
    for resource in render(overlay).values():
        kubernetes_validate.validate(resource, version, strict=True)


@EXPORTERS
def test_pods_keep_to_the_restricted_security_standard(overlay: str) -> None:
    assert render(overlay)["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & pod(overlay).keys()
    assert pod(overlay)["securityContext"]["runAsNonRoot"] is True
    assert pod(overlay)["securityContext"]["runAsUser"] > 0
    assert pod(overlay)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(overlay)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for volume in pod(overlay)["volumes"]:
        assert volume.keys() - {"name"} <= {"configMap", "secret"}
    assert pod(overlay)["automountServiceAccountToken"] is False


@EXPORTERS
def test_the_image_has_the_version_of_the_code(overlay: str) -> None:
    assert container(overlay)["image"] == f"inkit-exporter:{inkit_exporter.__version__}"


@EXPORTERS
async def test_the_probes_ask_endpoints_that_the_exporter_serves(
    api: Api, exporter: StartExporter, overlay: str
) -> None:
    api.batches = [batch("fb_1")]
    running = await exporter()
    await running.wait_for(lambda samples: up(samples) == 1)
    (port,) = container(overlay)["ports"]
    assert port == {"name": "http", "containerPort": PORT}
    paths = {name: container(overlay)[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in paths.items()} == {
        "livenessProbe": "/-/healthy",
        "readinessProbe": "/-/ready",
    }
    for probe in paths.values():
        assert probe["port"] == "http"
        assert (await running.get(probe["path"]))[0] == 200


@EXPORTERS
async def test_the_configuration_is_good_and_finds_its_tokens_in_the_secret(overlay: str, tmp_path: Path) -> None:
    volumes = {volume["name"]: volume for volume in pod(overlay)["volumes"]}
    config = render(overlay)["ConfigMap"]
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    assert volumes["tokens"]["secret"] == {"secretName": "inkit-exporter", "defaultMode": 0o440}
    assert pod(overlay)["securityContext"]["fsGroup"] == 65534  # whose group may read what has mode 0440
    assert f"--config.file={mount_path(overlay, 'config')}/config.yaml" in container(overlay)["args"]

    path = tmp_path / "config.yaml"
    path.write_text(config["data"]["config.yaml"].replace(mount_path(overlay, "tokens"), str(tmp_path)))
    (tmp_path / "production").write_text(TOKEN)
    assert await run_to_end("--config.check", f"--config.file={path}") == (0, f"{path}: ok, accounts: production\n", "")


def test_one_exporter_takes_turns_with_its_successor() -> None:
    spec = workload("single")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert make_parser().parse_args(container("single")["args"]).shard == Shard()
    assert "PodDisruptionBudget" not in render("single")


def shards(stateful_set: Resource) -> tuple[int, str]:
    """How many there are, and how many each is told there are."""
    (only,) = stateful_set["spec"]["template"]["spec"]["containers"]
    (told,) = [variable["value"] for variable in only["env"] if variable["name"] == "SHARDS"]
    return stateful_set["spec"]["replicas"], told


def test_the_ordinal_of_a_pod_is_its_shard() -> None:
    environ = {variable["name"]: variable for variable in container("sharded")["env"]}
    ordinal = environ["SHARD"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert ordinal == "metadata.labels['apps.kubernetes.io/pod-index']"
    replicas, told = shards(workload("sharded"))
    assert told == str(replicas)
    args = " ".join(container("sharded")["args"]).replace("$(SHARDS)", told)
    parsed = [make_parser().parse_args(args.replace("$(SHARD)", str(i)).split()).shard for i in range(replicas)]
    assert parsed == [Shard(i, replicas) for i in range(replicas)]


def test_the_overlay_of_ones_own_that_the_documentation_shows_works(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = [dedent(block) for block in re.findall(r"(?:^ {4,}\S.*\n|^\n(?= {4}))+", document, flags=re.MULTILINE)]
    (overlay,) = [block for block in blocks if "resources:" in block]
    (patch,) = [block for block in blocks if "SHARDS" in block]
    local, count = re.subn(r"https:\S+//(\S+)/single\?ref=COMMIT", rf"{relative_to(tmp_path)}/\1/sharded", overlay)
    assert count == 1
    local, count = re.subn(r"https:\S+//(\S+)\?ref=COMMIT", rf"{relative_to(tmp_path)}/\1", local)
    assert count == 1
    (tmp_path / "kustomization.yaml").write_text(local + patch)
    (tmp_path / "config.yaml").write_text("accounts: [{name: mine, api_token_file: /run/secrets/inkit/mine}]\n")
    mine = render(tmp_path)
    assert mine.keys() == render("sharded").keys() | render("operator").keys()
    assert "name: mine" in mine["ConfigMap"]["data"]["config.yaml"]
    template = mine["StatefulSet"]["spec"]["template"]["spec"]
    assert template["volumes"][0]["configMap"]["name"] == mine["ConfigMap"]["metadata"]["name"]
    assert template["containers"][0]["image"] == f"REGISTRY/inkit-exporter:{inkit_exporter.__version__}"
    assert shards(mine["StatefulSet"]) == (5, "5")


def relative_to(folder: Path) -> str:
    """The repository as seen from a folder: kustomize takes only relative paths."""
    return os.path.relpath(ROOT, folder)


async def test_a_shard_without_an_account_is_ready(api: Api, exporter: StartExporter) -> None:
    other = next(index for index in range(3) if not Shard(index, 3).owns("default"))
    running = await exporter(f"--shard={other}/3")
    assert await running.get("/-/ready") == (200, "ready\n")
    assert not api.requests


@EXPORTERS
def test_service_policy_and_budget_concern_the_pods(overlay: str) -> None:
    labels = workload(overlay)["spec"]["template"]["metadata"]["labels"]
    assert workload(overlay)["spec"]["selector"]["matchLabels"] == labels
    service = render(overlay)["Service"]
    assert service["spec"]["selector"] == labels
    assert service["spec"]["ports"] == [{"name": "http", "port": PORT, "targetPort": "http"}]
    if overlay == "sharded":
        assert workload(overlay)["spec"]["serviceName"] == service["metadata"]["name"]
        assert render(overlay)["PodDisruptionBudget"]["spec"] == {
            "maxUnavailable": 1,
            "selector": {"matchLabels": labels},
        }
    policy = render(overlay)["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {}
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": "http", "protocol": "TCP"}]]
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 443}


def test_the_operators_rules_are_those_of_the_rules_file() -> None:
    made = subprocess.run([ROOT / "tools" / "prometheusrule.sh"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == (OVERLAYS / "operator" / "prometheusrule.yaml").read_text(), "run: make rules"
    rendered = render("operator")["PrometheusRule"]
    assert rendered["apiVersion"] == "monitoring.coreos.com/v1"
    assert rendered["spec"] == yaml.safe_load((PROMETHEUS / "rules.yml").read_text())
    # The keys that the operator's schema has in common with a rules file.
    for group in rendered["spec"]["groups"]:
        assert group.keys() <= {"name", "interval", "limit", "labels", "query_offset", "rules"}
        for rule in group["rules"]:
            assert rule.keys() <= {
                "alert", "annotations", "expr", "for", "keep_firing_for", "labels", "record"
            }  # fmt: skip


@EXPORTERS
def test_the_service_monitor_scrapes_the_pods_as_prometheus_yml_does(overlay: str) -> None:
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"][:1]
    monitor, service = render("operator")["ServiceMonitor"], render(overlay)["Service"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"] == {
        "selector": {"matchLabels": service["metadata"]["labels"]},
        "endpoints": [
            {
                "port": service["spec"]["ports"][0]["name"],
                "interval": job["scrape_interval"],
                "scrapeTimeout": job["scrape_timeout"],
                "relabelings": [
                    {"targetLabel": "job", "replacement": job["job_name"]},
                    {"targetLabel": "instance", "sourceLabels": ["__meta_kubernetes_pod_name"]},
                ],
            }
        ],
    }

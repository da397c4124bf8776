"""The Helm chart: rendered by Helm, checked with schemas of Kubernetes and rules for charts, true to the exporter."""

import asyncio
import json
import re
import ssl
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import helm_python as helm
import msgspec
import pytest
import trustme
import yaml
from allpairspy import AllPairs  # type: ignore[import-untyped]
from support import PATIENCE_SECONDS, ROOT
from support.api import TOKEN, Api, batch
from support.chart import CHART, Object, Values, check_schema, container, merged, mount_path, notes, pod, render
from support.exporter import StartExporter, run_to_end
from support.samples import up

import inkit_exporter
from inkit_exporter.cli import DEFAULT_ADDRESS, make_parser
from inkit_exporter.config import Settings, Shard
from tools import chart as made

DEPLOY = ROOT / "deploy"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SELECTOR = {"app.kubernetes.io/name", "app.kubernetes.io/instance"}

HASH = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
BASIC_AUTH: Values = {"web": {"config": {"basic_auth_users": {"prometheus": HASH}}}}
TLS: Values = {"web": {"certificateSecret": "server"}, "serviceMonitor": {"tlsConfig": {"serverName": "exporter"}}}
CLIENTS = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "/etc/inkit-exporter/certificate/ca.crt"}
CLIENT_CERTIFICATES: Values = merged(TLS, {"web": {"config": {"tls_server_config": CLIENTS}}})
OWN_WEB: Values = merged(TLS, {"web": {"existingSecret": {"name": "mine", "tls": True}}})
PROXY: Values = {
    "config": {"api": {"proxy_url": "http://proxy:3128"}},
    "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.8/32"}}], "ports": [{"port": 3128}]}]},
}
ACCOUNTS: Values = {
    "config": {
        "accounts": [
            {"name": "one"},
            {"name": "two", "tokenSecret": {"name": "second"}},
            {"name": "Drei und mehr", "tokenSecret": {"name": "third", "key": "token"}, "batches": "document"},
            {"name": "four", "tokenSecret": {"name": "third", "key": "token"}},
            {"name": "five", "tokenSecret": {"name": "third", "key": "other"}},
            {"name": "six", "api_token_env": "SIX"},
            {"name": "no", "api_token_file": "/run/vault/no", "filters": {"destination_name": "0123"}},
        ],
        "poll": {"interval": "1h30m", "max_batches": 100_000_000},
    },
    "extraEnv": [{"name": "SIX", "valueFrom": {"secretKeyRef": {"name": "six", "key": "token"}}}],
}
EVERYTHING_ELSE: Values = {
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "commonLabels": {"team": "documents", "app.kubernetes.io/name": "mine", "app.kubernetes.io/version": "mine"},
    "commonAnnotations": {"owner": "documents"},
    "podLabels": {"sidecar": "false", "app.kubernetes.io/instance": "mine"},
    "podAnnotations": {"note": "yes"},
    "extraArgs": ["--web.max-connections=100"],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "serviceAccount": {"annotations": {"note": "yes"}},
    "service": {"annotations": {"note": "yes"}},
    "storage": {"annotations": {"helm.sh/resource-policy": "keep"}, "storageClassName": "fast"},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
    "serviceMonitor": {
        "labels": {"release": "prometheus"},
        "basicAuth": {"username": {"name": "web", "key": "user"}, "password": {"name": "web", "key": "password"}},
    },
    "prometheusRule": {"labels": {"release": "prometheus"}},
    "dashboard": {"annotations": {"grafana_folder": "Inkit"}},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "monitoring", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "monitoring",
}
ALL_ON: Values = {switch: {"enabled": True} for switch in ("serviceMonitor", "prometheusRule", "dashboard")}


def switch(name: str, key: str = "enabled") -> list[Values]:
    return [{name: {key: False}}, {name: {key: True}}]


SWITCHES: list[list[Values]] = [
    [{}, BASIC_AUTH, TLS, CLIENT_CERTIFICATES, OWN_WEB],
    [{}, {"storage": {"enabled": True}}, {"storage": {"enabled": True, "existingClaim": "mine"}}],
    [{"shards": 1}, {"shards": 3}],
    [{}, ACCOUNTS],
    [{}, PROXY],
    [{}, EVERYTHING_ELSE],
    [{"openshift": "auto"}, {"openshift": True}],
    [{}, {"fullnameOverride": "f" * 52}, {"nameOverride": "n" * 52}],
    switch("serviceAccount", "create"),
    *map(switch, ("networkPolicy", "podDisruptionBudget", "serviceMonitor", "prometheusRule", "dashboard")),
]


def agree(layers: list[Values]) -> bool:
    values = merged(*layers)
    return not (values.get("storage", {}).get("existingClaim") and values.get("shards") == 3)


PAIRS = [merged(*layers) for layers in AllPairs(SWITCHES, filter_func=agree)]
COMBINATIONS = pytest.mark.parametrize(
    "values", [{}, *PAIRS], ids=lambda values: str(PAIRS.index(values)) if values else "-"
)
RELEASE = "monitoring.of-" + "x" * 39  # the longest name that Helm allows


@COMBINATIONS
def test_every_object_matches_the_schema_of_kubernetes(values: Values) -> None:
    for template, thing in render(values, name=RELEASE).items():
        if template not in ("servicemonitor", "prometheusrule"):
            check_schema(thing, "1.28")  # the oldest version that the chart supports


@pytest.mark.parametrize("name", ["123", "0x1", "true", "null"])
def test_a_name_that_yaml_reads_as_something_else_stays_text(name: str) -> None:
    names: Values = {
        "config": {"accounts": [{"name": name, "tokenSecret": {"name": f"{name}.2", "key": name}}]},
        "nameOverride": name if name.isalpha() else "",
        "tokenSecret": name,
        "priorityClassName": name,
        "serviceAccount": {"create": False, "name": name},
        "web": {"existingSecret": {"name": name}, "certificateSecret": name},
    }
    volume = {"enabled": True, "storageClassName": name}
    for more in ({"storage": volume}, {"storage": {"enabled": True, "existingClaim": name}}, {"shards": 2}):
        for thing in render({"storage": volume}, names, more, name=name).values():
            check_schema(thing)


def references(spec: Any, *keys: str) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each ConfigMap, Secret and claim in a pod's specification."""
    if isinstance(spec, list):
        for part in spec:
            yield from references(part)
    if isinstance(spec, dict):
        for key, part in spec.items():
            kind = {"configMap": "ConfigMap", "secret": "Secret", "persistentVolumeClaim": "PersistentVolumeClaim"}
            if key in kind:
                yield kind[key], part.get("secretName") or part.get("claimName") or part["name"]
            yield from references(part)


@COMBINATIONS
def test_the_objects_follow_the_rules_for_charts(values: Values) -> None:
    objects = render(values, name=RELEASE)
    labels = objects["workload"]["spec"]["template"]["metadata"]["labels"]
    selector = objects["workload"]["spec"]["selector"]["matchLabels"]

    # The release stays within its namespace: it neither creates, names nor selects one.
    namespaced = {
        "ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "PrometheusRule",
        "Secret", "Service", "ServiceAccount", "ServiceMonitor", "StatefulSet",
    }  # fmt: skip
    assert {thing["kind"] for thing in objects.values()} <= namespaced
    assert len({(thing["kind"], thing["metadata"]["name"]) for thing in objects.values()}) == len(objects)
    for thing in objects.values():
        metadata = thing["metadata"]
        assert "namespace" not in metadata
        assert re.fullmatch(r"[a-z][-a-z0-9]{0,61}[a-z0-9]", metadata["name"])
        assert selector.items() <= metadata["labels"].items()
        assert metadata["labels"]["app.kubernetes.io/version"] == inkit_exporter.__version__
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"

    # Selectors have only labels that never change, and select only the release's pods.
    assert selector.keys() == SELECTOR
    assert selector.items() <= labels.items()
    assert objects["service"]["spec"]["selector"] == selector
    assert selector.items() <= objects["service"]["metadata"]["labels"].items()
    for template in ("networkpolicy", "poddisruptionbudget", "servicemonitor"):
        if template in objects:
            spec = objects[template]["spec"]
            assert (spec.get("podSelector") or spec["selector"]) == {"matchLabels": selector}

    # The restricted pod security standard.
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & pod(objects).keys()
    assert pod(objects)["automountServiceAccountToken"] is False
    assert pod(objects)["securityContext"]["runAsNonRoot"] is True
    assert pod(objects)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for volume in pod(objects)["volumes"]:
        assert volume.keys() - {"name"} <= {"configMap", "secret", "projected", "persistentVolumeClaim"}

    # The container has a pinned image, resource limits and probes.
    assert re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", container(objects)["image"])
    assert container(objects)["resources"]["limits"].keys() == {"memory"}
    assert container(objects)["resources"]["requests"].keys() == {"cpu", "memory"}
    assert {"livenessProbe", "readinessProbe"} <= container(objects).keys()

    # The release creates every object that its pods name, or the user provides it.
    users = {
        "Secret": {"inkit-exporter", "second", "third", "server", "mine"},
        "ConfigMap": {"ca"},
        "PersistentVolumeClaim": {"mine"},
    }
    made_here = {(thing["kind"], thing["metadata"]["name"]) for thing in objects.values()}
    for kind, name in references(pod(objects)["volumes"]):
        assert name in users[kind] or (kind, name) in made_here, (kind, name)
    claims = objects["workload"]["spec"].get("volumeClaimTemplates", [])
    volumes = [thing["metadata"]["name"] for thing in claims] + [volume["name"] for volume in pod(objects)["volumes"]]
    assert sorted(volumes) == sorted(mount["name"] for mount in container(objects)["volumeMounts"])
    assert all(mount["readOnly"] for mount in container(objects)["volumeMounts"] if mount["name"] != "storage")
    account = pod(objects)["serviceAccountName"]
    assert account == "default" or objects["serviceaccount"]["metadata"]["name"] == account
    if "serviceaccount" in objects:
        assert objects["serviceaccount"]["automountServiceAccountToken"] is False

    # Two pods never share accounts or a volume.
    spec = objects["workload"]["spec"]
    if objects["workload"]["kind"] == "Deployment":
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
        assert "poddisruptionbudget" not in objects
    else:
        assert spec["serviceName"] == objects["service"]["metadata"]["name"]
        assert "storage" not in [volume["name"] for volume in pod(objects)["volumes"]]


@pytest.mark.parametrize("values", [{}, {"shards": 3, "storage": {"enabled": True}}], ids=["one", "shards"])
def test_immutable_fields_do_not_depend_on_labels_or_version(values: Values) -> None:
    later = merged(EVERYTHING_ELSE, {"image": {"tag": "9.9.9"}, "storage": {"storageClassName": ""}}, values)
    old, new = render(values)["workload"]["spec"], render(later)["workload"]["spec"]
    for key in ("selector", "serviceName", "podManagementPolicy"):
        assert old.get(key) == new.get(key)
    for before, after in zip(old.get("volumeClaimTemplates", []), new.get("volumeClaimTemplates", []), strict=True):
        assert (before["metadata"]["labels"], before["spec"]) == (after["metadata"]["labels"], after["spec"])


@COMBINATIONS
def test_the_exporter_has_every_flag_that_the_chart_uses(values: Values) -> None:
    known = {text for action in make_parser()._actions for text in action.option_strings}  # noqa: SLF001 - no other way
    args = container(render(values, name=RELEASE))["args"]
    assert {arg.partition("=")[0] for arg in args} <= known
    assert len({arg.partition("=")[0] for arg in args}) == len(args)


def test_helm_lint_only_recommends_an_icon() -> None:
    for values in ({}, merged(ALL_ON, TLS, ACCOUNTS, EVERYTHING_ELSE, {"shards": 3, "storage": {"enabled": True}})):
        report = helm.lint(CHART, dict(values), strict=True)
        assert report["errors"] == []
        assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


def test_a_packaged_chart_contains_the_rules_and_the_dashboard(tmp_path: Path) -> None:
    path = helm.package(CHART, destination=tmp_path)
    assert Path(path).name == f"inkit-exporter-{inkit_exporter.__version__}.tgz"
    with tarfile.open(path) as archive:
        assert all(member.isfile() for member in archive)
    with helm.Chart.load(path) as packaged:
        assert render(ALL_ON, chart=packaged) == render(ALL_ON)


def test_the_chart_has_the_version_of_the_code() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == inkit_exporter.__version__
    assert container(render())["image"] == f"ghcr.io/inkit-exporter/inkit-exporter:{inkit_exporter.__version__}"
    assert container(render({"image": {"tag": "1.2.3"}}))["image"].endswith(":1.2.3")


def test_the_readme_and_the_manifest_are_up_to_date_with_the_chart() -> None:
    assert made.readme() == made.README.read_text(), "run: make chart"
    assert made.rendered() == made.RENDERED.read_text(), "run: make chart"


def test_the_schema_and_the_values_have_the_same_keys() -> None:
    def compare(schema: Object, values: Object, place: str = "") -> None:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties", True) is False and place not in ("config.poll.", "config.api."):
            assert properties.keys() - {"global"} == values.keys(), place
        for key in values.keys() & properties.keys():
            if isinstance(values[key], dict):
                compare(properties[key], values[key], f"{place}{key}.")

    compare(SCHEMA, DEFAULTS)


def test_the_schema_accepts_every_key_of_the_configuration() -> None:
    def compare(schema: Object, described: msgspec.inspect.Type, place: str) -> None:
        if isinstance(described, msgspec.inspect.VarTupleType):
            schema, described = schema.get("items", {}), described.item_type
        if isinstance(described, msgspec.inspect.StructType):
            fields = {field.name: field.type for field in described.fields}
            assert fields.keys() == schema["properties"].keys() - {"tokenSecret"}, place
            for key, kind in fields.items():
                compare(schema["properties"][key], kind, f"{place}.{key}")

    compare(SCHEMA["properties"]["config"], msgspec.inspect.type_info(Settings), "config")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"shard": 3}, "shard"),
        ({"shards": 0}, "shards"),
        ({"shards": "3"}, "shards"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"image": {"digest": "0123"}}, "digest"),
        ({"config": {"accounts": []}}, "accounts"),
        ({"config": {"accounts": [{"name": False}]}}, "name"),
        ({"config": {"accounts": [{"name": "one", "api_token": "secret"}]}}, "api_token"),
        ({"config": {"poll": {"interval": 60}}}, "interval"),
        ({"config": {"poll": {"intervall": "60s"}}}, "intervall"),
        ({"config": {"api": {"requests_per_minute": 0}}}, "requests_per_minute"),
        ({"tokenSecret": ""}, "tokenSecret"),
        ({"storage": {"size": "much"}}, "size"),
        ({"storage": {"accessModes": ["ReadWriteMany"]}}, "accessModes"),
        ({"log": {"level": "loud"}}, "level"),
        ({"extraArgs": ["-v"]}, "extraArgs"),
        ({"fullnameOverride": "Capitals"}, "fullnameOverride"),
        ({"openshift": "yes"}, "openshift"),
    ],
)
def test_the_error_for_a_wrong_value_names_it(values: Values, named: str) -> None:
    with pytest.raises(helm.HelmError, match=named):
        render(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": {"accounts": [{"name": "a"}, {"name": "a"}]}}, "two accounts are named `a`"),
        ({"config": {"accounts": [{"name": "two words"}]}}, "`two words` can't be a key of a Secret"),
        ({"extraArgs": ["--shard=0/3"]}, "the chart sets --shard"),
        ({"extraArgs": ["--web.listen-address=:9999"]}, "--web.listen-address would hide the exporter"),
        (merged(BASIC_AUTH, {"web": {"existingSecret": {"name": "mine"}}}), "web.config and web.existingSecret.name"),
        ({"shards": 2, "storage": {"enabled": True, "existingClaim": "mine"}}, "storage.existingClaim is one volume"),
        ({"config": PROXY["config"]}, "does not let the pods out to the proxy"),
        ({"config": {"api": {"proxy_from_environment": True}}}, "does not let the pods out to the proxy"),
        (
            {"config": {"accounts": [{"name": "a", "base_url": "https://inkit.example:8443/v1"}]}},
            "does not let the pods out to inkit.example:8443",
        ),
        (merged(ALL_ON, TLS, {"serviceMonitor": {"tlsConfig": None}}), "serviceMonitor.tlsConfig"),
    ],
)
def test_contradictory_values_are_refused_with_a_remedy(values: Values, message: str) -> None:
    with pytest.raises(helm.HelmError, match=message):
        render(values)


@pytest.mark.parametrize("values", [{}, ACCOUNTS, PROXY], ids=["default", "accounts", "proxy"])
@pytest.mark.process
async def test_the_configuration_is_valid_and_its_token_files_are_mounted(values: Values, tmp_path: Path) -> None:
    objects = render(values)
    assert mount_path(objects, "config") / "config.yaml" == Path(container(objects)["args"][0].split("=")[1])
    text = objects["config"]["data"]["config.yaml"]
    tokens: dict[str, Path] = {}
    for volume in pod(objects)["volumes"]:
        mount = mount_path(objects, volume["name"])
        if volume["name"] == "tokens":
            tokens[volume["secret"]["secretName"]] = mount
            assert volume["secret"]["optional"] and volume["secret"]["defaultMode"] == 0o440
        for source in volume.get("projected", {}).get("sources", []):
            assert source["secret"]["optional"] and volume["projected"]["defaultMode"] == 0o440
            for item in source["secret"]["items"]:
                tokens[f"{source['secret']['name']}/{item['key']}"] = mount / item["path"]
    accounts = {account["name"]: account for account in yaml.safe_load(text)["accounts"]}
    if values == ACCOUNTS:
        assert [accounts[name].get("api_token_file") for name in list(accounts)] == [
            f"{tokens['inkit-exporter']}/one",
            str(tokens["second/two"]),
            str(tokens["third/token"]),
            str(tokens["third/token"]),
            str(tokens["third/other"]),
            None,
            "/run/vault/no",
        ]
        assert "100000000\n" in text
    path = tmp_path / "config.yaml"
    path.write_text(text)
    status, out, err = await run_to_end("--config.check", f"--config.file={path}", env={"SIX": TOKEN})
    assert (status, out.strip()) == (0, f"{path}: ok, accounts: {', '.join(accounts)}"), err


def test_only_a_changed_configuration_replaces_the_pods() -> None:
    def template(*values: Values) -> Object:
        spec: Object = render(*values)["workload"]["spec"]["template"]
        return spec

    assert template() == template(ALL_ON, {"commonAnnotations": {"a": "b"}, "service": {"annotations": {"a": "b"}}})
    assert template() != template({"config": {"poll": {"interval": "30s"}}})
    other = {"web": {"config": {"basic_auth_users": {"prometheus": HASH, "other": HASH}}}}
    assert len({str(template(values)) for values in ({}, BASIC_AUTH, other)}) == 3


@pytest.mark.parametrize(
    "values", [{}, BASIC_AUTH, TLS, merged(TLS, BASIC_AUTH), CLIENT_CERTIFICATES],
    ids=["plain", "password", "TLS", "TLS and password", "client certificates"],
)  # fmt: skip
async def test_the_probes_succeed_while_the_exporter_runs_and_fail_when_it_is_stopped(
    api: Api, exporter: StartExporter, tmp_path: Path, values: Values
) -> None:
    objects = render(values)
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(str(certificates / "tls.key"))
    server.cert_chain_pems[0].write_to_path(str(certificates / "tls.crt"))
    authority.cert_pem.write_to_path(str(certificates / "ca.crt"))
    flags = []
    if "web" in objects:
        text = objects["web"]["stringData"]["web.yml"]
        if values != BASIC_AUTH:
            text = text.replace(str(mount_path(objects, "certificate")), str(certificates))
        (tmp_path / "web.yml").write_text(text)
        assert f"--web.config.file={mount_path(objects, 'web')}/web.yml" in container(objects)["args"]
        flags.append(f"--web.config.file={tmp_path}/web.yml")
    api.batches = [batch("fb_1")]
    running = await exporter(*flags)
    if not flags:
        await running.wait_for(lambda samples: up(samples) == 1)
    lines = len(running.log)
    (port,) = container(objects)["ports"]
    assert port["containerPort"] == int(DEFAULT_ADDRESS.removeprefix(":"))
    for name, path in {"livenessProbe": "/-/healthy", "readinessProbe": "/-/ready"}.items():
        probe = container(objects)[name]
        assert probe.get("httpGet", {"path": path})["path"] == path
        assert (probe.get("httpGet") or probe["tcpSocket"])["port"] == port["name"]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await answers(probe, running.address):  # until the exporter is ready
                await asyncio.sleep(0.02)
    assert ("tcpSocket" in container(objects)["livenessProbe"]) == (values == CLIENT_CERTIFICATES)
    assert not [line for line in running.log[lines:] if "level=warn" in line or "level=error" in line]
    assert await running.stop() == 0
    assert not await answers(container(objects)["livenessProbe"], running.address)


async def answers(probe: Object, address: tuple[str, int]) -> bool:
    """Run a probe like the kubelet: without password or client certificate, and trusting any server certificate."""
    try:
        if "tcpSocket" in probe:
            _, writer = await asyncio.open_connection(*address)
            writer.close()
            return True
        url = f"{probe['httpGet']['scheme'].lower()}://{address[0]}:{address[1]}{probe['httpGet']['path']}"
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        async with aiohttp.ClientSession() as http, http.get(url, ssl=trusting) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError):
        return False


def test_the_values_of_an_existing_web_secret_choose_the_probes() -> None:
    def scheme(**said: bool) -> str:
        probe = container(render({"web": {"existingSecret": {"name": "mine"} | said}}))["livenessProbe"]
        return str(probe["httpGet"]["scheme"]) if "httpGet" in probe else "TCP"

    assert (scheme(), scheme(tls=True), scheme(requiresClientCertificate=True)) == ("HTTP", "HTTPS", "TCP")
    assert "web" not in render(OWN_WEB)
    secrets = [volume["secret"]["secretName"] for volume in pod(render(OWN_WEB))["volumes"] if "secret" in volume]
    assert "mine" in secrets


def test_the_ordinal_of_a_pod_is_its_shard() -> None:
    objects = render({"shards": 3})
    (variable,) = container(objects)["env"]
    assert variable["name"] == "SHARD"
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    # In parallel: shards do not depend on each other, and one may wait for its token.
    assert objects["workload"]["spec"]["podManagementPolicy"] == "Parallel"
    replicas = objects["workload"]["spec"]["replicas"]
    args = " ".join(container(objects)["args"])
    parsed = [make_parser().parse_args(args.replace("$(SHARD)", str(i)).split()).shard for i in range(replicas)]
    assert parsed == [Shard(i, 3) for i in range(3)]
    assert make_parser().parse_args(container(render())["args"]).shard == Shard()
    assert objects["poddisruptionbudget"]["spec"]["maxUnavailable"] == 1


async def test_a_shard_without_accounts_is_ready(api: Api, exporter: StartExporter) -> None:
    other = next(index for index in range(3) if not Shard(index, 3).owns("default"))
    running = await exporter(f"--shard={other}/3")
    assert await running.get("/-/ready") == (200, "ready\n")
    assert not api.requests


def test_each_exporter_has_its_own_storage_volume() -> None:
    stored: Values = {"storage": {"enabled": True, "size": "2Gi"}}
    one, three = render(stored), render(stored, {"shards": 3})
    assert one["storage"]["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    (claim,) = three["workload"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"] == one["storage"]["spec"]
    assert "storage" not in three
    assert "storage" not in render(stored, {"storage": {"existingClaim": "mine"}})
    for objects in (one, three):
        assert f"--storage.path={mount_path(objects, 'storage')}" in container(objects)["args"]
        assert pod(objects)["securityContext"]["fsGroup"] == pod(objects)["securityContext"]["runAsGroup"]


def test_on_openshift_the_chart_sets_no_user_or_group_ids() -> None:
    ids = {"runAsUser", "runAsGroup", "fsGroup"}
    assert ids <= pod(render())["securityContext"].keys()
    assert ids <= pod(render({"openshift": False}))["securityContext"].keys()
    assert not ids & pod(render({"openshift": True}))["securityContext"].keys()


@pytest.mark.parametrize(
    "key",
    ["nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName", "imagePullSecrets"],
)
def test_values_about_scheduling_and_pull_secrets_are_in_the_pod(key: str) -> None:
    assert pod(render(EVERYTHING_ELSE))[key] == EVERYTHING_ELSE[key]
    assert key not in pod(render())


def test_the_service_publishes_pods_before_they_are_ready() -> None:
    spec = render()["service"]["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert spec["ports"] == [{"name": "http", "port": 10465, "targetPort": "http", "protocol": "TCP"}]


def test_the_network_policy_allows_scrapes_dns_and_inkit() -> None:
    policy = render()["networkpolicy"]["spec"]
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    names, inkit = policy["egress"]
    assert {port["port"] for port in names["ports"]} == {53, 5353}
    assert len(names["to"]) == 3
    assert all(peer.get("podSelector") or peer["ipBlock"]["cidr"].endswith("/32") for peer in names["to"])
    assert inkit["ports"] == [{"port": 443, "protocol": "TCP"}]
    through_proxy = render(PROXY)["networkpolicy"]["spec"]["egress"]
    assert through_proxy == [names, *PROXY["networkPolicy"]["egress"]]
    some = {"from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]}
    assert render({"networkPolicy": some})["networkpolicy"]["spec"]["ingress"][0]["from"] == some["from"]
    assert "networkpolicy" not in render({"networkPolicy": {"enabled": False}})


def test_the_rules_and_the_dashboard_are_the_same_as_in_the_repository() -> None:
    objects = render(ALL_ON)
    rule, dashboard = objects["prometheusrule"], objects["dashboard"]
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    # The keys that both the operator's schema and a rules file have.
    for group in rule["spec"]["groups"]:
        assert group.keys() <= {"name", "interval", "limit", "labels", "query_offset", "rules"}
        for one in group["rules"]:
            assert one.keys() <= {"alert", "annotations", "expr", "for", "keep_firing_for", "labels", "record"}
    source = DEPLOY / "grafana" / "dashboards" / "inkit-exporter.json"
    assert json.loads(dashboard["data"]["inkit-exporter.json"]) == json.loads(source.read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_service_monitor_scrapes_the_pods_as_prometheus_yml_does() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][:1]
    objects = render(ALL_ON)
    (port,) = objects["service"]["spec"]["ports"]
    endpoint = {
        "port": port["name"],
        "interval": job["scrape_interval"],
        "scrapeTimeout": job["scrape_timeout"],
        "relabelings": [
            {"targetLabel": "job", "replacement": job["job_name"]},
            {"targetLabel": "instance", "sourceLabels": ["__meta_kubernetes_pod_name"]},
        ],
    }
    assert objects["servicemonitor"]["apiVersion"] == "monitoring.coreos.com/v1"
    assert objects["servicemonitor"]["spec"]["endpoints"] == [endpoint]
    encrypted = render(ALL_ON, TLS)["servicemonitor"]["spec"]["endpoints"]
    assert encrypted == [endpoint | {"scheme": "https", "tlsConfig": TLS["serviceMonitor"]["tlsConfig"]}]


def test_the_notes_name_the_needed_secrets_and_the_right_commands() -> None:
    text = notes()
    assert "account production: key `production` of Secret `inkit-exporter`" in text
    assert "kubectl -n monitoring rollout status deployment/inkit-exporter" in text
    text = notes(ACCOUNTS, TLS, ALL_ON, {"shards": 3})
    assert "key `token` of Secret `third`" in text and "statefulset/inkit-exporter" in text and "https://" in text
    assert "account six" not in text and "Prometheus does not scrape it yet" not in text

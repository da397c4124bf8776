"""The manifest for kubectl and kustomize, and the values that the documentation shows."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from support import ROOT
from support.api import TOKEN
from support.chart import Object, check_schema, container, pod, render
from support.exporter import run_to_end

MANIFEST = ROOT / "deploy" / "kubernetes" / "inkit-exporter.yaml"
GUIDE = (ROOT / "docs" / "kubernetes.md").read_text()


def by_kind(text: str) -> dict[str, Object]:
    objects: list[Object] = list(yaml.safe_load_all(text))
    kinds = {thing["kind"]: thing for thing in objects}
    assert len(kinds) == len(objects)
    return kinds


def test_the_manifest_is_valid_and_names_no_namespace() -> None:
    objects = by_kind(MANIFEST.read_text())
    assert objects.keys() == {"ConfigMap", "Deployment", "NetworkPolicy", "Service", "ServiceAccount"}
    for thing in objects.values():
        check_schema(thing)
        assert "namespace" not in thing["metadata"]
        assert not {"app.kubernetes.io/managed-by", "helm.sh/chart"} & thing["metadata"]["labels"].keys()


async def check(text: str, folder: Path) -> str:
    """Return the exporter's output for a configuration whose tokens are where the manifest mounts them."""
    (volume,) = [volume for volume in by_kind(MANIFEST.read_text())["Deployment"]["spec"]["template"]["spec"]["volumes"]
                 if volume["name"] == "tokens"]  # fmt: skip
    assert volume["secret"]["secretName"] == "inkit-exporter"
    (folder / "production").write_text(TOKEN)
    path = folder / "checked.yaml"
    path.write_text(text.replace("/run/secrets/inkit", str(folder)))
    status, out, err = await run_to_end("--config.check", f"--config.file={path}")
    assert (status, err) == (0, "")
    return out


@pytest.mark.process
async def test_the_manifests_configuration_is_valid(tmp_path: Path) -> None:
    config = by_kind(MANIFEST.read_text())["ConfigMap"]["data"]["config.yaml"]
    assert (await check(config, tmp_path)).endswith("ok, accounts: production\n")


def kustomize(folder: Path) -> str:
    command = [str(Path(sys.executable).with_name("kubectl")), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.process
async def test_the_kustomization_that_the_documentation_shows_works(tmp_path: Path) -> None:
    (block,) = [
        block for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", GUIDE, flags=re.MULTILINE) if "resources:" in block
    ]
    local, count = re.subn(r"https://raw\S+/deploy/kubernetes/(\S+)", r"\1", dedent(block))
    assert count == 1
    (tmp_path / "kustomization.yaml").write_text(local)
    (tmp_path / MANIFEST.name).write_text(MANIFEST.read_text())
    (account,) = re.findall(r"`(api_token_file: \S+)`", GUIDE)
    (tmp_path / "config.yaml").write_text(f"accounts: [{{name: mine, {account}}}]\n")
    objects = by_kind(kustomize(tmp_path))
    assert objects.keys() == by_kind(MANIFEST.read_text()).keys()
    assert {thing["metadata"]["namespace"] for thing in objects.values()} == {"monitoring"}
    config = objects["ConfigMap"]
    assert re.fullmatch(r"inkit-exporter-config-\w{10}", config["metadata"]["name"])
    volumes = objects["Deployment"]["spec"]["template"]["spec"]["volumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == "config"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert (await check(config["data"]["config.yaml"], tmp_path)).endswith("ok, accounts: mine\n")


VALUES = [
    yaml.safe_load(dedent(block))
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```", GUIDE, flags=re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("values", VALUES, ids="+".join)
def test_the_values_that_the_documentation_shows_work(values: Object) -> None:
    objects = render(values)
    switches = {"serviceMonitor": "servicemonitor", "prometheusRule": "prometheusrule", "dashboard": "dashboard"}
    for key, template in switches.items():
        assert (template in objects) == (key in values)
    if "web" in values:
        assert container(objects)["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"
    if "extraVolumes" in values:
        ca_file = Path(yaml.safe_load(objects["config"]["data"]["config.yaml"])["api"]["ca_file"])
        assert str(ca_file.parent) in [mount["mountPath"] for mount in container(objects)["volumeMounts"]]
        assert values["extraVolumes"][0] in pod(objects)["volumes"]


def test_the_documentation_shows_values_for_each_topic() -> None:
    assert len(VALUES) == 3

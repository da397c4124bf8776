"""The Compose file: read by Compose itself, hardened, and with working commands."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import PATIENCE_SECONDS, ROOT
from support.api import TOKEN, Api, batch
from support.connections import free_address
from support.exporter import StartExporter, run_to_end
from support.monitoring import query, serving
from support.samples import up

import inkit_exporter

COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IN_IMAGE = {"/opt/venv/bin/python": sys.executable, "/opt/inkit-exporter": str(ROOT)}


def render(*files: Path) -> dict[str, Any]:
    """Let Compose read the file and its overrides, without an engine."""
    program = Path(sys.executable).with_name("docker-compose")
    layers = [f"--file={path}" for path in (COMPOSE, *files)]
    command = [str(program), *layers, "config", "--format=json"]
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    project: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))
    return project


@cache
def services() -> dict[str, dict[str, Any]]:
    """Return the services of the file by name."""
    found: dict[str, dict[str, Any]] = render()["services"]
    return found


def here(words: list[str], **replaced: str) -> list[str]:
    """Return a command of the image with the paths and ports of this machine."""
    for old, new in (IN_IMAGE | replaced).items():
        words = [word.replace(old, new) for word in words]
    return words


@pytest.mark.process
def test_the_stack_has_all_services() -> None:
    assert services().keys() == {"inkit-exporter", "prometheus", "alertmanager", "grafana"}


@pytest.mark.parametrize("name", yaml.safe_load(COMPOSE.read_text())["services"])
@pytest.mark.process
def test_every_service_is_pinned_hardened_and_reachable_only_from_this_machine(name: str) -> None:
    service = services()[name]
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert re.match(r"[1-9]\d*:", service["user"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and not service.get("cap_add")
    assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}
    assert "healthcheck" in service or ("build" in service and "HEALTHCHECK" in DOCKERFILE)
    for mount in service.get("volumes", []):
        assert mount["type"] == "volume" or mount["read_only"] is True, mount


@pytest.mark.process
def test_no_service_has_a_default_password() -> None:
    grafana = services()["grafana"]["environment"]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not any("PASSWORD" in name for service in services().values() for name in service.get("environment", {}))
    guide = (ROOT / "docs" / "grafana.md").read_text()
    (block,) = re.findall(r"```yaml\n(services:.*?)```", guide, flags=re.DOTALL)
    override = yaml.safe_load(block)
    assert override["services"]["grafana"]["environment"].keys() - grafana.keys() == {
        "GF_SECURITY_ADMIN_PASSWORD__FILE"
    }


@pytest.mark.process
def test_the_image_is_the_released_one_or_built_from_the_sources() -> None:
    service = services()["inkit-exporter"]
    assert service["image"] == f"ghcr.io/inkit-exporter/inkit-exporter:{inkit_exporter.__version__}"
    assert Path(service["build"]["context"]) == ROOT
    assert "entrypoint" not in service or not service["entrypoint"]


def image_command(*flags: str) -> list[str]:
    """Return the command that the image starts with a service's flags."""
    (entrypoint,) = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    return here([*json.loads(entrypoint), *flags])


@pytest.mark.process
async def test_without_an_account_the_demo_runs() -> None:
    process = await asyncio.create_subprocess_exec(
        *image_command("--web.listen-address=127.0.0.1:0", *services()["inkit-exporter"]["command"]),
        env={},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert "accounts=demo" in (await process.stderr.readline()).decode()
    finally:
        process.terminate()
        status = await process.wait()
    assert status == 0


@pytest.mark.process
async def test_with_an_account_the_token_is_a_secret_file(api: Api, tmp_path: Path) -> None:
    api.batches = [batch("fb_1")]
    project = render(COMPOSE.with_name("compose.account.yaml"))
    service = project["services"]["inkit-exporter"]
    (mount, volume), (secret,) = service["volumes"], service["secrets"]
    assert mount["read_only"] and service["read_only"]
    assert volume["type"] == "volume" and f"--storage.path={volume['target']}" in service["command"]
    assert f"install -d -o 65534 -g 65534 -m 700 {volume['target']}\n" in DOCKERFILE
    config = yaml.safe_load(Path(mount["source"]).read_text())
    assert config["accounts"][0]["api_token_file"] == f"/run/secrets/{secret['source']}"
    token = Path(project["secrets"][secret["source"]]["file"])
    assert f"/{token.relative_to(ROOT)}" in (ROOT / ".gitignore").read_text().splitlines()

    (tmp_path / "token").write_text(TOKEN)
    config["accounts"][0] |= {"api_token_file": str(tmp_path / "token"), "base_url": api.base_url}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    flags = here(service["command"], **{mount["target"]: f"{tmp_path}/config.yaml"})
    process = await asyncio.create_subprocess_exec(
        *image_command("--once", *flags), env={}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert b'inkit_up{account="production"} 1.0' in out


async def test_the_images_health_check_fails_when_the_exporter_is_stopped(
    exporter: StartExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # Docker's client can set one in every container
    command = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    assert command is not None
    running = await exporter()
    await running.wait_for(lambda samples: up(samples) is not None)
    words = here(json.loads(command[1]), **{":10465/": f":{running.url.port}/"})
    assert await asyncio.to_thread(subprocess.call, words) == 0
    assert await running.stop() == 0
    assert await asyncio.to_thread(subprocess.call, words, stderr=subprocess.DEVNULL) != 0


@pytest.mark.process
def test_prometheus_has_the_same_configuration_as_without_compose_except_addresses() -> None:
    ours, plain = (
        yaml.safe_load(path.read_text())
        for path in (COMPOSE.with_name("prometheus.yml"), ROOT / "deploy" / "prometheus" / "prometheus.yml")
    )
    (job,) = ours["scrape_configs"]
    assert job == plain["scrape_configs"][0] | {"static_configs": job["static_configs"]}
    assert ours["rule_files"] == plain["rule_files"]
    assert ours["global"]["evaluation_interval"] == plain["global"]["evaluation_interval"]
    ports = {f"{name}:{port['target']}" for name, service in services().items() for port in service["ports"]}
    assert job["static_configs"] == [{"targets": ["inkit-exporter:10465"]}]
    assert ours["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]
    assert {"inkit-exporter:10465", "alertmanager:9093"} <= ports


@pytest.mark.process
@pytest.mark.debian
async def test_prometheus_starts_with_its_mounts_and_passes_its_health_check(tmp_path: Path) -> None:
    service = services()["prometheus"]
    for mount in service["volumes"]:
        place = tmp_path / mount["target"].removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if mount["type"] == "bind":
            place.symlink_to(mount["source"])
    places = {"/etc/": f"{tmp_path}/etc/", "path=/prometheus": f"path={tmp_path}/prometheus"}
    flags, log = here(service["command"], **places), tmp_path / "log"
    with free_address() as address:
        check = here(service["healthcheck"]["test"][1:], **{":9090/": f":{address.rpartition(':')[2]}/"})
        async with serving("prometheus", *flags, address=address, log=log) as http:
            assert await asyncio.to_thread(subprocess.call, check) == 0
            groups = (await query(http, "rules"))["groups"]
        assert await asyncio.to_thread(subprocess.call, check) != 0
    assert {group["name"] for group in groups} >= {"inkit_exporter", "inkit_documents", "inkit_slo"}


@pytest.mark.process
async def test_the_files_that_the_image_copies_are_enough_to_run(tmp_path: Path) -> None:
    for source, target in re.findall(r"^COPY (\S+) /opt/inkit-exporter/(\S*)$", DOCKERFILE, flags=re.MULTILINE):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target)
        else:
            shutil.copy(ROOT / source, tmp_path / target)
    done = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "exporter.py"), "--version", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await done.communicate()
    assert (done.returncode, out.decode()) == (0, (await run_to_end("--version"))[1])

"""What can be told of the deployment files without the machines that they are for."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted([*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")])
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICE_KEYS = {
    *("build", "cap_drop", "command", "depends_on", "entrypoint", "env_file", "environment"),
    *("expose", "healthcheck", "hostname", "image", "init", "logging", "networks", "ports"),
    *("read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "volumes"),
}
NOT_OURS = {"DOMAIN", "WEB", "STORE_WEB", "POSTGRES_PASSWORD", "RABBITMQ_PASSWORD", "STORE_SECRET"}
"""What only the deployment itself reads."""
PORT = "8000"


def example() -> dict[str, str]:
    """The variables of handcar.env.example, those behind a # too."""
    found = re.findall(
        r"^#?([A-Z][A-Z0-9_]+)=(.*)$", (DEPLOY / "handcar.env.example").read_text(), re.M
    )
    return dict(found)


def handcar_lines() -> list[tuple[str, list[str]]]:
    """Every command of ours in the units, the compose file and the Dockerfile."""
    lines = []
    for unit in UNITS:
        for text in re.findall(r"/opt/handcar/bin/handcar ([^\n']*)", unit.read_text()):
            lines.append((unit.name, shlex.split(text)))
    for name, service in COMPOSE["services"].items():
        command = service.get("command")
        if isinstance(command, list) and command[0] == "handcar":
            lines.append((name, command[1:]))
    (command,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.M)
    lines.append(("Dockerfile", yaml.safe_load(command)[1:]))
    return lines


@pytest.mark.parametrize(("place", "words"), handcar_lines(), ids=lambda value: str(value)[:20])
def test_every_command_of_ours_exists_with_its_options(place: str, words: list[str]):
    done = subprocess.run(
        [sys.executable, "-m", "handcar", words[0], "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
    )
    assert done.returncode == 0, (place, words[0], done.stderr)
    for word in words[1:]:
        if word.startswith("--"):
            assert re.search(rf"(^|[\s,]){re.escape(word)}\b", done.stdout), (place, word)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_every_unit(unit: Path, tmp_path: Path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    for one in UNITS:
        # The program is not where it will be; anything else that systemd says is a mistake.
        text = one.read_text().replace("/opt/handcar/bin/handcar", "/bin/true")
        (tmp_path / one.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("name", ["handcar", "handcar-web", "handcar-worker"])
def test_a_server_s_unit_is_shut_in(name: str):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(DEPLOY / f"{name}.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze tells no exposure: {done.stderr[:100]}")
    assert float(found[1]) < 3.0, done.stdout


def test_the_compose_file_says_what_compose_understands():
    assert set(COMPOSE) - {"x-handcar"} == {"name", "services", "volumes"}
    for name, service in COMPOSE["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert "image" in service, name
        for other, how in _depends(service).items():
            assert other in COMPOSE["services"], (name, other)
            if how.get("condition") == "service_healthy":
                assert "healthcheck" in COMPOSE["services"][other], (name, other)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), volume
            else:
                assert source in COMPOSE["volumes"], volume
    for needed in ("web", "worker", "postgres", "rabbitmq", "store", "caddy"):
        assert needed in COMPOSE["services"]


def _depends(service: dict) -> dict:
    given = service.get("depends_on", {})
    return dict.fromkeys(given, {}) if isinstance(given, list) else given


def test_docker_compose_accepts_the_file(tmp_path: Path):
    plugin = subprocess.run(
        [shutil.which("docker") or "false", "compose", "version"], capture_output=True, check=False
    )
    if plugin.returncode:
        pytest.skip("docker's compose plugin is not here")
    for path in DEPLOY.iterdir():
        shutil.copy(path, tmp_path / path.name)
    lines = [f"{name}={value or 'x' * 64}" for name, value in example().items()]
    (tmp_path / "handcar.env").write_text("\n".join(lines))
    done = subprocess.run(
        ["docker", "compose", "--env-file", "handcar.env", "config", "--quiet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_variable_that_the_compose_file_asks_for_is_in_the_example():
    text = (DEPLOY / "compose.yaml").read_text()
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    assert asked
    assert asked <= set(example())


def test_every_variable_of_the_server_is_one_that_it_reads():
    configuration = importlib.import_module("handcar.server.configuration")
    told = set(example()) | set(COMPOSE["x-handcar"]["environment"])
    for unit in UNITS:
        told |= set(re.findall(r"^Environment=(\w+)=", unit.read_text(), re.M))
    told |= set(re.findall(r"(HANDCAR_\w+)=", (DEPLOY / "Dockerfile").read_text()))
    ours = told - NOT_OURS - {"NUMBA_CACHE_DIR"}
    assert ours <= set(configuration.VARIABLES)


def test_the_addresses_in_the_files_are_ones_that_the_server_takes(tmp_path: Path):
    configuration = importlib.import_module("handcar.server.configuration")
    values = {name: value for name, value in example().items() if name.startswith("HANDCAR_")}
    values |= COMPOSE["x-handcar"]["environment"]
    values = {name: re.sub(r"\$\{\w+[^}]*\}", "example.org", v) for name, v in values.items()}
    values = {name: value or "a" * 64 for name, value in values.items()}
    found = configuration.read(values | {"HANDCAR_SERVER_HOME": str(tmp_path)})
    assert found.behind_proxy
    assert found.bucket == ("handcar", "bytes")


def test_caddy_passes_on_to_the_port_that_the_server_listens_on():
    text = (DEPLOY / "Caddyfile").read_text()
    assert f"{{$WEB:127.0.0.1:{PORT}}}" in text
    assert COMPOSE["services"]["caddy"]["environment"]["WEB"] == f"web:{PORT}"
    assert COMPOSE["services"]["web"]["expose"] == [PORT]
    for place, words in handcar_lines():
        if words[0] == "serve":
            assert words[words.index("--port") + 1] == PORT, place
    store = COMPOSE["services"]["caddy"]["environment"]["STORE_WEB"].split(":")[1]
    assert COMPOSE["services"]["store"]["expose"] == [store]
    assert f"-s3.port={store}" in " ".join(COMPOSE["services"]["store"]["command"])


def test_caddy_accepts_its_file():
    if not shutil.which("caddy"):
        pytest.skip("caddy is not here")
    done = subprocess.run(
        ["caddy", "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")],
        env=os.environ | {"DOMAIN": "train.example.org"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_image_is_built_of_what_is_there():
    text = (DEPLOY / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    kept = re.findall(r"^!(\S+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.M)
    for sources in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.M):
        for source in sources.split():
            assert (ROOT / source.removeprefix("./")).exists(), source
            assert source in kept, source
    kinds = {line.split()[0] for line in text.replace("\\\n", "").splitlines() if line.strip()}
    kinds = {kind for kind in kinds if not kind.startswith("#")}
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "CMD"}
    assert kinds <= known
    assert text.index("USER handcar") < text.index("CMD [")


def test_every_step_of_the_how_to_names_files_and_units_that_are_there():
    page = (ROOT / "docs/how-to/cloud.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) > 5
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        for name in re.findall(r"handcar/deploy/([\w.-]+)", block):
            assert (DEPLOY / name).exists(), name
        for name in re.findall(r"\b(handcar[\w-]*\.(?:service|timer))\b", block):
            assert (DEPLOY / name).exists(), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"handcar\[([a-z,]+)\]", page):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])

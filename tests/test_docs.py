"""What the documents say is what the program does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import free_port

from handcar.simulation.stage import Stage

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]+)")

sys.path.insert(0, str(ROOT / "tools"))


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """The (label, text) of each fenced block in a language."""
    for found, label, text in BLOCK.findall(page.read_text()):
        if found == language:
            yield label.strip(), text


def command_lines() -> list[tuple[str, str]]:
    return [
        (page.name, line.split("#")[0].strip())
        for page in PAGES
        for _, text in blocks(page, "console")
        for line in text.splitlines()
        if line.strip()
    ]


def help_of(*command: str) -> str:
    environment = os.environ | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "handcar", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout


def test_there_are_commands_in_the_documents():
    assert len(command_lines()) > 20


def test_every_handcar_command_in_the_documents_exists_with_its_options():
    helps: dict[str, str] = {}
    for page, line in command_lines():
        words = shlex.split(line)
        if words[0] != "handcar":
            continue
        text = helps.setdefault(words[1], help_of(words[1]))
        for word in words[2:]:
            if word.startswith("-"):
                assert re.search(rf"(^|[\s,]){re.escape(word)}\b", text), (page, line)


def test_every_make_target_in_the_documents_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page, line in command_lines():
        words = line.split()
        if words[0] == "make" and len(words) > 1:
            assert words[1] in targets, (page, line)


def test_every_benchmark_in_the_documents_exists_with_its_options():
    helps: dict[str, str] = {}
    for page, line in command_lines():
        words = shlex.split(line)
        if words[0] != "python" or not words[1].startswith("benchmarks/"):
            continue
        if words[1] not in helps:
            helps[words[1]] = subprocess.run(
                [sys.executable, str(ROOT / words[1]), "--help"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        for word in words[2:]:
            if word.startswith("--"):
                assert re.search(rf"(^|[\s,\[]){re.escape(word)}\b", helps[words[1]]), (page, line)


def test_every_extra_that_is_installed_in_the_documents_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    for page, line in command_lines():
        if line.startswith("pip install"):
            for group in re.findall(r"handcar\[([a-z,]+)\]", line):
                assert set(group.split(",")) <= extras, (page, line)


def test_other_commands_are_ones_that_anybody_has():
    known = {"handcar", "make", "pip", "python", "python3.11", "source"}
    assert {line.split()[0] for _, line in command_lines()} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path):
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_reference_of_commands_is_what_the_program_prints():
    import make_reference

    assert (ROOT / "docs/reference/commands.md").read_text() == make_reference.commands()


def test_the_reference_of_the_api_is_what_the_server_serves():
    program = "import make_reference as made; print(made.api(made.openapi()), end='')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "tools",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs/reference/api.md").read_text() == done.stdout


def test_constraints_are_names_and_versions_only():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line), line


def test_no_registry_address_or_home_path_is_in_the_repository():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    forbidden = re.compile(
        rb"pypi\.(?:org)|files\.python" rb"hosted|registry\.npm" rb"js|/home/[a-z]+/|/root/|/Users/"
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".npz", ".png"} or "vendor" in path.parts or not path.is_file():
            continue
        if path.name != "test_docs.py":
            assert not forbidden.search(path.read_bytes()), name


@pytest.mark.system
def test_the_tutorial_works_when_typed_in(tmp_path: Path):
    port = free_port()
    page = ROOT / "docs/tutorial.md"
    for language in ("python", "json"):
        for label, text in blocks(page, language):
            (tmp_path / label.removeprefix("file=")).write_text(text)
    with Stage(tmp_path) as stage:
        stage.url = f"http://127.0.0.1:{port}"
        stage.environment["HANDCAR_SERVER"] = stage.url
        stage.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        printed = ""
        for label, text in blocks(page, "console"):
            for line in text.replace("127.0.0.1:8000", f"127.0.0.1:{port}").splitlines():
                if label == "background":
                    words = shlex.split(line)[1:]
                    extra = ["--port", str(port)] if words == ["serve"] else []
                    stage.start(*words, *extra, log=f"{words[0]}.log")
                    if words[0] == "serve":
                        stage.until(lambda: answers(stage.url), "the server answers")
                elif label == "run":
                    printed += typed(line, stage)
    assert "finished" in printed
    right = re.search(r"([\d.]+)% of all points are right", printed)
    assert right, printed
    assert float(right[1]) > 80


def answers(url: str) -> bool:
    import httpx2

    try:
        return httpx2.get(f"{url}/api/v1/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def typed(line: str, stage: Stage) -> str:
    done = subprocess.run(
        line,
        shell=True,
        cwd=stage.folder,
        env=stage.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr, stage.logs())
    return done.stdout

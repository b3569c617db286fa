"""Fetch the front-end files that Handcar ships, and note what they are.

Run by hand with npm at hand, never at install: change a version below, run
`python tools/vendor.py`, look at the difference, commit. Needs the npm registry.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "src/handcar/server/dashboard/static/vendor"
TESTS = ROOT / "tests/browser/vendor"
READER = ROOT / "tests/wire/vendor"
NOTE = "VENDORED.toml"


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the npm registry; `files` maps a name there to the name here."""

    name: str
    version: str
    licence: str
    folder: Path
    files: dict[str, str]


PACKAGES = (
    Package(
        name="htmx.org",
        version="4.0.1",
        licence="0BSD",
        folder=PAGES,
        files={"dist/htmx.min.js": "htmx-4.0.1.min.js", "LICENSE": "htmx-LICENSE.txt"},
    ),
    Package(
        name="uplot",
        version="1.6.32",
        licence="MIT",
        folder=PAGES,
        files={
            "dist/uPlot.iife.min.js": "uPlot-1.6.32.iife.min.js",
            "dist/uPlot.min.css": "uPlot-1.6.32.min.css",
            "LICENSE": "uPlot-LICENSE.txt",
        },
    ),
    Package(
        name="axe-core",
        version="4.14.1",
        licence="MPL-2.0",
        folder=TESTS,
        files={"axe.min.js": "axe-4.14.1.min.js", "LICENSE": "axe-LICENSE.txt"},
    ),
    Package(
        name="fzstd",
        version="0.1.1",
        licence="MIT",
        folder=READER,
        files={"esm/index.mjs": "fzstd-0.1.1.mjs", "LICENSE": "fzstd-LICENSE.txt"},
    ),
)


def main() -> None:
    """Fetch every package."""
    for folder in {package.folder for package in PACKAGES}:
        folder.mkdir(parents=True, exist_ok=True)
        mine = [package for package in PACKAGES if package.folder == folder]
        notes = [note for package in mine for note in fetch(package)]
        (folder / NOTE).write_text("# Written by tools/vendor.py.\n\n" + "\n".join(notes))


def fetch(package: Package) -> list[str]:
    """Write the files of a package, and return what to note of each."""
    with tempfile.TemporaryDirectory() as folder:
        archive = pack(package, Path(folder))
        with tarfile.open(archive) as tar:
            return [note(package, tar, there, here) for there, here in package.files.items()]


def pack(package: Package, folder: Path) -> Path:
    """Download a package with npm."""
    command = ["npm", "pack", "--json", "--silent", f"{package.name}@{package.version}"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder / str(json.loads(done.stdout)[0]["filename"])


def note(package: Package, tar: tarfile.TarFile, there: str, here: str) -> str:
    """Write one file and return its entry."""
    member = tar.extractfile(f"package/{there}")
    if member is None:
        raise SystemExit(f"{package.name} {package.version} has no file {there}")
    data = member.read()
    (package.folder / here).write_bytes(data)
    return (
        "[[file]]\n"
        f'name = "{package.name}"\n'
        f'version = "{package.version}"\n'
        f'licence = "{package.licence}"\n'
        f'file = "{here}"\n'
        f'sha256 = "{hashlib.sha256(data).hexdigest()}"\n'
    )


if __name__ == "__main__":
    main()

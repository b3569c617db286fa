"""Files by class, in a folder or in a .zip: which class each is of, and which split.

    cats/1.png, dogs/2.png                        classes; deeper folders count for the first
    train/cats/1.png, test/cats/7.png, val/...    splits that the owner made
    birds/cats/1.png, birds/dogs/2.png            one folder around everything is left away

A .zip is only read from, member by member: nothing is unpacked under a name of its own.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handcar.data.readers import zips
from handcar.data.reading import Reading
from handcar.errors import DataError
from handcar.files import MB

FILE_BYTES = 256 * MB
"""More than any picture or clip that fits into a chunk; what one member may unpack to."""
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
NO_DATA = ("__MACOSX", "Thumbs.db", "desktop.ini")

Parts = tuple[str, ...]


class Tree(Protocol):
    """A folder or an archive."""

    name: str

    def files(self) -> list[Parts]:
        """Return the path of each file, sorted; hidden ones left out."""

    def read(self, parts: Parts) -> bytes:
        """Return a file's bytes. Raises DataError."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file, and its class number."""

    tree: Tree
    parts: Parts
    label: int

    def read(self) -> bytes:
        """Return the file's bytes. Raises DataError."""
        return self.tree.read(self.parts)

    def __str__(self) -> str:
        return "/".join((self.tree.name, *self.parts))


@dataclass(frozen=True, slots=True)
class Layout:
    """The files to train on and to measure on, and what is known of their classes."""

    train: list[Item]
    test: list[Item] | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def splits(self) -> list[list[Item]]:
        """The files to train on and, if the owner set some apart, those to measure on."""
        return [self.train] if self.test is None else [self.train, self.test]

    def labels(self, items: list[Item]) -> NDArray[Any]:
        """Return the class numbers of files, in the smallest type that holds all classes."""
        smallest = np.min_scalar_type(len(self.class_names) - 1)
        return np.array([item.label for item in items], smallest)


def suffixes(path: Path) -> Counter[str]:
    """Return how many files there are of each suffix, in small letters."""
    with opened(path) as tree:
        return Counter(PurePosixPath(parts[-1]).suffix.lower() for parts in tree.files())


@contextmanager
def by_class(
    path: Path, reading: Reading, wanted: Collection[str], *, prefixes: bool = False
) -> Iterator[Layout]:
    """Open a folder or .zip and sort its files of the wanted suffixes into classes.

    With `prefixes`, files that all lie in one folder have their class before the first `_`.
    Raises DataError.
    """
    with ExitStack() as stack:
        trees = [stack.enter_context(opened(path))]
        if reading.options.test is not None:
            trees.append(stack.enter_context(opened(reading.options.test)))
        yield _layout(path, trees, reading, wanted, prefixes)


def _layout(
    path: Path, trees: list[Tree], reading: Reading, wanted: Collection[str], prefixes: bool
) -> Layout:
    files, notes = _wanted(trees[0], wanted)
    splits, top, more = _splits(files)
    labels = {name: _labels(path, listed, top, prefixes) for name, listed in splits.items()}
    if len(trees) > 1:
        if splits.keys() > {"train"}:
            reading.refuse_test(path)
        splits["test"], more = _wanted(trees[1], wanted)
        labels["test"] = _labels(
            Path(trees[1].name), splits["test"], _around(splits["test"]), prefixes
        )
    names = tuple(sorted(set(labels["train"])))
    items = {
        name: _items(trees[0] if name == "train" else trees[-1], splits[name], labels[name], names)
        for name in splits
    }
    return Layout(items["train"], items.get("test"), names, (*notes, *more))


def _items(tree: Tree, files: list[Parts], labels: list[str], names: tuple[str, ...]) -> list[Item]:
    numbers = {name: number for number, name in enumerate(names)}
    for parts, label in zip(files, labels, strict=True):
        if label not in numbers:
            raise DataError(
                f"{tree.name}/{'/'.join(parts)}: the class {label} is not among those to train "
                f"on, which are {', '.join(names[:20])}"
            )
    return [Item(tree, parts, numbers[label]) for parts, label in zip(files, labels, strict=True)]


def _wanted(tree: Tree, suffixes: Collection[str]) -> tuple[list[Parts], list[str]]:
    """Return the files with one of these suffixes, and what to tell of others."""
    files: list[Parts] = []
    others: list[Parts] = []
    for parts in tree.files():
        fits = PurePosixPath(parts[-1]).suffix.lower() in suffixes
        (files if fits else others).append(parts)
    if not files:
        raise DataError(f"{tree.name}: expected files ending in {', '.join(suffixes)}, found none")
    few = ", ".join("/".join(parts) for parts in others[:3])
    more = " ..." if len(others) > 3 else ""
    return files, [f"Left out, of another kind: {few}{more}."] if others else []


def _splits(files: list[Parts]) -> tuple[dict[str, list[Parts]], int, list[str]]:
    """Return the files of each split, how many folders are above classes, and what to tell."""
    top = _around(files, inside=1)
    found: dict[str, list[Parts]] = {}
    for parts in files:
        split = SPLITS.get(parts[top].lower(), "") if len(parts) > top + 1 else ""
        found.setdefault(split, []).append(parts)
    if "train" not in found:
        return {"train": files}, _around(files), []
    notes = []
    if left := found.pop("", []):
        notes.append(f"Left out, in neither train nor test: {'/'.join(left[0])} and such.")
    if "validation" in found:
        if count := len(found.pop("test", [])):
            notes.append(f"The {count:,} files of the test folder stay here: val is measured on.")
        found["test"] = found.pop("validation")
    return found, top + 1, notes


def _around(files: list[Parts], inside: int = 2) -> int:
    """Return how many folders are around everything, leaving `inside` parts to each file."""
    return len(os.path.commonprefix([parts[:-inside] for parts in files]))


def _labels(path: Path, files: list[Parts], top: int, prefixes: bool) -> list[str]:
    """Return each file's class: its folder's name, or what its own name begins with."""
    if prefixes and len({parts[:-1] for parts in files}) == 1:
        return [_prefix(path, parts) for parts in files]
    for parts in files:
        if len(parts) <= top + 1:
            raise DataError(
                f"{path}: {'/'.join(parts)} is in no class: expected a folder for each class, "
                f"such as cats/{parts[-1]}"
            )
    return [parts[top] for parts in files]


def _prefix(path: Path, parts: Parts) -> str:
    label, found, _ = parts[-1].partition("_")
    if not found:
        raise DataError(
            f"{path}: {'/'.join(parts)} is in no class: expected a folder for each class, or "
            f"names that begin with the class and _, such as cat_{parts[-1]}"
        )
    return label


# -- folders and archives --------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Tree]:
    """Open a folder or a .zip. Raises DataError."""
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file or folder") from None
    except (OSError, zipfile.BadZipFile) as fault:
        raise DataError(f"{path}: expected a folder or a .zip, which can't be read: {fault}") from (
            fault
        )
    with archive:
        yield _Zip(path, archive)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    def files(self) -> list[Parts]:
        found = []
        for folder, _, names in os.walk(self._path):
            above = Path(folder).relative_to(self._path).parts
            found += [(*above, name) for name in names]
        return sorted(filter(_is_data, found))

    def read(self, parts: Parts) -> bytes:
        path = self._path.joinpath(*parts)
        try:
            _expect_small(self.name, parts, path.stat().st_size)
            return path.read_bytes()
        except OSError as fault:
            raise DataError(f"{path}: can't be read: {fault.strerror}") from fault


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.name = str(path)
        self._archive = archive
        self._members = {
            self._parts(member.filename): member
            for member in archive.infolist()
            if not member.is_dir()
        }

    def files(self) -> list[Parts]:
        return sorted(filter(_is_data, self._members))

    def read(self, parts: Parts) -> bytes:
        member = self._members[parts]
        _expect_small(self.name, parts, member.file_size)
        try:
            # Never more than the size that was just looked at, whatever the bytes unpack to.
            return self._archive.read(member)
        except zips.DAMAGED as e:
            raise DataError(f"{self.name}/{'/'.join(parts)}: can't be unpacked: {e}") from e

    def _parts(self, name: str) -> Parts:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name.split("/", maxsplit=1)[0]:
            raise DataError(
                f"{self.name}: holds {name!r}, which points outside of the archive: expected "
                "names of files below it"
            )
        return path.parts


def _is_data(parts: Parts) -> bool:
    return not any(part.startswith(".") or part in NO_DATA for part in parts)


def _expect_small(name: str, parts: Parts, size: int) -> None:
    if size > FILE_BYTES:
        raise DataError(
            f"{name}/{'/'.join(parts)}: takes {size:,} bytes, expected at most {FILE_BYTES:,}"
        )

"""Pictures by class, in folders and archives, as people have them."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handcar.data import chunks
from handcar.data.cut import cut
from handcar.data.importers import read
from handcar.data.readers import pictures, tree
from handcar.data.reading import Options
from handcar.errors import DataError, DiskFull

RNG = np.random.default_rng(0)
CLASSES = ("ant", "bee")
TURNED = 6
"""EXIF's word for a picture that lies on its side."""


def picture(mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Image.Image:
    width, height = size
    pixels = RNG.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    image = Image.fromarray(pixels)
    return image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)


def fill(folder: Path, name: str = "{}.png", *, count: int = 10, **options: object) -> Path:
    """Make `count` pictures of each class."""
    for label in CLASSES:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(**options).save(folder / label / name.format(number))
    return folder


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, Path(top) / file.relative_to(folder))
    return path


def pixels(folder: Path) -> np.ndarray:
    """The pictures as Pillow reads them, in the order of their names."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.*"))])


def rows(source, part: str = "train", column: str = "x") -> np.ndarray:
    column = getattr(source, part)[column]
    return column.rows(np.arange(column.survey.records))


@pytest.mark.parametrize("ending", ["png", "bmp", "webp"])
def test_a_folder_a_class_gives_pixels_names_and_counts(tmp_path, ending):
    folder = fill(tmp_path / "insects", "{}." + ending)
    with read(folder, folder=tmp_path) as source:
        assert source.x.shape == (6, 8, 3)
        np.testing.assert_array_equal(rows(source), pixels(folder))
        assert rows(source, column="y").tolist() == [0] * 10 + [1] * 10
        assert source.class_names == CLASSES
        text = source.describe()
    for fact in ("insects: 20 records", "6 x 8 x 3", "2 classes: ant (10), bee (10)", "20 "):
        assert fact in text
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("top", ["", "insects", "a/b"])
def test_an_archive_is_read_like_a_folder_whatever_is_around_it(tmp_path, top):
    folder = fill(tmp_path / "insects")
    (folder / ".DS_Store").write_bytes(b"x")
    with read(zipped(folder, tmp_path / "i.zip", top)) as source, read(folder) as same:
        np.testing.assert_array_equal(rows(source), rows(same))
        assert source.class_names == same.class_names == CLASSES
        assert ".DS_Store" not in source.describe()


def test_folders_inside_a_class_belong_to_it(tmp_path):
    folder = fill(tmp_path / "insects")
    fill(folder / "ant" / "wings")
    with read(folder) as source:
        assert source.class_names == CLASSES
        assert rows(source, column="y").tolist() == [0] * 30 + [1] * 10


def test_splits_that_the_owner_made_are_kept(tmp_path):
    for split, count in (("Train", 10), ("test", 3), ("val", 2)):
        fill(tmp_path / "i" / split, count=count)
    with read(tmp_path / "i") as source:
        assert source.test is not None
        assert (source.records, source.test["x"].survey.records) == (20, 4)
        assert "6 files of the test folder stay here: val is measured on" in source.describe()
    shutil.rmtree(tmp_path / "i" / "val")
    with read(zipped(tmp_path / "i", tmp_path / "i.zip", "top")) as source:
        assert source.test is not None
        assert source.test["x"].survey.records == 6
        np.testing.assert_array_equal(rows(source, "test"), pixels(tmp_path / "i" / "test"))


def test_other_pictures_may_be_named_to_test_on(tmp_path):
    train, test = fill(tmp_path / "a"), fill(tmp_path / "b", count=2)
    with read(train, Options(test=zipped(test, tmp_path / "b.zip"))) as source:
        np.testing.assert_array_equal(rows(source, "test"), pixels(test))
    (test / "ant").rename(test / "wasp")
    with pytest.raises(DataError, match="class wasp is not among those to train on.*ant, bee"):
        read(train, Options(test=test))


def test_pictures_in_no_class_are_named(tmp_path):
    folder = fill(tmp_path / "i")
    picture().save(folder / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png is in no class: expected a folder"):
        read(folder)


def test_other_files_are_left_out_and_told(tmp_path):
    folder = fill(tmp_path / "i")
    (folder / "ant" / "README.md").write_text("about ants")
    with read(folder) as source:
        assert "Left out, of another kind: ant/README.md." in source.describe()
        assert source.records == 20


# -- sizes and colours


def test_pictures_of_several_sizes_are_refused_with_the_first_two_that_differ(tmp_path):
    folder = fill(tmp_path / "i")
    picture(size=(9, 6)).save(folder / "ant" / "5.png")
    with pytest.raises(DataError) as caught:
        read(folder)
    for fact in ("ant/0.png has 8 x 6", "ant/5.png has 9 x 6", "--size 8x6"):
        assert fact in str(caught.value)


def test_a_size_that_is_asked_for_is_made_with_lanczos_and_told(tmp_path):
    folder = fill(tmp_path / "i")
    picture(size=(9, 6)).save(folder / "ant" / "5.png")
    with read(folder, Options(size=(4, 5))) as source:
        expected = Image.open(folder / "ant" / "0.png").resize((4, 5), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(rows(source)[0], np.asarray(expected))
        assert "20 pictures are resized to 4 x 5 pixels" in source.describe()


@pytest.mark.parametrize(
    ("modes", "channels", "told"),
    [
        (["L"], 1, ""),
        (["1"], 1, ""),
        (["RGB"], 3, ""),
        (["L", "RGB"], 3, "10 pictures are grey and get three channels"),
        (["P"], 3, "20 pictures are drawn with the colours of their palette"),
        (["RGB", "RGBA"], 4, "The fourth channel says how opaque"),
        (["LA"], 4, "The fourth channel"),
        (["I;16"], 1, ""),
    ],
)
def test_channels_follow_from_what_all_pictures_have(tmp_path, modes, channels, told):
    folder = fill(tmp_path / "i", count=0)
    for number in range(20):
        mode = modes[number % len(modes)]
        picture(mode).save(folder / CLASSES[number // 10] / f"{number:02}.png")
    with read(folder) as source:
        assert source.x.shape == (6, 8, channels)
        assert told in source.describe()
        if len(modes) == 1 and modes[0] in ("L", "I;16"):
            np.testing.assert_array_equal(rows(source)[..., 0], pixels(folder))


def test_a_fourth_channel_that_is_opaque_everywhere_is_left_out(tmp_path):
    folder = fill(tmp_path / "i", count=0)
    for number in range(20):
        opaque = picture("RGB").convert("RGBA")
        opaque.save(folder / CLASSES[number % 2] / f"{number:02}.png")
    with read(folder) as source:
        assert source.x.shape == (6, 8, 3)
        np.testing.assert_array_equal(rows(source), pixels(folder)[..., :3])
        assert "fourth channel is opaque everywhere and is left out" in source.describe()


def test_16_bits_beside_8_are_refused(tmp_path):
    folder = fill(tmp_path / "i")
    picture("I;16").save(folder / "bee" / "3.png")
    with pytest.raises(DataError, match=r"ant/0\.png is 8-bit, .*bee/3\.png is 16-bit grey"):
        read(folder)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    folder = fill(tmp_path / "i", "{}.gif", mode="P")
    frames = [picture("P"), picture("P")]
    frames[0].save(folder / "ant" / "0.gif", save_all=True, append_images=frames[1:])
    with read(folder) as source:
        np.testing.assert_array_equal(
            rows(source)[0][..., :3], np.asarray(frames[0].convert("RGB"))
        )


# -- JPEG


def test_jpeg_files_of_one_size_are_kept_byte_by_byte(tmp_path):
    folder = fill(tmp_path / "i", "{}.jpg")
    with read(zipped(folder, tmp_path / "i.zip")) as source:
        column = source.train["x"]
        kept = [bytes(file) for file in column.rows(np.array([0, 13])).each()]
        files = sorted(folder.rglob("*.jpg"))
        assert kept == [files[0].read_bytes(), files[13].read_bytes()]
        assert (column.survey.shape, column.record_bytes, source.records) == ((6, 8, 3), 144, 20)
        assert column.files.nbytes == sum(path.stat().st_size for path in files)
        assert isinstance(column.files.base, np.memmap)
        assert "JPEG files travel as they are" in source.describe()


def test_kept_jpeg_files_reach_volunteers_as_the_pixels_that_they_hold(tmp_path):
    folder = fill(tmp_path / "i", "{}.jpg")
    with read(folder) as source:
        (chunk,) = cut(source, tmp_path, validation=0)
        columns = chunks.decode(chunk.path.read_bytes())
        np.testing.assert_array_equal(columns["x"], pixels(folder))
        assert columns["y"].tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize("what", ["turned", "resized", "mixed", "print colours"])
def test_jpeg_files_that_need_a_change_are_decoded(tmp_path, what):
    folder = fill(tmp_path / "i", "{}.jpg")
    odd = folder / "ant" / "3.jpg"
    if what == "turned":
        exif = Image.Exif()
        exif[pictures.ORIENTATION] = TURNED
        lying = picture(size=(6, 8))
        lying.save(odd, exif=exif)
    elif what == "mixed":
        odd.unlink()
        picture().save(odd.with_suffix(".png"))
    elif what == "print colours":
        picture("CMYK").save(odd)
    with read(folder, Options(size=(4, 3) if what == "resized" else None)) as source:
        assert source.x.shape == ((3, 4, 3) if what == "resized" else (6, 8, 3))
        assert "travel as they are" not in source.describe()
        if what == "turned":
            upright = np.asarray(Image.open(odd).transpose(Image.Transpose.ROTATE_270))
            np.testing.assert_array_equal(rows(source)[3], upright)
            assert "1 pictures are turned upright" in source.describe()
        if what == "print colours":
            assert "turned from print colours" in source.describe()


# -- files that are not what they should be


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif"])
def test_a_damaged_picture_is_named(tmp_path, ending):
    folder = fill(tmp_path / "i", "{}." + ending, size=(60, 50))
    broken = folder / "bee" / f"7.{ending}"
    broken.write_bytes(broken.read_bytes()[:-90])
    with pytest.raises(DataError, match=rf"bee/7\.{ending}: .*damaged or something else"):
        read(folder)


def test_what_is_no_picture_of_these_kinds_is_named(tmp_path):
    folder = fill(tmp_path / "i")
    (folder / "ant" / "3.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match=r"ant/3\.png: .*it is none of these"):
        read(folder)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that promises many pixels."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", zlib.compress(bytes(99)))


@pytest.mark.parametrize("side", [9_000, 100_000])
def test_a_picture_that_promises_too_many_pixels_is_not_decoded(tmp_path, side):
    folder = fill(tmp_path / "i")
    (folder / "ant" / "3.png").write_bytes(bomb(side, side))
    with pytest.raises(DataError, match=r"ant/3\.png"):
        read(folder)


def test_pictures_that_will_not_fit_on_the_disk_are_refused_before_they_are_unpacked(tmp_path):
    folder = tmp_path / "i" / "ant"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(bomb(7_999, 8_000))
    needed = shutil.disk_usage(tmp_path).free // (7_999 * 8_000) + 20
    if needed > 30_000:
        pytest.skip("this disk has room for more than so small a test can fill")
    for number in range(1, needed):
        os.link(folder / "0.png", folder / f"{number}.png")
    with pytest.raises(DiskFull, match="are free"):
        read(tmp_path / "i")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "FILE_BYTES", 1_000_000)
    path = zipped(fill(tmp_path / "i"), tmp_path / "i.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ant/bomb.png", bytes(5_000_000))
    assert path.stat().st_size < 30_000
    with pytest.raises(DataError, match=r"ant/bomb\.png: takes 5,000,000 bytes"):
        read(path)


def test_an_archive_that_lies_about_what_it_unpacks_to_is_refused(tmp_path):
    path = tmp_path / "i.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ant/0.png", bytes(5_000_000))
    data = path.read_bytes().replace(struct.pack("<I", 5_000_000), struct.pack("<I", 50))
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"ant/0\.png"):
        read(path)


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "ant/../../evil.png", "..\\e.png"]
)
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name):
    path = zipped(fill(tmp_path / "i"), tmp_path / "i.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="points outside of the archive"):
        read(path)


def test_an_archive_that_is_damaged_or_locked_is_refused(tmp_path):
    path = zipped(fill(tmp_path / "i"), tmp_path / "i.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"expected a folder or a \.zip"):
        read(path)
    locked = bytearray(whole)
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(magic) + place] |= 1
    path.write_bytes(locked)
    with pytest.raises(DataError, match=r"can't be unpacked: .*encrypted"):
        read(path)


def test_an_archive_within_an_archive_is_not_opened(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.png", b"x")
    with zipfile.ZipFile(tmp_path / "o.zip", "w") as archive:
        archive.writestr("ant/i.zip", inner.getvalue())
    with pytest.raises(DataError, match=r"found \.zip"):
        read(tmp_path / "o.zip")

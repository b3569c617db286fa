"""Text in windows: what follows each token is y, and the end is held back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from handcar.data.cut import cut
from handcar.data.importers import read
from handcar.data.readers import text as reader
from handcar.data.reading import Options
from handcar.errors import DataError

PROSE = "So it goes, says he; and so it went.\nÉté, naïve: 3 < 4!\n" * 200


def save(path: Path, text: str = PROSE) -> Path:
    path.write_bytes(text.encode())
    return path


def tokens(source, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    columns = getattr(source, part)
    return tuple(columns[name].rows(np.arange(columns["x"].survey.records)) for name in "xy")


def test_characters_become_numbers_that_the_vocabulary_explains(tmp_path):
    with read(save(tmp_path / "t.txt"), Options(window=32), folder=tmp_path) as source:
        x, y = tokens(source)
        assert (x.shape[1:], x.dtype, source.y.shape) == ((32,), np.uint8, (32,))
        flat = "".join(source.vocabulary[token] for token in x.reshape(-1))
        following = "".join(source.vocabulary[token] for token in y.reshape(-1))
        assert PROSE.startswith(flat)
        assert PROSE[1:].startswith(following)
        assert source.vocabulary == tuple(sorted(set(PROSE)))
        assert "its 27 different characters" in source.describe()
        assert source.legend()[0].startswith("Characters from 0: '\\n' ' ' '!'")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_end_is_held_back_and_no_window_reaches_over_the_border(tmp_path):
    with read(save(tmp_path / "t.txt"), Options(window=32, validation=0.25)) as source:
        (x, _), (end, _) = tokens(source), tokens(source, "test")
        held_back = "".join(source.vocabulary[token] for token in end.reshape(-1))
        border = len(PROSE) - round(len(PROSE) / 4)
        assert PROSE[border:].startswith(held_back)
        assert x.size + 1 <= border
        assert len(end) == round(len(PROSE) / 4 - 1) // 32
        assert "The last 25% of the text are held back" in source.describe()


def test_nothing_is_held_back_where_nothing_is_wanted(tmp_path):
    with read(save(tmp_path / "t.txt"), Options(validation=0)) as source:
        assert source.test is None
        assert source.records == (len(PROSE) - 1) // 64


def test_another_text_to_test_on_shares_the_numbers(tmp_path):
    other = save(tmp_path / "b.txt", PROSE[::-1] + "§")
    with read(save(tmp_path / "a.txt"), Options(test=other)) as source:
        x, _ = tokens(source, "test")
        assert "§" in source.vocabulary
        shown = "".join(source.vocabulary[token] for token in x.reshape(-1))
        assert PROSE[::-1].startswith(shown)
        assert source.records == (len(PROSE) - 1) // 64


def test_too_many_characters_are_read_as_bytes(tmp_path):
    prose = "".join(chr(0x4E00 + at % 600) for at in range(3000))
    with read(save(tmp_path / "t.txt", prose)) as source:
        x, _ = tokens(source)
        assert prose.encode().startswith(x.tobytes())
        assert "600 different characters, more than 512: its bytes" in source.describe()
        assert source.vocabulary == ()


def test_pieces_that_end_within_a_character_are_put_together(tmp_path, monkeypatch):
    whole = read(save(tmp_path / "t.txt"))
    monkeypatch.setattr(reader, "MB", 7)
    with whole, read(tmp_path / "t.txt") as pieces:
        np.testing.assert_array_equal(tokens(pieces)[0], tokens(whole)[0])


def test_the_chunks_hold_the_windows(tmp_path):
    with read(save(tmp_path / "t.txt")) as source:
        made = cut(source, tmp_path, validation=0.1)
        records = {"train": 0, "validation": 0}
        for chunk in made:
            records[chunk.split] += chunk.records
        assert records["train"] == source.records
        assert records["validation"] == source.test["x"].survey.records


# -- tokenizers


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A tokenizer.json that knows a few words."""
    known = {"[UNK]": 0, "So": 1, "it": 2, "goes": 3, ",": 4}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_tokenizer_makes_the_tokens(tmp_path, words):
    with read(save(tmp_path / "t.txt"), Options(tokenizer=words, window=16)) as source:
        x, y = tokens(source)
        assert x[0, :5].tolist() == [1, 2, 3, 4, 0]
        assert y[0, :4].tolist() == [2, 3, 4, 0]
        assert "the 5 tokens of tokenizer.json" in source.describe()


def test_pieces_never_part_a_word(tmp_path, words, monkeypatch):
    whole = read(save(tmp_path / "t.txt"), Options(tokenizer=words))
    monkeypatch.setattr(reader, "MB", 11)
    with whole, read(tmp_path / "t.txt", Options(tokenizer=words)) as pieces:
        assert pieces.records == whole.records
        np.testing.assert_array_equal(tokens(pieces)[0], tokens(whole)[0])


@pytest.mark.parametrize("content", ["{}", "not JSON", None])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json: expected a"):
        read(save(tmp_path / "t.txt"), Options(tokenizer=path))


def test_a_library_that_is_not_installed_is_named(tmp_path, words, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"needs tokenizers: pip install 'handcar\[publish\]'"):
        read(save(tmp_path / "t.txt"), Options(tokenizer=words))


# -- texts that are not what they should be


@pytest.mark.parametrize("piece", [1 << 20, 10])
def test_other_text_than_utf8_is_named_by_its_place(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(reader, "MB", piece)
    (tmp_path / "t.txt").write_bytes(b"one\ntwo\nth\xffree\n" * 100)
    with pytest.raises(
        DataError, match="line 3: expected UTF-8 text, got the byte 0xff at offset 10:"
    ):
        read(tmp_path / "t.txt")


def test_a_character_cut_off_at_the_end_is_told(tmp_path):
    (tmp_path / "t.txt").write_bytes("naïve é".encode()[:-1])
    with pytest.raises(DataError, match="line 1: expected UTF-8"):
        read(tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("text", "said"), [("", "the file is empty"), ("short" * 90, "makes 6 windows")]
)
def test_too_little_text_says_what_to_do(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read(save(tmp_path / "t.txt", text))

"""Tables: what each column is found out, gaps are filled, and what is wrong is named by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handcar.data.importers import read
from handcar.data.readers import csvfile, study, table
from handcar.data.reading import Options
from handcar.errors import DataError

COLOURS = ("red", "green", "blue")


def rows(count: int = 40) -> list[dict[str, object]]:
    return [
        {
            "age": 20 + number,
            "weight": number / 8,
            "colour": COLOURS[number % 3],
            "class": "yes" if number % 2 else "no",
        }
        for number in range(count)
    ]


def save(
    path: Path, given: list[dict[str, object]], *, header: bool = True, sign: str = ","
) -> Path:
    lines = [sign.join(given[0])] if header else []
    lines += [
        sign.join("" if cell is None else str(cell) for cell in row.values()) for row in given
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def save_parquet(path: Path, given: list[dict[str, object]], **_: object) -> Path:
    pq.write_table(pa.Table.from_pylist(given), path, row_group_size=16)
    return path


SAVERS = pytest.mark.parametrize(("save", "ending"), [(save, "csv"), (save_parquet, "parquet")])


def values(source, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    columns = getattr(source, part)
    x, y = (columns[name] for name in "xy")
    return tuple(column.rows(np.arange(column.survey.records)) for column in (x, y))


@SAVERS
def test_numbers_and_categories_become_one_vector(tmp_path, save, ending):
    with read(save(tmp_path / f"t.{ending}", rows()), folder=tmp_path) as source:
        x, y = values(source)
        assert source.columns == ("age", "weight", "colour=blue", "colour=green", "colour=red")
        np.testing.assert_array_equal(x[4], [24, 0.5, 0, 1, 0])
        assert y.tolist() == [0, 1] * 20
        assert source.class_names == ("no", "yes")
        text = source.describe()
        assert source.legend()[1] == "Columns of x: age, weight, colour=blue|green|red."
    for fact in ("40 records", "2 classes: no (20), yes (20)", "The label is class: classes"):
        assert fact in text
    assert "2 columns of numbers and 1 of categories, in 5 places" in text
    assert len(list(tmp_path.iterdir())) == 1


@SAVERS
def test_gaps_are_filled_and_told(tmp_path, save, ending):
    given = rows(41)
    gaps = {"csv": ("?", "", "NA"), "parquet": (None,) * 3}[ending]
    for at, gap in zip((3, 7, 39), gaps, strict=True):
        given[at]["age"] = gap
    given[5]["colour"] = gaps[0]
    with read(save(tmp_path / f"t.{ending}", given)) as source:
        x, _ = values(source)
        ages = [row["age"] for at, row in enumerate(given) if at not in (3, 7, 39)]
        assert source.columns[:2] == ("age", f"age is missing, {np.median(ages):g} instead")
        assert source.columns[-1] == "colour is missing"
        np.testing.assert_array_equal(x[3, :2], [np.median(ages), 1])
        np.testing.assert_array_equal(x[5, -4:], [0, 0, 0, 1])
        np.testing.assert_array_equal(x[6, -4:], [0, 0, 1, 0])
        assert "age: missing 3 times, 40.5 instead; one place says where" in source.describe()


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [True, False])
def test_the_delimiter_and_the_header_are_found(tmp_path, sign, header):
    with read(save(tmp_path / "t.csv", rows(), header=header, sign=sign)) as source:
        assert source.records == 40
        assert source.columns[0] == ("age" if header else "column1")
        assert ("No header" in source.describe()) != header


def test_a_header_over_texts_alone_is_found(tmp_path):
    given = [{"colour": COLOURS[at % 3], "taste": "good" if at % 2 else "bad"} for at in range(30)]
    with read(save(tmp_path / "t.csv", given)) as source:
        assert (source.records, source.class_names) == (30, ("bad", "good"))


@pytest.mark.parametrize(
    ("asked", "label"), [("colour", "colour"), ("3", "colour"), (None, "class"), ("age", "age")]
)
@SAVERS
def test_the_label_is_named_numbered_or_known(tmp_path, save, ending, asked, label):
    given = [{"class": row.pop("class"), **row} for row in rows()]
    if asked == "3":
        given = rows()
    with read(save(tmp_path / f"t.{ending}", given), Options(label=asked)) as source:
        assert f"The label is {label}" in source.describe()
        assert not any(place.startswith(label) for place in source.columns)


def test_the_last_column_is_the_label_where_none_has_such_a_name(tmp_path):
    with read(save(tmp_path / "t.csv", rows(), header=False)) as source:
        assert "The label is column4: classes" in source.describe()


@SAVERS
def test_fractions_as_a_label_are_values_and_whole_numbers_stay_whole(tmp_path, save, ending):
    path = save(tmp_path / f"t.{ending}", rows())
    with read(path, Options(label="weight")) as source:
        assert (source.y.dtype, source.classes) == (np.float32, None)
        np.testing.assert_array_equal(values(source)[1], np.arange(40) / 8)
    with read(path, Options(label="age")) as source:
        assert source.train["y"].dtype == np.uint8
        assert values(source)[1].tolist() == list(range(20, 60))


@SAVERS
def test_test_rows_are_read_as_the_training_rows_were(tmp_path, save, ending):
    other = rows(20)[::-1]
    other[0] |= {"colour": "mauve", "age": None}
    train, test = save(tmp_path / f"a.{ending}", rows(39)), save(tmp_path / f"b.{ending}", other)
    given = rows(39)
    given[2]["age"] = None
    train = save(tmp_path / f"a.{ending}", given)
    with read(train, Options(test=test)) as source:
        x, y = values(source, "test")
        assert x.shape == (20, 6)
        np.testing.assert_array_equal(x[0], [39.5, 1, 19 / 8, 0, 0, 0])
        np.testing.assert_array_equal(x[1], [38, 0, 18 / 8, 0, 0, 1])
        assert y.tolist() == [1, 0] * 10


def test_a_label_that_only_test_rows_have_is_named_by_its_line(tmp_path):
    train = save(tmp_path / "a.csv", rows())
    test = save(tmp_path / "b.csv", [*rows(20), rows()[0] | {"class": "maybe"}])
    message = r"b\.csv: line 22: the label class is maybe, expected one of .*: no, yes"
    with pytest.raises(DataError, match=message):
        read(train, Options(test=test))


def test_full_stops_after_test_labels_as_in_ucis_adult_are_overlooked(tmp_path):
    train = save(tmp_path / "a.csv", rows())
    test = save(tmp_path / "b.csv", [row | {"class": f"{row['class']}."} for row in rows()])
    with read(train, Options(test=test)) as source:
        assert values(source, "test")[1].tolist() == [0, 1] * 20


def test_a_category_of_many_values_takes_one_place_and_prose_none(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MOST_VALUES", 90)
    given = [row | {"city": f"c{at % 80}", "id": f"id {at}"} for at, row in enumerate(rows(200))]
    with read(save(tmp_path / "t.csv", given)) as source:
        x, _ = values(source)
        assert source.columns[-1] == "rank of city"
        assert sorted(set(x[:, -1])) == list(range(80))
        ranks = {given[at]["city"]: x[at, -1] for at in range(200)}
        assert max(ranks[f"c{at}"] for at in range(40)) < min(
            ranks[f"c{at}"] for at in range(40, 80)
        )
        text = source.describe()
    assert "city: 80 values, more than 64: their rank" in text
    assert "id: more than 90 different texts: left out" in text.replace("10,000", "90")


def test_columns_of_gaps_are_left_out(tmp_path):
    given = [row | {"empty": "?"} for row in rows()]
    with read(save(tmp_path / "t.csv", given), Options(label="class")) as source:
        assert "empty: nothing but gaps: left out" in source.describe()
        assert len(source.columns) == 5


def test_quoted_values_may_hold_delimiters_and_line_ends(tmp_path):
    lines = [f'{at},"a, {at % 2}\n b",{at / 4}' for at in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with read(tmp_path / "t.csv") as source:
        assert source.records == 20
        assert source.columns == ("column1", "column2=a, 0\n b", "column2=a, 1\n b")


def test_lines_may_end_as_on_windows_and_begin_with_a_mark(tmp_path):
    text = "\ufeffage,label\r\n" + "".join(f"{at},{at % 2}\r\n" for at in range(20))
    (tmp_path / "t.csv").write_bytes(text.encode())
    with read(tmp_path / "t.csv") as source:
        assert (source.columns, source.classes) == (("age",), 2)


# -- tables that are not what they should be


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2,3", "line 30: expected 4 values, as in the first line, got 3"),
        ("1,2,3,4,5", "line 30: expected 4 values, as in the first line, got 5"),
        ("1,2,red,?", "line 30: the label class is missing"),
        ("1e999,2,red,no", "line 30: age is 1e999, expected a number"),
        ("1_0,2,red,no", "line 30: age is 1_0, expected a number like most others"),
        ("twenty,2,red,no", "line 30: age is twenty, expected a number like most others"),
        ("1,1e300,red,no", "line 30: weight is 1e300, expected a number that float32 can hold"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, line, said):
    path = save(tmp_path / "t.csv", rows(100))
    lines = path.read_text().splitlines()
    lines[29] = line
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read(path)
    assert said in str(caught.value)
    assert "t.csv" in str(caught.value)


def test_other_text_than_utf8_is_named_by_its_line(tmp_path):
    path = save(tmp_path / "t.csv", rows())
    path.write_bytes(path.read_bytes().replace(b"25,0.625,blue", "25,0.625,bläu".encode("latin-1")))
    with pytest.raises(DataError, match="line 7: expected UTF-8 text, got the byte 0xe4"):
        read(path)


def test_an_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csvfile, "LINE_BYTES", 1000)
    (tmp_path / "t.csv").write_bytes(b"1,2\n" + b"x" * 5000)
    with pytest.raises(DataError, match="line 2 is longer than 1,000 bytes"):
        read(tmp_path / "t.csv")


def test_a_quotation_mark_left_open_is_told(tmp_path):
    path = save(tmp_path / "t.csv", rows(20_000))
    path.write_text(path.read_text().replace("30,", '30,"', 1))
    with pytest.raises(DataError, match="quotation mark|expected 4 values"):
        read(path)


def test_an_unknown_label_is_told_with_the_columns_there_are(tmp_path):
    with pytest.raises(DataError, match=r"no column size .* age, weight, colour, class"):
        read(save(tmp_path / "t.csv", rows()), Options(label="size"))


@pytest.mark.parametrize("text", ["", "\n\n", "just prose\nin lines\n" * 20])
def test_what_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match="expected a"):
        read(tmp_path / "t.csv")


def test_parquet_of_other_kinds_is_refused_by_the_column(tmp_path):
    given = [row | {"when": np.datetime64("2020-01-01", "s")} for row in rows()]
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"column when holds timestamp.*: expected numbers"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("keep", [3, 300, -20])
def test_a_damaged_parquet_file_is_refused(tmp_path, keep):
    path = save_parquet(tmp_path / "t.parquet", rows())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="expected a Parquet file, which can't be read"):
        read(path)


def test_parquet_with_flipped_bytes_is_refused_or_read(tmp_path):
    whole = save_parquet(tmp_path / "t.parquet", rows()).read_bytes()
    for place in range(4, len(whole), 41):
        data = bytearray(whole)
        data[place] ^= 0xFF
        (tmp_path / "b.parquet").write_bytes(data)
        try:
            read(tmp_path / "b.parquet").close()
        except DataError:
            continue


def test_truth_values_and_dictionaries_in_parquet_are_read(tmp_path):
    given = pa.table(
        {
            "member": [True, False] * 10,
            "colour": pa.array(["red", "blue"] * 10).dictionary_encode(),
            "zip": ["01234", "56789"] * 10,
            "label": pa.array(range(20), pa.uint8()),
        }
    )
    pq.write_table(given, tmp_path / "t.parquet")
    with read(tmp_path / "t.parquet") as source:
        assert source.columns[0] == "member"
        assert "zip=01234" in source.columns, "texts are no numbers, whatever they look like"
        assert source.classes == 20


def test_the_median_is_of_a_sample_where_there_are_more_values(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "SAMPLE", 500)
    given = [{"a": at if at else "?", "label": at % 2} for at in range(4000)]
    with read(save(tmp_path / "t.csv", given)) as source:
        x, _ = values(source)
        assert 1600 < x[0, 0] < 2400


def test_the_one_hot_limit_is_the_one_in_the_documents():
    assert table.ONE_HOT == 64

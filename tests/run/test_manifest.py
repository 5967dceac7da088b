"""Datasets as CSV files: what is read, and what is refused with the line and the cause."""

from pathlib import Path

import pytest

from magic123.records.errors import InputError
from magic123.run.manifest import load_manifest

HEAD = "name,prompt,image\n"
LAMP = "lamp,a yellow lamp,mine/lamp.jpg\n"


def load(tmp_path: Path, text: str, encoding: str = "utf-8"):
    (tmp_path / "mine.csv").write_text(text, encoding=encoding, newline="")
    return load_manifest(tmp_path / "mine.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(tmp_path, encoding, end):
    """With and without a byte order mark, either line end, empty lines, quoted commas and quotes."""
    text = (
        HEAD + "\n" + 'lamp,"a ""bright"", yellow lamp",mine/lamp.jpg\n' + ",,\n" + "vase,une vase bleue à pois,mine/vase.png\n"
    )
    rows = load(tmp_path, text.replace("\n", end), encoding)
    assert list(rows) == ["lamp", "vase"] and rows["lamp"].prompt == 'a "bright", yellow lamp'
    assert rows["vase"].prompt == "une vase bleue à pois"
    if encoding.startswith("utf-8"):  # joiners are letters of some scripts, and of pictograms
        joined = load(tmp_path, HEAD + "a,\u0645\u06cc\u200c\u0634\u0648\u062f \U0001f415\u200d\U0001f9ba,b.jpg\n", encoding)
        assert "\u200c" in joined["a"].prompt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,prompt,image,image\nlamp,a,b.jpg,c.jpg\n", "line 1: the column 'image' appears twice, as column 3 and 4"),
        ("# my pictures\n" + HEAD + LAMP, "line 1: is a comment"),
        (HEAD + "# the lamp\n" + LAMP, "line 2: is a comment"),
        ("name;prompt;image\nlamp;a;b.jpg\n", "line 1: the cells are separated by ';'"),
        ("name\tprompt\timage\nlamp\ta\tb.jpg\n", "line 1: the cells are separated by tabs"),
        (HEAD + 'lamp,"a lamp,b.jpg\nblue,a blue lamp,c.jpg\n', "line 2: a quote that opens here is never closed"),
        (HEAD + 'lamp,"a lamp,b.jpg\nblue,a blue lamp",c.jpg\n', "line 2: a quote that opens here closes on line 3"),
        (HEAD + 'lamp,"a" lamp,b.jpg\n', "line 2: cannot be read"),
        (HEAD + LAMP + "lamp,another,c.jpg\n", "line 3: the example 'lamp' already exists"),
        (HEAD + LAMP + "Lamp,another,c.jpg\n", "line 3: the example 'lamp' already exists"),
        (HEAD + "lamp,a, yellow lamp,b.jpg\n", "line 2: has more cells than the header, 4 and 3"),
        (HEAD + "$(touch x),a lamp,b.jpg\n", "must be letters"),
        (HEAD + "{lamp},a lamp,b.jpg\n", "must be letters"),
        (HEAD + "lamp,a\0lamp,b.jpg\n", "has a control character"),
        (HEAD + "lamp,a lamp\rb.jpg,c.jpg\n", "carriage returns within its lines"),
        ("", "is empty"),
        (HEAD, "lists no examples"),
        ("sep=,\n" + HEAD + LAMP, "line 1: the column 'sep=' is not known"),
        ("Name,prompt,image\n" + LAMP, "line 1: the column 'Name' is not known; did you mean 'name'?"),
        ("prompt,image\na,b.jpg\n", "line 1: the column 'name' is missing"),
        ("name,prompt,image,\nlamp,a,b.jpg,old\n", "line 2: 'old' is in a column without a name"),
        (HEAD + f"lamp,{'a' * 200_000},b.jpg\n", "line 2: a cell has more than 131072 characters"),
    ],
)
def test_invalid_lines_are_refused_with_their_numbers(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value) and "mine.csv" in str(caught.value)


def test_empty_columns_of_spreadsheets_are_nothing(tmp_path):
    text = "name,prompt,image,,\nlamp,a,b.jpg,,\nvase,b,c.jpg,,,,\n"
    assert {key: row.image for key, row in load(tmp_path, text).items()} == {"lamp": "b.jpg", "vase": "c.jpg"}


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(tmp_path, encoding):
    with pytest.raises(InputError, match=r"mine\.csv: is not UTF-8 text .* save it as CSV with commas in UTF-8"):
        load(tmp_path, HEAD + "vase,un vase à pois,b.jpg\n", encoding)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("mesh,image\na.glb,a.png", "a file in image; clear one"),
        ("mesh,scale\na.glb,fit", "scale 'fit' is none of"),
        ("image,up\na.png,z", "up belongs to a mesh"),
        ("mesh,up,front\na.glb,z,z", "lie on one axis"),
    ],
)
def test_columns_of_meshes_that_cannot_be_are_refused(tmp_path, columns, sentence):
    header, cells = columns.split("\n")
    (tmp_path / "d.csv").write_text(f"name,prompt,{header}\ndog,a dog,{cells}\n")
    with pytest.raises(Exception, match=sentence):
        load_manifest(tmp_path / "d.csv")

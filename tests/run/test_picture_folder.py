"""Names and captions from the names of picture files."""

import re
from pathlib import Path

import pytest

from magic123.run.picture_folder import caption_of, name_of, pictures_in

# file name: name, caption, whether the name says anything
FILES = {
    "red_mug.png": ("red_mug", "a red mug", True),
    "Old Chair (2).jpg": ("Old_Chair_2", "an old chair", True),
    "the-lamp-03.webp": ("the-lamp-03", "the lamp", True),
    "twoCherries.png": ("twoCherries", "two Cherries", True),
    "IMG_1234.JPG": ("IMG_1234", "an object", False),
    "PXL_20240102_131415.MP.jpg": ("PXL_20240102_131415_MP", "an object", False),
    "2024-01-02 13.14.15.png": ("2024-01-02_13_14_15", "an object", False),
    "Screenshot 2024-01-02 at 13.14.15.png": ("Screenshot_2024-01-02_at_13_14_15", "an object", False),
    "d41d8cd98f00b204e9800998ecf8427e.png": ("d41d8cd98f00b204e9800998ecf8427e", "an object", False),
    "{lamp} $(touch x).png": ("lamp_touch_x", "a {lamp} $(touch x)", True),
    "Théière.png": ("Theiere", "a théière", True),
    "茶壶.png": ("picture", "a 茶壶", True),
    "-rf.png": ("rf", "a rf", True),
    "CON.png": ("CON", "a CON", True),
    "___.png": ("picture", "an object", False),
    "🐕.png": ("picture", "an object", False),
}


@pytest.mark.parametrize("file", FILES)
def test_name_and_caption(file):
    name, caption, known = FILES[file]
    assert name_of(Path(file), set()) == name
    assert caption_of(Path(file)) == (caption, known)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) and caption.isprintable()


def test_names_are_distinct_in_any_case_and_short():
    assert name_of(Path("Mug.png"), {"mug", "MUG_2"}) == "Mug_3"
    assert len(name_of(Path("x" * 300 + ".png"), set())) == 60


def test_masks_belong_to_their_picture(tmp_path):
    for name in ("mug.jpg", "mug_mask.png", "gas mask.png", "p10.png", "p2.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere.png").symlink_to("absent.png")
    pictures, others = pictures_in(tmp_path)
    assert [(picture.name, mask and mask.name) for picture, mask in pictures.items()] == [
        ("gas mask.png", None),
        ("mug.jpg", "mug_mask.png"),
        ("p2.png", None),
        ("p10.png", None),
    ]
    assert [path.name for path in others] == ["folder.png", "notes.txt", "nowhere.png"]

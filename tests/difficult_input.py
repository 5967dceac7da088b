"""Difficult pictures, tables and file names, most of them mistakes of users, and the outcome of the real commands for each.

    uv run python tests/difficult_input.py      writes the outcomes into docs/difficult-input.md

tests/workflow/test_difficult_input.py compares the tables of that page with the outcomes. A row's first cell is the key of the
case here.
"""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import unicodedata
import zlib
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import yaml
from picture_files import SRGB_CURVE, gamma_curve, png, profile
from PIL import Image
from project_folder import project_folder
from repository_paths import REPOSITORY
from workflow_tree import Run, snakemake_each

from magic123.__main__ import main
from magic123.records import colour
from magic123.run.manifest import load_manifest

PAGE = REPOSITORY / "docs" / "difficult-input.md"
LONGEST = 230  # characters of a cell
SIDE = 200
INSIDE = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) < 70
RED = (200, 60, 40)
GREY = 100  # about as bright as RED

Row = tuple[str, str, str]  # case, outcome, what is said


# --- pictures -----------------------------------------------------------------------------------------------------------------


def saved(values: np.ndarray | Image.Image, kind: str, **how) -> bytes:
    """A picture as Pillow writes it."""
    image, stream = values if isinstance(values, Image.Image) else Image.fromarray(values), io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def photo(paint: tuple[int, int, int] = RED, behind: tuple[int, int, int] = (120, 150, 160)) -> np.ndarray:
    """A disc before a noisy wall: uint8 [SIDE, SIDE, 3]."""
    noise = np.random.default_rng(0).normal(0, 4, (SIDE, SIDE, 3))
    return (np.where(INSIDE[..., None], paint, behind) + noise).clip(0, 255).astype(np.uint8)


def cut_out(values: np.ndarray | tuple[float, ...] = RED, dtype: type = np.uint8) -> np.ndarray:
    """A disc of one colour, or of one grey, with alpha: [SIDE, SIDE, 4 or 2]."""
    full = np.iinfo(dtype).max
    painted = np.broadcast_to(np.asarray(values), (SIDE, SIDE, len(values)))
    return np.dstack([painted * (full / 255), INSIDE * full]).round().astype(dtype)


def in_space(exponent: float | None, chromaticities: tuple[float, ...] = colour.SRGB_PRIMARIES) -> tuple[float, ...]:
    """RED in another space, of a power law or, for None, of sRGB's curve."""
    linear = colour.decoded(np.array(RED) / 255)
    linear = np.linalg.solve(colour.xyz_of(chromaticities), colour.xyz_of(colour.SRGB_PRIMARIES)) @ linear
    return tuple(255 * (colour.encoded(linear) if exponent is None else linear ** (1 / exponent)))


def icc(name: str, curve: bytes, chromaticities: tuple[float, ...] | None) -> dict[bytes, bytes]:
    return {b"iCCP": b"p\0\0" + zlib.compress(profile(name, curve, chromaticities))}


def turned(orientation: int, description: str = "") -> bytes:
    """A photograph with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if description:
        exif[0x010E] = description
    return saved(photo(), "JPEG", quality=95, exif=exif)


def frames(kind: str) -> bytes:
    first, second = Image.fromarray(cut_out()), Image.fromarray(cut_out((40, 60, 200)))
    return saved(first, kind, save_all=True, append_images=[second])


def bitmap_v5() -> bytes:
    """A BMP of 32 bits with alpha, whose header says which bits are which colour."""
    pixels = cut_out()[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, SIDE, SIDE, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<5I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, 0x73524742)
    header = header.ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def sized(content: bytes, side: int) -> bytes:
    """A PNG whose header declares another size."""
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def pictures() -> dict[str, bytes]:
    """The pictures as files, by name."""
    gamma, white = gamma_curve(563 / 256), np.full((SIDE, SIDE), 255, np.uint8)
    red_on_key = np.where(INSIDE[..., None], RED, (0, 255, 0)).astype(np.uint8)
    palette = Image.fromarray(photo()).quantize(32)
    palette_alpha = Image.fromarray(INSIDE.astype(np.uint8), "P")
    palette_alpha.putpalette([0, 255, 0, *RED])
    grey = np.full((SIDE, SIDE), GREY, np.uint8)
    jpeg = saved(photo(), "JPEG", quality=95)
    adobe = np.where(INSIDE[..., None], in_space(563 / 256, colour.ADOBE_PRIMARIES), (120, 150, 160)).round().astype(np.uint8)
    return {
        "p3.png": png(cut_out(in_space(None, colour.P3_PRIMARIES)), 6, icc("Display P3", SRGB_CURVE, colour.P3_PRIMARIES)),
        "linear16.png": png(cut_out(in_space(1.0), np.uint16), 6, icc("linear", gamma_curve(1), colour.SRGB_PRIMARIES)),
        "adobe.jpg": saved(adobe, "JPEG", quality=100, icc_profile=profile("Adobe RGB", gamma, colour.ADOBE_PRIMARIES)),
        "grey-icc.png": png(cut_out((GREY,)), 4, icc("grey", SRGB_CURVE, None)),
        "gama1.png": png(cut_out(in_space(1.0)), 6, {b"gAMA": struct.pack(">I", 100000)}),
        "cicp-hdr.png": png(cut_out(), 6, {b"cICP": bytes([9, 16, 0, 1])}),
        "broken-icc.png": png(cut_out(), 6, {b"iCCP": b"p\0\0" + zlib.compress(b"no profile at all")}),
        "grey-profile-in-colour.jpg": saved(photo(), "JPEG", quality=95, icc_profile=profile("grey", SRGB_CURVE, None)),
        "cmyk.jpg": saved(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95),
        "palette.png": saved(palette_alpha, "PNG", transparency=0),
        "palette-opaque.png": saved(palette, "PNG"),
        "one-bit.png": saved(Image.fromarray(white).convert("1"), "PNG"),
        "grey.png": saved(grey, "PNG"),
        "grey16.png": png(cut_out((GREY,), np.uint16), 4),
        "trns.png": png(red_on_key, 2, {b"tRNS": struct.pack(">3H", 0, 255, 0)}),
        "trns16.png": png(red_on_key.astype(np.uint16) * 257, 2, {b"tRNS": struct.pack(">3H", 0, 65535, 0)}),
        "animated.png": frames("PNG"),
        "animated.webp": frames("WEBP"),
        "gif-as.png": saved(photo(), "GIF"),
        **{f"exif{orientation}.jpg": turned(orientation) for orientation in (2, 5, 6, 8, 9)},
        "one-pixel.png": saved(np.full((1, 1, 4), 255, np.uint8), "PNG"),
        "3x3.png": saved(np.pad(np.full((1, 1, 4), 255, np.uint8), ((1, 1), (1, 1), (0, 0))), "PNG"),
        "speck.png": saved(np.pad(np.full((5, 5, 4), 255, np.uint8), ((90, 90), (90, 90), (0, 0))), "PNG"),
        "flat.png": saved(np.full((SIDE, SIDE, 3), GREY, np.uint8), "PNG"),
        "transparent.png": saved(np.zeros((SIDE, SIDE, 4), np.uint8), "PNG"),
        "cut-off.jpg": jpeg[:-1000],
        "empty.png": b"",
        "text.png": b"this is no picture\n",
        "svg.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>\n',
        "bomb.png": sized(png(cut_out(), 6), 60_000),
        "lossless.webp": saved(cut_out(), "WEBP", lossless=True),
        "v5.bmp": bitmap_v5(),
        "long-exif.jpg": turned(6, description="x" * 60_000),
        "long-text.png": png(cut_out(), 6, {b"zTXt": b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)}),
        "wrong-checksum.png": png(cut_out(), 6)[:29] + b"none" + png(cut_out(), 6)[33:],
        "tiff.tif": saved(cut_out(), "TIFF"),
        "avif-as.png": saved(cut_out(), "AVIF"),
        "heic.heic": b"\0\0\0\x18ftypheic" + bytes(500),
        "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }


# those without alpha, beside all JPEG files: GrabCut makes their masks
PHOTOGRAPHS = {"palette-opaque.png", "one-bit.png", "grey.png", "flat.png", "svg.svg"}
SHADES = {"grey-icc.png": (GREY,) * 3, "grey16.png": (GREY,) * 3, "speck.png": (255,) * 3}  # of the disc; the others': RED


def prepare_words(picture: str) -> list[str]:
    """The words of the command, in the folder of the pictures."""
    mask = "grabcut" if picture.endswith(".jpg") or picture in PHOTOGRAPHS else "alpha"
    settings = {"mask": mask, "depth": "dpt", "resolution": 64}
    weights = str(REPOSITORY / "weights" / "miniature" / "dpt")
    words = ["--image", picture, "--name", "thing", "--prompt", "a red disc", "--out", f"made/{picture}"]
    return ["prepare", *words, "--settings", json.dumps(settings), "--depth-weights", weights]


def called(words: list[str]) -> tuple[int, str, str]:
    """Run a command in this process: its exit status, stdout and stderr."""
    with redirect_stderr(io.StringIO()) as errors, redirect_stdout(io.StringIO()) as output:
        status = main(words)
    return status, output.getvalue(), errors.getvalue()


def started(words: list[str]) -> tuple[int, str, str]:
    """The same in a process of its own."""
    run = subprocess.run([sys.executable, "-m", "magic123", *words], capture_output=True, text=True)
    return run.returncode, run.stdout, run.stderr


def picture_rows(folder: Path) -> list[Row]:
    """Make the pictures in `folder` and prepare each; the first and the first refused one in processes of their own."""
    rows = []
    with chdir(folder):
        for name, content in pictures().items():
            Path(name).write_bytes(content)
            status, _, said = (started if name in ("p3.png", "cicp-hdr.png") else called)(prepare_words(name))
            assert "Traceback" not in said, said
            if status:
                rows.append((name, "refused", sentence_of(said)))
            else:
                square = np.asarray(Image.open(f"made/{name}/rgba.png"))
                painted = np.median(square[square[..., 3] > 250], axis=0)[:3]
                assert np.abs(painted - SHADES.get(name, RED)).max() < 6, f"{name}: {painted}"
                warnings = json.loads(Path("made", name, "qa.json").read_text())["warnings"]
                rows.append((name, "made", "; ".join(warnings) or "no remark"))
        assert {path.name for path in folder.iterdir()} == {*pictures(), "made"}
    return rows


def sentence_of(said: str) -> str:
    """The only sentence of a command that refused."""
    sentences = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, said
    return sentences[0]


# --- tables -------------------------------------------------------------------------------------------------------------------

HEAD = "name,prompt,image\n"
CUP = "a,a red cup,own.png\n"
PLAIN = HEAD + CUP
TABLES: dict[str, str | bytes] = {
    "plain": PLAIN,
    "crlf": PLAIN.replace("\n", "\r\n"),
    "old mac": PLAIN.replace("\n", "\r"),
    "bom": PLAIN.encode("utf-8-sig"),
    "utf-16": PLAIN.encode("utf-16"),
    "latin-1": (HEAD + "a,café,own.png\n").encode("latin-1"),
    "empty": "",
    "header only": HEAD,
    "blank lines": "\n" + HEAD + "\n,,\n" + CUP + "\n",
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "comment first": "# mine\n" + PLAIN,
    "comment inside": HEAD + "# mine\n" + CUP,
    "open quote": HEAD + 'a,"a red cup,own.png\nb,a blue cup,own.png\n',
    "two lines in a cell": HEAD + 'a,"a red\ncup",own.png\n',
    "quote inside": HEAD + 'a,a 12" cup,own.png\n',
    "quoted quote": HEAD + 'a,"a ""red"" cup",own.png\n',
    "bad quote": HEAD + 'a,"a red" cup,own.png\n',
    "comma": HEAD + "a,a cup, red,own.png\n",
    "short line": HEAD + "a,a red cup\n",
    "carriage returns within lines": HEAD + "a,a red\rcup,own.png\n",
    "column twice": "name,prompt,prompt,image\na,a red cup,a cup,own.png\n",
    "unknown column": "name,prompt,image,colour\na,a red cup,own.png,red\n",
    "capital header": PLAIN.replace("name", "Name"),
    "spaces in header": PLAIN.replace(",", " , ", 2),
    "name twice": PLAIN + CUP,
    "name in other case": PLAIN + CUP.replace("a,", "A,", 1),
    "command as name": HEAD + "$(touch stolen),a red cup,own.png\n",
    "dots as name": HEAD + "../x,a red cup,own.png\n",
    "no prompt": HEAD + "a,,own.png\n",
    "missing picture": HEAD + "a,a red cup,none.png\n",
    "command as path": HEAD + "a,a red cup,$(touch stolen).png\n",
    "bad angle": "name,prompt,image,polar\na,a red cup,own.png,200\n",
    "formula": HEAD + "a,=1+1,own.png\n",
    "null byte": HEAD + "a,b\0c,own.png\n",
    "mask ignored": "name,prompt,image,mask\na,a red cup,own.png,own.png\n",
    "bad hash": "name,prompt,image,sha256\na,a red cup,own.png,12\n",
    "too long": HEAD + f"a,{'red cup ' * 30},own.png\n",
    "empty columns": "name,prompt,image,,\na,a red cup,own.png,,\n",
    "longer line": HEAD + "a,a red cup,own.png,,\n",
    "column without a name": "name,prompt,image,\na,a red cup,own.png,old\n",
    "sep line": "sep=,\n" + PLAIN,
    "workbook": b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0\xdf\xa4\xd2",
    "web page": "<!DOCTYPE html><html><body>404</body></html>\n",
    "one long cell": HEAD + f"a,{'x' * 200_000},own.png\n",
}


def project(root: Path) -> Path:
    """A project with the repository's own code, rules and weights, and configuration and datasets of its own."""
    project_folder(root, copied=("config",), linked=("Snakefile", "rules", "magic123", "eval", "profiles", "weights"))
    (root / "datasets").mkdir()
    (root / "datasets" / "own.png").write_bytes(saved(cut_out(), "PNG"))
    return root


def check_nothing_else(root: Path) -> None:
    """Fail where a project has more files than it is given and than dry runs write: a name was executed."""
    found = {path.relative_to(root) for path in (root, root / "config", root / "datasets") for path in path.iterdir()}
    known = r"Snakefile|rules|magic123|eval|profiles|weights|names|\.snakemake|\.cache|std(out|err)\d+"
    known = re.compile(
        known
        + r"|config(/([\w.-]+\.(yaml|csv)|baselines|schemas))?|datasets(/(own\.png|(mine-\d+|odd)\.csv|odd-contact\.png))?"
    )
    assert not [path for path in found if not known.fullmatch(path.as_posix())]


def outcome(run: Run) -> tuple[str, str]:
    """What a dry run says of its dataset."""
    assert "Traceback" not in run.text, run.text
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, run.text
        return "refused", said[0].removeprefix("error: ")
    count = len(re.findall(r"^rule prepare:", run.text, re.MULTILINE))
    unused = [line for line in run.stderr.splitlines() if line.startswith("datasets/")]
    return "listed", "; ".join([f"read: {count} example{'s' * (count != 1)}", *unused])


def table_rows(folder: Path) -> list[Row]:
    """Plan a run over each of the tables in a project below `folder`."""
    root, files = project(folder / "tables"), []
    for number, text in enumerate(TABLES.values()):
        (root / "datasets" / f"mine-{number}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        run = yaml.safe_load((root / "config" / "mine.yaml").read_text())
        run["run"]["datasets"] = [f"mine-{number}"]
        files.append(f"config/mine-{number}.yaml")
        (root / files[-1]).write_text(yaml.safe_dump(run))
    outcomes = [outcome(run) for run in snakemake_each(root, ["-n"], files)]
    check_nothing_else(root)
    return [(name, result, re.sub(r"mine-\d+", "mine", said)) for name, (result, said) in zip(TABLES, outcomes, strict=True)]


# --- file names ---------------------------------------------------------------------------------------------------------------

LONG = "x" * 120  # a caption of too many tokens
NAMES = [
    "red mug", "{lamp}", "{{lamp}}", "{dataset}", "$(touch stolen)", "`touch stolen`", ";touch stolen;", "| touch stolen",
    "&& touch stolen", "> stolen", "$HOME", "~", "-rf", "--help", "a b  c", "100%", "%s %d", "a&b", "a_b^c", "$x^$",
    "\\textbf{x}", "<b>bold<", '"quoted"', "it's", "a,b", "a;b", "#hash", "!bang", "*", "?", "[a-z]", "(1)", "a=b", "a:b",
    "été", "Größe", "茶壶", "چای", "שלום", "🐕 dog", "e\u0301", "\u00e9", "\u202egnp", "zero\u200bwidth", "nbsp\xa0name",
    " lead", "trail ", ".hidden", "CON", LONG, "İstanbul", "tab\tname", "new\nline", "IMG_0001", "NULL", "true",
]  # fmt: skip


def name_rows(folder: Path) -> list[Row]:
    """Add a folder of pictures with these names in a process of its own, and plan the run over what was listed.

    The dry run refuses LONG, the run without that line is planned.
    """
    root = project(folder / "names")
    (root / "names").mkdir()
    for name in NAMES:
        (root / "names" / f"{name}.png").write_bytes(saved(cut_out(), "PNG"))
    with chdir(root):
        status, _, said = started(["dataset", "add", "names", "--name", "odd"])
        assert status == 0 and "Traceback" not in said, said
        listed = {Path(row.image).stem: f"{row.name}: {row.prompt}" for row in load_manifest(Path("datasets/odd.csv")).values()}
    lines, rows = said.splitlines(), []
    for name in NAMES:
        told = "".join(letter if letter.isprintable() else "?" for letter in f"{name}.png: not listed")
        if name in listed:
            rows.append((name, "listed", listed[name]))
        elif name.startswith("."):
            rows.append((name, "refused", "hidden files are passed over"))
        else:
            rows.append((name, "refused", next(line for line in lines if line.startswith(told))))
    whole = snakemake_each(root, ["-n"], ["config/odd.yaml"])[0]
    result, sentence = outcome(whole)
    assert result == "refused" and LONG in sentence and "123 tokens" in sentence, sentence
    table = root / "datasets" / "odd.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if LONG not in line))
    assert outcome(snakemake_each(root, ["-n"], ["config/odd.yaml"])[0]) == ("listed", f"read: {len(listed) - 1} examples")
    check_nothing_else(root)
    return rows


# --- the page -----------------------------------------------------------------------------------------------------------------

SECTIONS = {"Pictures": picture_rows, "Tables": table_rows, "File names": name_rows}


def visible(text: str) -> str:
    """Text with codes in place of invisible characters, shortened if it is long."""
    text = re.sub(r"\b(\w+ \w+)( \1)+", r"\1 ...", text)  # the same two words again and again
    text = re.sub(r" \(known: .*", " ...", text)
    text = re.sub(r"(?<!\w)(\w{12})\w{20,}", r"\1...", text)
    text = re.sub(r"(\d\.\d{2})\d{2,}", r"\1...", text)  # digits that differ from one processor to another
    text = re.sub(r"^ | $", r"\\x20", text)
    text = "".join(
        sign if sign.isprintable() and not unicodedata.combining(sign) else sign.encode("unicode_escape").decode()
        for sign in text
    )
    return text if len(text) < LONGEST else text[: LONGEST - 4] + " ..."


def as_line(row: tuple[str, ...]) -> str:
    """A line of a table in Markdown."""
    cells = (
        visible(cell).replace("&", "&amp;").replace("<", "&lt;").replace("{", "&#123;").replace("|", "\\|") for cell in row
    )
    return f"| {' | '.join(cells)} |"


def lines_of(page: str, section: str) -> list[str]:
    """The lines of a section's table, without its head."""
    (part,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return [line for line in part.splitlines() if line.startswith("|")][2:]


def write_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for section, rows_of in SECTIONS.items():
            page = page.replace("\n".join(lines_of(page, section)), "\n".join(map(as_line, rows_of(Path(folder)))))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write_page()

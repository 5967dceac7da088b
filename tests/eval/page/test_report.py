"""The report page: its text for complete, partial and damaged runs, its media, and that foreign text is escaped."""

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import HOSTILE, ROWS, build_run, fail_cell, report_words, write_hostile

from eval.__main__ import main
from eval.page import media
from eval.page.budget import KINDS, embedded_size, pack
from eval.page.evidence import LOG_LINES, POINTS, log_end, read_benchmark, read_losses
from eval.page.media import LEVELS, Medium
from eval.tables.plan import read_plan
from eval.tables.shown import unseen_view
from magic123.geometry.export import write_points
from magic123.records.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change, as the working directory."""
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.chdir(root)
    return root


class Reader(HTMLParser):
    """Visible text, elements and attributes of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.words, self.tags, self.attributes, self._silent = [], Counter(), [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(*more: str, **settings) -> str:
    assert main([*report_words(**settings), *more]) == 0
    return Path("small-report.html").read_text()


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1))


def media_of(page: str, row: str) -> dict:
    return data_of(page)["examples"][0]["cells"][row]["media"]


# ------------------------------------------------------------------------------------------------------------ whole runs
def test_whole_run_is_whole(run: Path) -> None:
    page = page_of()
    text = Reader(page).text
    assert "6 of 6" in text and "This report is partial" not in text
    for _, _, label in ROWS:
        assert label in text
    assert "this method makes no mesh: toys/dog copy/coarse seed 0 (Chamfer); toys/cup copy/coarse seed 0 (Chamfer)." in text
    cell = data_of(page)["examples"][0]["cells"]["both/fine"]
    assert set(cell["media"]) == {"own", "colour", "normal", "depth", "film", "mesh"}
    assert ["PSNR ring ↑ (novel views)", "18.00"] in cell["scores"]
    assert data_of(page)["examples"][0]["cells"]["copy/coarse"]["noMesh"] == "a picture has no surface"
    assert len(page.encode()) < 20e6


def highlights(page: str) -> list[tuple[str, str, str]]:
    """Value, label and rows of the tiles at the top of a page."""
    tile = r'<li><span class="value">(.*?)</span><span class="label">(.*?)</span>(?:<span class="who">(.*?)</span>)?</li>'
    return re.findall(tile, page)


def test_tied_rows_share_one_highlight(run: Path) -> None:
    before = highlights(page_of())
    assert ("18.50", "PSNR ring ↑ novel views", "both priors (fine)") in before
    for example in ("dog", "cup"):
        folder = run / "results/toys" / example / "both/seed0"
        scores = {stage: json.loads((folder / stage / "scores.json").read_text()) for stage in ("coarse", "fine")}
        number = {stage: [value["metric"] for value in read["values"]].index("psnr-ring") for stage, read in scores.items()}
        scores["coarse"]["values"][number["coarse"]] = scores["fine"]["values"][number["fine"]]
        (folder / "coarse/scores.json").write_text(json.dumps(scores["coarse"]))
    after = highlights(page_of())
    assert ("18.50", "PSNR ring ↑ novel views", "both priors (coarse) and both priors (fine)") in after
    assert [label for _, label, _ in after] == [label for _, label, _ in before]


def test_pictures_of_progress_are_shown_evenly_spaced(run: Path) -> None:
    folder = run / "results/toys/dog/both/seed0/coarse/progress"
    folder.mkdir()
    assert not any("progress" in kind for kind in media_of(page_of(), "both/coarse"))
    for steps in range(100, 1600, 100):
        Image.new("RGB", (640, 284), (steps // 10, 0, 0)).save(folder / f"{steps:06d}.png")
    (folder / "unfinished.png").write_bytes(b"")
    page = page_of()
    media = media_of(page, "both/coarse")
    spaced = {f"progress {steps}" for steps in (100, 300, 500, 700, 900, 1100, 1300, 1500)}
    assert {kind for kind in media if "progress" in kind} == spaced
    block = re.search(rf'<script type="text/plain" id="{media["progress 1500"]}">(.*?)</script>', page)[1]
    shown = Image.open(io.BytesIO(base64.b64decode(block)))
    assert shown.size == (640, 284) and abs(shown.convert("RGB").getpixel((300, 100))[0] - 150) < 6
    assert not any("progress" in kind for kind in media_of(page, "both/fine"))


def test_time_and_memory_count_each_job_once(run: Path) -> None:
    """fine starts from coarse, which has a row of its own: two jobs each, not four."""
    text = Reader(page_of()).text
    assert re.search(r"every row prepare 2 2\.0 s 2\.0 s 4\.0 s 512 MiB", text)
    assert re.search(r"both priors \(coarse\) reconstruct 2 20 s 20 s 40 s 701 MiB", text)
    assert re.search(r"both priors \(fine\) reconstruct 2 30 s 30 s 1 min 00 s 702 MiB", text)


def test_a_start_without_a_row_is_counted_too(run: Path) -> None:
    plan = json.loads(Path("plan.json").read_text())
    plan["cells"] = [cell for cell in plan["cells"] if cell["stage"] == "fine"]
    Path("plan.json").write_text(json.dumps(plan))
    text = Reader(page_of()).text
    assert re.search(r"both priors \(coarse\) reconstruct 2 20 s", text) and "both priors: both/coarse" in text


def test_settings_say_who_differs(run: Path) -> None:
    assert "2 results, all alike" in Reader(page_of()).text
    file = Path("results/toys/cup/both/seed0/fine/stage.json")
    record = json.loads(file.read_text())
    record["settings"]["steps"] = 7
    file.write_text(json.dumps(record))
    text = Reader(page_of()).text
    assert "steps: 7" in text and "both priors: both/fine toys/cup seed 0" in text


def test_commit_and_uncommitted_changes(run: Path) -> None:
    assert "outside a Git checkout" in Reader(page_of()).text
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "plan.json"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    text = Reader(page_of()).text
    assert commit in text and "with uncommitted changes" not in text
    Path("plan.json").write_text(Path("plan.json").read_text() + "\n")
    text = Reader(page_of()).text
    assert "with uncommitted changes" in text and "changed files plan.json" in text


def test_differences_from_a_baseline(run: Path) -> None:
    assert "Differences from" not in Reader(page_of()).text
    page = page_of(baseline=["copy", "coarse"])
    text = Reader(page).text
    assert "Differences from a copy" in text
    # psnr-ring is 3 and 6 dB above the copy on both examples, lpips 0.3 and 0.6 below; the copy has no mesh to compare
    assert "both priors (fine) -2.00 -2.00 to -2.00 +6.00 +6.00 to +6.00 -0.600 -0.600 to -0.600 –" in text
    assert 'title="a paired difference needs two shared examples' in page


def test_another_systems_row_shows_its_program_its_notes_and_its_surface(run: Path) -> None:
    folder = Path("results/toys/dog/copy/seed0/coarse")
    for path in (folder / "mesh/none.json", folder / "run.json"):
        path.unlink()
    (folder / "mesh/mesh.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    (folder / "made").mkdir()
    (folder / "made/external.json").write_text(json.dumps({"command": "infer {out}", "seconds": 2.5, "seed": 0}))
    cameras = json.loads((folder / "views/cameras.json").read_text())
    for camera in (camera for cameras in cameras["sets"].values() for camera in cameras):
        del camera["height"], camera["width"]
    (folder / "views/cameras.json").write_text(json.dumps(cameras))
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"notes": {"nearest object": 7}}))
    page = page_of()
    cell = data_of(page)["examples"][0]["cells"]["copy/coarse"]
    assert cell["run"] == [["command", "infer {out}"], ["seconds", "2.5"], ["seed", "0"], ["nearest object", "7"]]
    block = re.search(rf'<script type="text/plain" id="{cell["media"]["mesh"]}">(.*?)</script>', page)[1]
    glb = gzip.decompress(base64.b64decode(block))
    header = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    assert max(accessor["count"] for accessor in header["accessors"]) == 12  # corners of four faces
    (folder / "mesh/mesh.obj").write_text("v 0 0 0\n")
    assert main(report_words()) == 1


def test_flags_are_counted_and_marked(run: Path) -> None:
    page = page_of()
    text = Reader(page).text
    assert "Row shattered-mesh white-back a copy – 2 of 2 both priors (coarse) 0 of 2 0 of 2" in text
    assert text.count("⚑ white-back") == 2 and "⚑ shattered-mesh" not in text
    flags = data_of(page)["examples"][0]["cells"]["copy/coarse"]["flags"]
    assert [flag["state"] for flag in flags] == ["not measured", "raised"] and flags[0]["about"] == "no mesh"
    for file in Path("results").rglob("scores.json"):  # scores of before there were flags
        file.write_text(json.dumps(json.loads(file.read_text()) | {"flags": []}))
    assert "Quality flags" not in re.sub("<script.*?</script>", "", page_of(), flags=re.DOTALL).split("What ran")[1]


# ---------------------------------------------------------------------------------------------------------- partial runs
def test_a_failed_and_a_deleted_result_are_named(run: Path) -> None:
    fail_cell(run, "reconstruct: the gradient is not finite", "step 1\nstep 2\nerror: the gradient is not finite\n")
    Path("results/toys/cup/both/seed0/coarse/scores.json").unlink()
    text = Reader(page_of()).text
    assert "This report is partial. 1 failed, 1 missing." in text and "4 of 6" in text
    assert "failed toys/dog both/fine seed 0 reconstruct: the gradient is not finite" in text
    assert "End of logs/toys/dog/both/seed0/fine/reconstruct.log step 1 step 2 error: the gradient is not finite" in text
    assert "missing toys/cup both/coarse seed 0 This result has not been computed." in text
    assert text.count("1/2") >= 2


def test_headline_of_a_partial_run_is_over_what_rows_share(run: Path) -> None:
    """15 dB on the dog and 16 on the cup; without the copy's dog, rows are ranked on the cup alone."""
    plan = json.loads(Path("plan.json").read_text())
    plan["cells"] = [cell for cell in plan["cells"] if cell["stage"] == "coarse"]
    Path("plan.json").write_text(json.dumps(plan))
    assert "15.50 PSNR ring ↑ novel views both priors" in Reader(page_of()).text
    Path("results/toys/dog/copy/seed0/coarse/scores.json").unlink()
    assert "16.00 PSNR ring ↑ novel views, over 1 shared both priors" in Reader(page_of()).text


def test_a_run_without_anything_has_a_page(run: Path) -> None:
    for name in ("results", "benchmarks", "logs"):
        shutil.rmtree(name)
    text = Reader(page_of()).text
    assert "0 of 6" in text and "6 missing" in text and "These results have no benchmark files" in text


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("losses.csv", "step,rgb\n0,1\n1\n", "is not a table of losses"),
        ("losses.csv", "", "is not a table of losses"),
        ("stage.json", "[]", "must hold a JSON object"),
        ("views/ring/001.png", "no picture", "cannot be read as a picture"),
        ("views/depth/ring/001.png", "no picture", "cannot be read as a picture"),
        ("mesh/none.json", "{", "is not valid JSON"),
    ],
)
def test_damage_is_refused_in_one_sentence(run: Path, capsys, file: str, content: str, sentence: str) -> None:
    (Path("results/toys/cup/both/seed0/fine") / file).write_text(content)
    assert main(report_words()) == 1
    error = capsys.readouterr().err
    assert sentence in error and file in error and error.count("\n") == 1 and " object at 0x" not in error
    assert not Path("small-report.html").exists()


def test_unknown_view_is_refused(run: Path, capsys) -> None:
    assert main([*report_words(), "--view", "ring/007"]) == 1
    assert "no result has the view ring/007.png" in capsys.readouterr().err
    assert "view ring/002" in Reader(page_of("--view", "ring/002")).text


def test_unseen_view_is_the_one_from_behind(run: Path) -> None:
    cells = read_plan(Path("plan.json"))
    assert unseen_view(cells, None) == "ring/001"  # azimuth 150
    for file in Path("results").rglob("cameras.json"):  # pictures from elsewhere have none
        file.unlink()
    assert unseen_view(cells, None) == "ring/000"
    assert unseen_view([], None) is None


def test_the_true_view_is_that_of_the_folder_which_the_run_names(run: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.move("datasets/toys/dog/truth", "elsewhere")
    words = report_words()
    at = words.index("--truth") + 1
    counts = []
    for truth in ('{"toys": {"dog": "elsewhere"}}', "{}"):
        words[at] = truth
        assert main(words) == 0
        counts.append(Path("small-report.html").read_text().count('"truth": "m'))
    assert counts == [1, 0]
    for broken in ("datasets/{dataset}", '["toys"]', '{"toys": {"dog": 1}}'):
        words[at] = broken
        assert main(words) == 1 and "--truth cannot be read" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- foreign text
def test_foreign_text_stays_text(run: Path) -> None:
    plain = Reader(page_of())
    write_hostile(run)
    page = page_of(title=HOSTILE)
    reader = Reader(page)
    # four media of the failed cell are gone; nothing else changed its kind
    assert reader.tags["script"] == plain.tags["script"] - 2 and reader.tags["style"] == 1
    assert reader.tags["img"] == plain.tags["img"] - 4
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert not [value for name, value in reader.attributes if name == "src" and not (value or "").startswith("data:")]
    assert HOSTILE in data_of(page)["rows"][1]["label"] and "49" not in data_of(page)["rows"][1]["label"]
    assert HOSTILE.replace("<!--", "").split("<style>")[0] in reader.text


def test_policy_names_the_scripts_it_carries(run: Path) -> None:
    import hashlib

    page = page_of()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 6
    for text in [*scripts, re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)]:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


# -------------------------------------------------------------------------------------------------------------- evidence
def test_curves_are_means_of_steps(tmp_path: Path) -> None:
    file = tmp_path / "losses.csv"
    file.write_text("step,a,b\n" + "".join(f"{step},{step},{'' if step < 4 else 1}\n" for step in range(POINTS * 2)))
    losses = read_losses(file)
    assert (losses.bin, losses.total, losses.steps[:3]) == (2, 2 * POINTS, [0, 2, 4])
    assert dict(losses.series)["a"][:2] == [0.5, 2.5] and dict(losses.series)["b"][:3] == [None, None, 1.0]
    assert read_losses(tmp_path / "absent.csv") is None


def test_log_end_is_what_was_read_last(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_bytes(b"first\n" + b"10%\r50%\r100%\n" * LOG_LINES + b"\x1b[31mred\x07\xff\n\n")
    lines = log_end(file).splitlines()
    assert len(lines) == LOG_LINES and lines[0] == "100%" and lines[-1].startswith("[31mred")
    assert log_end(tmp_path / "absent.log") == ""


def test_benchmarks(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"s": 1}\n{"s": 2}\n')
    assert read_benchmark(file) == {"s": 2}
    file.write_text("s\th:m:s\n")
    with pytest.raises(InputError, match=r"a\.jsonl is not a benchmark"):
        read_benchmark(file)


# ---------------------------------------------------------------------------------------------------------------- budget
def sized(key: str, kind: str, *sizes: int) -> Medium:
    return Medium(key, kind, key, "image/webp", lambda level: bytes(sizes[level]))


def test_best_level_that_fits() -> None:
    things = [sized(f"{kind}{n}", kind, 4000, 2000, 500) for n in range(3) for kind in KINDS]
    for level, limit in ((0, 200_000), (1, 80_000), (2, 40_000)):
        packed = pack(things, limit)
        assert packed.level == level and not packed.left_out and len(packed.data) == len(things)
        assert sum(map(embedded_size, packed.data.values())) <= limit


def test_pictures_stay_when_meshes_go() -> None:
    things = [sized(f"{kind}{n}", kind, 4000, 2000, 500) for n in range(3) for kind in reversed(KINDS)]
    packed = pack(things, 9000)
    assert sum(map(embedded_size, packed.data.values())) <= 9000
    kept = {KINDS.index(next(t.kind for t in things if t.key == key)) for key in packed.data}
    lost = {KINDS.index(thing.kind) for thing in packed.left_out}
    assert lost and max(kept) <= min(lost) and len(packed.data) + len(packed.left_out) == len(things)


def test_small_limit_is_kept_and_said(run: Path, capsys) -> None:
    whole = len(page_of().encode())
    limit = 0.76
    page = page_of("--limit-mb", str(limit))
    assert len(page.encode()) <= limit * 1e6 < whole
    text = Reader(page).text
    assert re.search(r"Left out to stay under 0\.76 MB: .*meshes and point clouds\. The files are in the results folder", text)
    assert LEVELS[2] in text and any(c["leftOut"] for e in data_of(page)["examples"] for c in e["cells"].values())
    assert main([*report_words(), "--limit-mb", "0.3"]) == 1
    assert "the text alone takes" in capsys.readouterr().err


def loaded(content: bytes):
    import trimesh

    return trimesh.load_mesh(io.BytesIO(gzip.decompress(content)), file_type="glb")


def test_levels_of_a_mesh(finished: Path) -> None:
    """Level 0 is the file itself; 1 has the same faces and a JPEG; 2 has few faces, closed, in the right colours."""
    import trimesh
    from small_run import ball, colour_of

    file = finished / "results/toys/dog/both/seed0/fine/mesh/mesh.glb"
    assert gzip.decompress(media.mesh(file, 0)) == file.read_bytes()
    before, middle, small = (loaded(media.mesh(file, level)) for level in (0, 1, 2))
    assert len(middle.faces) == len(before.faces) and b"image/jpeg" in gzip.decompress(media.mesh(file, 1))
    textures = [np.asarray(one.visual.material.baseColorTexture.convert("RGB"), float) for one in (before, middle)]
    assert np.abs(textures[0] - textures[1]).mean() < 6
    assert np.allclose(small.bounds, before.bounds, atol=0.02)
    assert small.is_watertight and len(small.faces) <= media.FEW_FACES
    import torch

    expected = colour_of(torch.tensor(np.asarray(small.vertices), dtype=torch.float32)).numpy() * 255
    assert np.abs(small.visual.vertex_colors[:, :3] - expected).mean() < 12
    fine = trimesh.Trimesh(*ball(60), process=False)
    fine.visual.vertex_colors = np.full((len(fine.vertices), 4), 200, np.uint8)
    large = finished / "large.glb"
    large.write_bytes(fine.export(file_type="glb"))
    assert 1000 < len(loaded(media.mesh(large, 2)).faces) <= media.FEW_FACES < len(fine.faces)
    large.write_bytes(b"glTF of another version")
    with pytest.raises(InputError, match="cannot be read as a mesh"):
        media.mesh(large, 1)


def test_levels_of_a_point_cloud(tmp_path: Path) -> None:
    import trimesh

    positions = np.random.default_rng(0).normal(size=(50_000, 3)).astype(np.float32)
    colours = np.tile(np.array([[200, 60, 40]], np.float32) / 255, (50_000, 1))
    write_points(tmp_path / "points.ply", positions, colours)
    for level, count in enumerate((50_000, 40_000, 8_000)):
        content = io.BytesIO(gzip.decompress(media.points(tmp_path / "points.ply", level)))
        (cloud,) = trimesh.load_scene(content, file_type="glb").geometry.values()
        assert len(cloud.vertices) == count and (np.asarray(cloud.colors)[:, :3] == (200, 60, 40)).all()
    (tmp_path / "points.ply").write_bytes((tmp_path / "points.ply").read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be read as a point cloud"):
        media.points(tmp_path / "points.ply", 0)


def test_levels_of_pictures_and_videos(finished: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 300, 4), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    sizes = [Image.open(io.BytesIO(media.picture(tmp_path / "noise.png", level))).size for level in range(3)]
    assert [max(size) for size in sizes] == list(media.SIDES) and all(w < h for w, h in sizes)
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    assert np.asarray(Image.open(io.BytesIO(media.picture(tmp_path / "clear.png", 0)))).min() > 250  # on white, not black
    film = finished / "results/toys/dog/both/seed0/fine/views/turntable.mp4"
    lengths = [len(media.video(film, level)) for level in range(3)]
    assert lengths[0] == film.stat().st_size and lengths[2] < lengths[1] < lengths[0]
    (tmp_path / "film.mp4").write_text("no film")
    with pytest.raises(InputError, match="cannot be read as a video"):
        media.video(tmp_path / "film.mp4", 1)


def test_a_film_without_room_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "[out#0/mp4] Error closing file: No space left on device\n"
    monkeypatch.setattr(media.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 228, "", said))
    with pytest.raises(OSError, match="No space left on device"):
        media.video(tmp_path / "film.mp4", 1)


def test_depth_is_bright_where_near(tmp_path: Path) -> None:
    depth = np.tile(np.linspace(9000, 21000, 64).astype(np.uint16), (64, 1))
    depth[:8] = 0
    Image.fromarray(depth).save(tmp_path / "depth.png")
    seen = np.asarray(Image.open(io.BytesIO(media.depth_picture(tmp_path / "depth.png", 0, 10000, 20000)))).astype(int)
    assert seen[:6].min() > 240
    light = seen[20:].mean((0, 2))
    assert light[2] > light[20] > light[40] > light[62]


@pytest.mark.parametrize("adopted", ["copy/seed0/coarse", "both/seed0/fine"])
def test_cards_say_how_meshes_of_others_were_placed(run, adopted):
    """Whichever row comes first: our own results have no alignment."""
    for file in run.glob(f"results/toys/*/{adopted}/scores.json"):
        scores = json.loads(file.read_text())
        for value in scores["values"]:
            value["card"]["alignment"] = {"align": "scale", "method": "found by its box", "frame": {"up": "z"}}
        file.write_text(json.dumps(scores))
    assert main(report_words()) == 0
    text = Path("small-report.html").read_text()
    cell = data_of(text)["examples"][0]["cells"][adopted.replace("/seed0", "")]
    assert ["frame", "scale: found by its box"] in cell["run"] and text.count("scale: found by its box") > 2
    assert "&#39;up&#39;" not in text

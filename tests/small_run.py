"""A small finished run, written with the suite's own writers: two examples, a control and a method of two stages."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from magic123.geometry.export import write_mesh
from magic123.records.cards import MetricCard, Scores, Value, write_scores
from magic123.render.showcase import Frame, write_video

EXAMPLES = ("dog", "cup")
ROWS = (("copy", "coarse", "a copy"), ("both", "coarse", "both priors"), ("both", "fine", "both priors"))
COLUMNS = ("psnr@reference", "psnr-ring", "lpips-mini", "chamfer")
SIZE = 48
HOSTILE = """<script>window.harm=1</script>"'><img src=x onerror="window.harm=1">{{ 7*7 }}</style></script><!--"""


def colour_of(points):
    """Red at +x, blue at -x, green at +z: no two sides look alike."""
    return torch.sigmoid(5 * torch.stack([points[:, 0], points[:, 2], -points[:, 0]], -1))


def ball(rows: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """An egg: vertices [N, 3], faces [F, 3]."""
    import trimesh

    egg = trimesh.creation.uv_sphere(radius=0.5, count=[rows, 2 * rows])
    return np.asarray(egg.vertices * [1.0, 0.7, 0.6], np.float32), np.asarray(egg.faces)


def picture(hue: float, angle: float) -> np.ndarray:
    """A disc with a spot that goes round: uint8 [SIZE, SIZE, 3] on white."""
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) * 2 - 1
    colour = np.full((SIZE, SIZE, 3), 255, np.uint8)
    colour[x**2 + y**2 < 0.6] = np.uint8(255 * np.abs([np.sin(hue), np.cos(hue), 0.4]))
    colour[(x - 0.4 * np.cos(angle)) ** 2 + (y - 0.4 * np.sin(angle)) ** 2 < 0.05] = 20
    return colour


def write_views(folder: Path, hue: float) -> None:
    """What `view` writes, small: one input view, a ring of three, and a video."""
    sets = {"reference": [(90.0, 0.0)], "ring": [(60.0, 30.0), (60.0, 150.0), (60.0, 270.0)]}
    listed = {}
    for name, places in sets.items():
        listed[name] = []
        for index, (polar, azimuth) in enumerate(places):
            colour = picture(hue, np.deg2rad(azimuth))
            depth = np.where((colour < 255).any(-1), 15000 + 60 * np.arange(SIZE), 0).astype(np.uint16)
            for kind, content in (("", colour), ("normal", 255 - colour), ("depth", depth)):
                file = folder / kind / name / f"{index:03d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(file)
            about = {"polar": polar, "azimuth": azimuth, "radius": 1.8, "fov": 40.0, "height": SIZE, "width": SIZE}
            listed[name].append({"file": f"{name}/{index:03d}.png", **about})
    (folder / "cameras.json").write_text(json.dumps({"version": 1, "depth_scale": 10000, "sets": listed}))
    frames = [picture(hue, angle) for angle in np.linspace(0, 2 * np.pi, 12)]
    write_video(folder / "turntable.mp4", [Frame(30.0 * k, frame, 255 - frame) for k, frame in enumerate(frames)])


def value(metric: str, view_set: str, number: float) -> Value:
    names = [name for name in MetricCard.model_fields if name not in ("libraries", "kernels", "sets")]
    card = dict.fromkeys(names) | {
        "full_name": f"{metric}.128px", "version": 1, "protocol": "corrected", "view_set": view_set, "sets": ["ring"],
        "n_views": 1, "against": "truth", "range": "[0, 1]", "background": "white", "libraries": {"numpy": "2"},
        "kernels": {}, "device": "cpu", "seconds": 0.1, "time": "2030-01-01T00:00:00+00:00",
    }  # fmt: skip
    images = {f"{'reference' if view_set == 'reference' else 'ring'}/000": number}
    return Value(metric=metric, protocol="corrected", view_set=view_set, value=number, images=images, card=MetricCard(**card))


def flags(place: int) -> list[dict]:
    """A white back on the copy, and a broken mesh where there is a mesh, which is not."""
    shattered = (
        {"state": "not measured", "number": None, "reason": "no mesh"} if not place else {"state": "clear", "number": 0.9}
    )
    back = {"state": "clear" if place else "raised", "number": 0.1 if place else 0.8}
    return [
        {"name": "shattered-mesh", "threshold": 0.5, "meaning": "share of the largest part", **shattered},
        {"name": "white-back", "threshold": 0.5, "meaning": "share of white pixels behind", **back},
    ]


def build_run(root: Path) -> Path:
    """results/, logs/, benchmarks/ and datasets/ below `root`, and plan.json."""
    cells = []
    (root / "mesh").mkdir()
    write_mesh(root / "mesh", *ball(), colour_of, max_faces=6000, texture_size=256, metadata={}, device="cpu")
    for number, example in enumerate(EXAMPLES):
        prepared = root / "results" / "toys" / example / "example"
        prepared.mkdir(parents=True)
        Image.fromarray(picture(number, 0)).save(prepared / "rgba.png")
        (prepared / "example.json").write_text(json.dumps({"prompt": f"a {example}", "settings": {"resolution": SIZE}}))
        truth = root / "datasets" / "toys" / example / "truth" / "ring"
        truth.mkdir(parents=True)
        Image.fromarray(picture(number, 2.6)).save(truth / "001.png")
        _measure(root, f"toys/{example}", "prepare", 2.0)
        for place, (method, stage, label) in enumerate(ROWS):
            own = f"toys/{example}/{method}/seed0/{stage}"
            folder = root / "results" / own
            (folder / "mesh").mkdir(parents=True)
            write_views(folder / "views", number + 0.4 * place)
            scores = [value("psnr", "reference", 30.0 - place), value("psnr-ring", "novel", 12.0 + 3 * place + number)]
            scores.append(value("lpips-mini", "novel", 0.9 - 0.3 * place))
            gaps = [{"metric": "chamfer", "reason": "this method makes no mesh"}]
            if method == "copy":
                (folder / "mesh" / "none.json").write_text('{"reason": "a picture has no surface"}')
            else:
                gaps, _ = [], scores.append(value("chamfer", "novel", 0.05 - 0.01 * place))
                shutil.copytree(root / "mesh", folder / "mesh", dirs_exist_ok=True)
            write_scores(
                folder / "scores.json",
                Scores.model_validate(
                    {"scheme": "scores/1", "values": scores, "gaps": gaps, "left_out": [], "flags": flags(place)}
                ),
            )
            lines = [f"{step},{1 / (step + 1)}," + (str(step) if step % 2 else "") for step in range(200)]
            (folder / "losses.csv").write_text("\n".join(["step,rgb,zero123_gradient", *lines]) + "\n")
            record = {"settings": {"scene": "nerf", "steps": 200, "init": "coarse" if stage == "fine" else None}, "seed": 0}
            (folder / "stage.json").write_text(json.dumps(record | {"example": example, "kernels": {"hash_grid": "numba"}}))
            (folder / "run.json").write_text(json.dumps({"seconds": 9.5, "peak_memory_mib": 700 + place, "machine": "a lathe"}))
            for step in ("reconstruct", "view", "score"):
                _measure(root, own, step, 10.0 * (place + 1))
                log = root / "logs" / own / f"{step}.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text("all well\n")
            cells.append({"dataset": "toys", "example": example, "method": method, "stage": stage, "seed": 0, "label": label,
                          "path": f"results/{own}"})  # fmt: skip
    (root / "plan.json").write_text(json.dumps({"cells": cells}))
    return root


def _measure(root: Path, own: str, step: str, seconds: float) -> None:
    file = root / "benchmarks" / own / f"{step}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"s": seconds, "max_rss": 512.5}) + "\n")


def report_words(**settings) -> list[str]:
    """The command's words, in the run's folder."""
    definition = {"title": "Small run", "columns": list(COLUMNS), **settings}
    truth = json.dumps({"toys": {name: f"datasets/toys/{name}/truth" for name in ("dog", "cone")}})
    return [
        "report",
        "--plan",
        "plan.json",
        "--settings",
        json.dumps(definition),
        "--truth",
        truth,
        "--out",
        "small-report.html",
    ]


def fail_cell(root: Path, reason: str, log: str) -> None:
    """Mark the fine stage of the dog as failed, as magic123.run.plan does after a run."""
    plan = json.loads((root / "plan.json").read_text())
    own = "toys/dog/both/seed0/fine"
    cell = next(cell for cell in plan["cells"] if cell["path"].endswith(own))
    cell["path"] = f"results/.failures/{own}"
    (root / f"logs/{own}/reconstruct.log").write_text(log)
    status = root / cell["path"] / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text(json.dumps({"status": "failed", "reason": reason, "log": f"logs/{own}/reconstruct.log"}))
    (root / "plan.json").write_text(json.dumps(plan))


def write_hostile(root: Path) -> None:
    """Put the text HOSTILE wherever a run lets text in; the working directory is the run's folder."""
    plan = json.loads(Path("plan.json").read_text())
    for cell in plan["cells"]:
        cell["label"] = HOSTILE if cell["method"] == "both" else cell["label"]
    Path("plan.json").write_text(json.dumps(plan))
    fail_cell(root, HOSTILE, f"{HOSTILE}\nerror: {HOSTILE}\n")
    for folder in Path("results/toys").iterdir():
        (folder / "example" / "example.json").write_text(json.dumps({"prompt": HOSTILE, "settings": {"resolution": HOSTILE}}))
        (folder / "copy/seed0/coarse/mesh/none.json").write_text(json.dumps({"reason": HOSTILE}))
        (folder / "copy/seed0/coarse/run.json").write_text(json.dumps({"machine": HOSTILE, "seconds": 1, HOSTILE: 2}))
        losses = folder / "both/seed0/coarse/losses.csv"
        losses.write_text(losses.read_text().replace("rgb", '"' + HOSTILE.replace('"', '""') + '"', 1))

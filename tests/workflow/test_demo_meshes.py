"""The demo's objects as a dataset of meshes: what the workflow renders of them is the demo's own truth.

NIGHTLY=1 python -m pytest -s tests/workflow/test_demo_meshes.py                  two objects
DEMO_OBJECTS=6 NIGHTLY=1 python -m pytest -s tests/workflow/test_demo_meshes.py   the first six
"""

import json
import os
import shutil
from pathlib import Path

import demo_meshes
import numpy as np
import pytest
import trimesh
from PIL import Image
from real_tree import real_tree, run, snakemake
from scipy.ndimage import binary_dilation
from workflow_tree import write_lines

from magic123.geometry.mesh import clean
from magic123.miniatures.demo import NUMBERS
from magic123.miniatures.objects import make_object
from magic123.records.cards import read_scores

NAMES = [make_object(number).name for number in NUMBERS[: int(os.environ.get("DEMO_OBJECTS", "2"))]]


def rgba(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGBA")) / 255


def on_white(picture: np.ndarray) -> np.ndarray:
    return picture[..., :3] * picture[..., 3:] + 1 - picture[..., 3:]


@pytest.mark.nightly
def test_the_demo_as_meshes_gives_its_own_truth_back(tmp_path: Path) -> None:
    tree = real_tree(tmp_path)
    for name in NAMES:
        demo_meshes.write(name, tree / f"datasets/toys/{name}.glb")
        (tree / "datasets/truths/toys").mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / f"datasets/demo/{name}/truth/mesh.ply", tree / f"datasets/truths/toys/{name}.ply")
    run(tree, "magic123", "dataset", "from-meshes", "datasets/toys", "--name", "toys", "--scale", "as-is")
    write_lines(
        tree / "config/theirs.yaml",
        "theirs:",
        "  label: the demo's true mesh",
        "  meshes: 'truths/{dataset}/{example}.ply'",
        "same:",
        "  label: the mesh that the dataset is made of",
        "  meshes: '{dataset}/{example}.glb'",
    )
    write_lines(
        tree / "config/run.yaml",
        "registries: {methods: [config/methods.yaml, config/theirs.yaml]}",
        "run: {datasets: [toys], examples: all, methods: [theirs, same], seeds: [0], tables: [demo]}",
        "view: {turntable_frames: 4}",
        "from_mesh: {size: 256}",
    )
    snakemake(tree, "run.yaml")
    for name in NAMES:
        made, demo = tree / "results/toys" / name, tree / "datasets/demo" / name
        noise, apart, overlaps, far, strays, covered = [], [], [], [], 0, 0
        for view in [Path("ring") / f"{i:03d}.png" for i in range(12)] + [Path("elevated") / f"{i:03d}.png" for i in range(12)]:
            ours, theirs = rgba(made / "object/truth" / view), rgba(demo / "truth" / view)
            inside, other = ours[..., 3] > 0.5, theirs[..., 3] > 0.5
            noise.append(-10 * np.log10(((on_white(ours) - on_white(theirs)) ** 2).mean()))
            apart.append(255 * np.abs(ours - theirs)[inside & other][:, :3].mean())
            overlaps.append((inside & other).sum() / (inside | other).sum())
            covered += other.sum()
            strays += (inside & ~binary_dilation(other)).sum() + (other & ~binary_dilation(inside)).sum()
            depth = [
                np.asarray(Image.open(folder / "depth" / view))
                / json.loads((folder / "cameras.json").read_text())["depth_scale"]
                for folder in (made / "object/truth", demo / "truth")
            ]
            far.append(np.median(np.abs(depth[0] - depth[1])[inside & other]))
        picture = -10 * np.log10(((on_white(rgba(made / "object/rgba.png")) - on_white(rgba(demo / "rgba.png"))) ** 2).mean())
        scores = {
            method: {
                (value.metric, value.view_set): value.value
                for value in read_scores(made / method / "seed0/meshes/scores.json").values
            }
            for method in ("theirs", "same")
        }
        theirs, same = scores["theirs"], scores["same"]
        print(
            f"{name}: novel views PSNR {np.mean(noise):.1f} dB (lowest {min(noise):.1f}), albedo {np.mean(apart):.2f}/255, "
            f"silhouettes overlap to {min(overlaps):.4f} with {strays} of {covered} pixels farther than one, "
            f"depth {max(far):.5f}; input picture {picture:.1f} dB; "
            f"the true mesh: Chamfer {theirs['chamfer', 'novel']:.5f}, F-score {theirs['f-score', 'novel']:.3f}, "
            f"volume IoU {theirs['volume-iou', 'novel']:.4f}; its own mesh: PSNR {same['psnr', 'novel']:.1f} dB"
        )
        # edges of the true mesh are round, and those of the pictures are not
        assert (
            np.mean(noise) > 28
            and min(noise) > 25
            and np.mean(apart) < 4
            and strays < 0.005 * covered
            and max(far) < 2e-3
            and picture > 25
        )
        assert theirs["chamfer", "novel"] < 0.004 and theirs["f-score", "novel"] == 1
        assert theirs["volume-iou", "novel"] > 0.99
        assert same["chamfer", "novel"] == 0 and same["psnr", "novel"] > 80
        surface = trimesh.load_mesh(made / "object/mesh.ply", process=False)
        truth = trimesh.load_mesh(demo / "truth/mesh.ply", process=False)
        # demo_meshes leaves out specks of a few faces, as every export does
        kept, _ = clean(np.asarray(truth.vertices), np.asarray(truth.faces))
        assert np.allclose(surface.bounds, [kept.min(0), kept.max(0)], atol=1e-5)
        assert len(surface.faces) > 0.99 * len(truth.faces)

"""Test views of one NeRF-synthetic object -> true novel views for the example made from one of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from eval.pictures.adopt import save_picture
from eval.pictures.nerf_synthetic import SET, check_file, read_frames, read_hashes, turned_camera, unroll
from eval.pictures.pictures import read_picture
from magic123.records.errors import InputError
from magic123.records.files import output_folder


def main(argv: list[str]) -> None:
    """Run `magic123 nerf-synthetic` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 nerf-synthetic", description=__doc__.splitlines()[0])
    parser.add_argument("--scene", type=Path, required=True, help="folder with transforms_test.json and test/")
    parser.add_argument(
        "--reference", default="test/r_0", help="the frame that is the example's picture (default: %(default)s)"
    )
    parser.add_argument("--hashes", type=Path, help="file with the SHA-256 of each SCENE/FILE, as sha256sum writes it")
    parser.add_argument("--every", type=int, default=8, help="take every n-th frame (default: %(default)s)")
    parser.add_argument("--polar", type=float, default=90.0, help="polar angle of the example's reference view, degrees")
    parser.add_argument("--radius", type=float, default=1.8, help="distance of its camera from the origin")
    parser.add_argument(
        "--fov", type=float, default=40.0, help="field of view that the example assumes, degrees (the data set's own is 39.6)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of true views to write")
    given = parser.parse_args(argv)
    if given.every < 1:
        raise InputError(f"--every is {given.every}; it must be 1 or more")
    hashes = read_hashes(given.hashes) if given.hashes else None

    def check(name: str) -> Path:
        key = f"{given.scene.name}/{name}"
        if hashes is not None and key not in hashes:
            raise InputError(f"{given.hashes} has no hash for {key}; name the scene's folder as the data set does")
        check_file(given.scene / name, hashes[key] if hashes is not None else None)
        return given.scene / name

    check("transforms_test.json")
    frames = read_frames(given.scene)
    poses = dict(frames)
    if given.reference not in poses:
        raise InputError(f"{given.scene}/transforms_test.json has no frame {given.reference}; name one such as {frames[0][0]}")
    cameras: list[dict[str, object]] = []
    with output_folder(given.out, "cameras.json") as part:
        for name, pose in [frame for frame in frames[:: given.every] if frame[0] != given.reference]:
            place, roll = turned_camera(pose, poses[given.reference], given.polar, given.radius)
            rgba = unroll(read_picture(check(f"{name}.png"), 4), roll)
            file = f"{SET}/{len(cameras):03d}.png"
            save_picture(part / file, rgba[..., [2, 1, 0, 3]])
            degrees = round(float(np.degrees(roll)), 4)
            cameras.append({"file": file, **place, "fov": given.fov, "frame": name, "roll": degrees})
        content = {"sets": {SET: cameras}, "reference": given.reference, "hashes": str(given.hashes) if given.hashes else None}
        (part / "cameras.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"{given.out}: {len(cameras)} true views")

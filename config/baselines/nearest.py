"""The training object that looks most like the picture, shown as it is: what retrieval alone scores.

Reference views of the objects that the miniatures are trained on are drawn from the example's camera and embedded by the
miniature CLIP, and the one whose embedding has the largest cosine with the picture's is taken; held-out objects are not among
them. Its exact views at the cameras of the run and its mesh are the result. It means nothing for pictures of anything but the
miniatures' toy objects, so it belongs to the demo alone.

It draws the project's own objects, so it runs in the project's environment. notes.json says which object it took, and how
similar it is.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eval.metrics.clip import ClipModel, load_clip
from eval.pictures.protocols import blend_on_white
from magic123.geometry.camera import Camera
from magic123.miniatures.demo import decimated_mesh
from magic123.miniatures.objects import ToyObject, make_object
from magic123.miniatures.picture import draw
from magic123.miniatures.pool import TRAINING_OBJECTS
from magic123.records.cameras import planned_poses

AT_ONCE = 512  # objects that are drawn before they are embedded
Pose = tuple[float, float, float, float]  # polar, azimuth, radius, fov


def seen(toy: ToyObject, pose: Pose, size: int, supersampling: int) -> np.ndarray:
    """Draw an object: RGBA [size, size, 4], uint8 with straight alpha."""
    camera = Camera.orbit(*pose, size).camera_to_world[0].numpy()
    return np.round(draw(toy, camera, pose[3], size, supersampling)[0] * 255).astype(np.uint8)


def most_similar(clip: ClipModel, picture: np.ndarray, pose: Pose, objects: int) -> tuple[int, float]:
    """Return the training object whose view is the most similar to a picture, and the cosine of their embeddings.

    Args:
        clip: the network.
        picture: RGBA [H, W, 4], uint8 with straight alpha.
        pose: where the picture was taken from.
        objects: how many training objects are looked at, from number 0 on.
    """
    goal = clip.encode([blend_on_white(picture, "straight")])[0]
    cosines = []
    for start in range(0, objects, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, objects))
        views = [blend_on_white(seen(make_object(number), pose, clip.size, 2), "straight") for number in numbers]
        cosines.append(clip.encode(views) @ goal)
    found = np.concatenate(cosines)
    return int(found.argmax()), float(found.max())


def main() -> None:
    """Find the object and write its views, its mesh and notes.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example", type=Path, required=True, help="folder of a prepared example")
    parser.add_argument("--cameras", type=Path, required=True, help="view sets, radius, fov and size as JSON")
    parser.add_argument("--clip", required=True, help="folder of the miniature CLIP")
    parser.add_argument("--objects", type=int, default=TRAINING_OBJECTS, help="training objects that are looked at")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    options = parser.parse_args()
    if not 1 <= options.objects <= TRAINING_OBJECTS:
        raise SystemExit(f"--objects is {options.objects}; the miniatures are trained on objects 0 to {TRAINING_OBJECTS - 1}")
    torch.set_num_threads(1)
    settings = json.loads(options.cameras.read_text())
    poses = planned_poses(settings, json.loads((options.example / "example.json").read_text())["camera"])
    picture = np.asarray(Image.open(options.example / "rgba.png").convert("RGBA"))
    number, cosine = most_similar(load_clip(options.clip), picture, poses["reference"][0], options.objects)
    toy = make_object(number)
    for name, of_set in poses.items():
        (options.out / name).mkdir(parents=True)
        for index, pose in enumerate(of_set):
            Image.fromarray(seen(toy, pose, settings["size"], 4)).save(options.out / name / f"{index:03d}.png")
    decimated_mesh(toy).export(options.out / "mesh.ply", vertex_normal=False)
    notes = {
        "nearest training object": number,
        "its name": toy.name,
        "cosine of CLIP embeddings": round(cosine, 4),
        "training objects looked at": options.objects,
    }
    (options.out / "notes.json").write_text(json.dumps(notes, indent=1) + "\n")
    print(notes)


if __name__ == "__main__":
    main()

"""Fuzz every reader of untrusted files with damaged and hostile files: only the project's own errors may be raised.

    python tests/fuzz.py --count 100000 [--seed 0] [--reader NAME ...]

Each input is a sound file, changed in a few places. A reader may accept it or refuse it with its one kind of error; what else
it raises, a file written anywhere but in the reader's own place, and more memory than LIMIT are findings; the exit status is
their number.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import trimesh
from PIL import Image
from safetensors.torch import save

from eval.pictures.meshes import load_mesh
from eval.pictures.pictures import read_picture as read_view
from magic123.example.companion import read_depth, read_mask
from magic123.example.example import load_example
from magic123.example.picture_file import read_picture
from magic123.example.token_file import load_token
from magic123.geometry.mesh_reader import read_parts
from magic123.optimise.resume import LoopCheckpoints
from magic123.records.cards import read_scores
from magic123.records.errors import InputError
from magic123.run.manifest import load_manifest
from magic123.scenes.checkpoint import RECORD, TENSORS, load_scene
from magic123.scenes.kinds import build_scene
from magic123.settings.method import load_methods
from magic123.settings.stage import stage_settings

LIMIT = 3 * 2**30  # bytes of address space beyond those in use at the start
SIDE = 12
STAGE = {"scene": "nerf", "steps": 0, "nerf": {"occupancy_resolution": 4, "max_samples": 8}}
STAGE["field"] = {"hidden": 4, "grid": {"levels": 2, "log2_entries": 4, "base_resolution": 2, "finest_resolution": 4}}
METHODS = """base: {label: B, stages: {coarse: {scene: nerf, steps: 5, losses: {rgb: 1}}}}
row:
  extends: base
  label: "a row"
  about: &words Some words.
  stages:
    coarse: {ladder: [{resolution: 64}], priors: {}}
    fine: {scene: dmtet, init: coarse, learning_rates: {grid: 1.0e-2}}
"""
MANIFEST = """name,prompt,init_word,image,mask,polar,truth
dog,"a red dog, sitting",dog,demo/dog/rgba.png,,90,demo/dog/truth
cup,a cup,,demo/cup.png,demo/mask.png,75.5,
"""


MTL = b"newmtl fur\nKd 0.5 0.2 1\nmap_Kd fur.png\nd 0.5\nnewmtl nose\nKd 1 0 0\n"
OBJ = b"""mtllib m.mtl
o dog
v 0 0 0
v 1 0 0
v 0 1 0
v 0 0 1
vt 0 0
usemtl fur
f 1/1 3/1 2/1
usemtl nose
f 1 2 4
f 1 4 3
f 2 3 4
f 1 2 4 3
"""
POLYGONS = b"""ply
format ascii 1.0
element vertex 5
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 2
property list uchar int vertex_indices
end_header
0 0 0 255 0 0
1 0 0 0 255 0
1 1 0 0 0 255
0 1 0 9 9 9
0 0 1 1 2 3
4 0 1 2 3
3 0 1 4
"""


@dataclass(frozen=True)
class Reader:
    """sound: the files of a sound input by name, of which `target` is changed; read: what reads them from a folder."""

    sound: dict[str, bytes]
    target: str
    read: Callable[[Path], object]
    error: type[Exception] = InputError


def png(mode: str, **how) -> bytes:
    shape = (SIDE, SIDE) if mode in ("L", "I;16") else (SIDE, SIDE, len(mode))
    values = np.random.default_rng(0).integers(0, 256, shape)
    image = Image.fromarray((values * 257).astype(np.uint16) if mode == "I;16" else values.astype(np.uint8))
    return encoded(image, "PNG", **how)


def encoded(image: Image.Image, kind: str, **how) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def resume_folder(folder: Path) -> None:
    """The unfinished work of folder/out under a name whose checksum fits: what is read then is the content itself."""
    import hashlib

    work = LoopCheckpoints(folder / "out", {}, [])
    content = (folder / "state").read_bytes()
    work.folder.mkdir()
    name = f"{work.identity}-{1:08d}-{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    (work.folder / name).write_bytes(content)
    with work:
        work.load()
    if not work.rows:
        raise InputError("it was set aside")


def read_packed(folder: Path) -> None:
    """A mesh in a zip archive, which is unpacked within the reader's own place."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        read_parts(folder / "m.zip")
    finally:
        tempfile.tempdir = before


def readers() -> dict[str, Reader]:
    picture = Image.open(io.BytesIO(png("RGBA")))
    exif = Image.Exif()
    exif[0x0112] = 6
    torch.manual_seed(0)
    stage = stage_settings(**STAGE)
    record = json.dumps({"settings": stage.model_dump(mode="json")}).encode()
    tensors = save({name: value.contiguous() for name, value in build_scene(stage).state_dict().items()})
    pickle, state = io.BytesIO(), {"rows": torch.frombuffer(bytearray(b'{"rows": [1], "starts": []}'), dtype=torch.uint8)}
    torch.save({"<dog>": torch.ones(8)}, pickle)
    word, array = save({"<dog>": torch.ones(8)}), io.BytesIO()
    np.save(array, np.ones((SIDE, SIDE), np.float32))
    card = dict.fromkeys(["model", "weights_sha256", "canary", "resolution", "alignment"]) | dict.fromkeys(
        ["full_name", "against", "range", "background", "device", "time"], "x"
    )
    card |= {"version": 1, "protocol": "corrected", "view_set": "novel", "sets": ["ring"], "n_views": 1, "seconds": 0.5}
    card |= {"libraries": {}, "kernels": {}}
    value = {
        "metric": "psnr",
        "protocol": "corrected",
        "view_set": "novel",
        "value": 1.5,
        "images": {"ring/0": 1.5},
        "card": card,
    }
    scores = {"scheme": "scores/1", "values": [value], "gaps": [], "left_out": []}
    example = {"name": "dog", "prompt": "a dog", "token": None, "depth_source": "dpt", "normal_source": "none"}
    example["camera"] = {"polar": 90, "azimuth": 0, "radius": 1.8, "fov": 40}
    folder = {"example.json": json.dumps(example).encode(), "rgba.png": png("RGBA"), "depth.png": png("I;16")}
    scene = {RECORD: record, TENSORS: tensors}

    tetrahedron = trimesh.Trimesh(np.concatenate([np.zeros((1, 3)), np.eye(3)]), [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    glb, ply = tetrahedron.export(file_type="glb"), tetrahedron.export(file_type="ply")
    dressed, coloured = tetrahedron.copy(), tetrahedron.copy()
    fur = trimesh.visual.material.PBRMaterial(baseColorTexture=picture, alphaMode="MASK", doubleSided=True)
    dressed.visual = trimesh.visual.TextureVisuals(uv=np.eye(4)[:, :2], material=fur)
    coloured.visual = trimesh.visual.ColorVisuals(vertex_colors=np.eye(4, dtype=np.uint8) * 200)
    obj = {"m.obj": OBJ, "m.mtl": MTL, "fur.png": png("RGB")}
    apart = {
        name.replace("model.gltf", "m.gltf"): data for name, data in trimesh.Scene(dressed).export(file_type="gltf").items()
    }
    header = json.loads(apart["m.gltf"])
    asked = header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    asked["extensions"] = {"KHR_texture_transform": {"offset": [0.1, 0], "scale": [2, 1], "rotation": 0.5, "texCoord": 0}}
    header |= {"extensionsUsed": ["KHR_texture_transform"]}
    apart["m.gltf"] = json.dumps(header).encode()
    binary = header["buffers"][header["bufferViews"][0]["buffer"]]["uri"]  # the first of them: trimesh writes several
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in obj.items():
            packed.writestr(f"meshes/{name}", data)

    def at(name: str, read: Callable, *more) -> Callable[[Path], object]:
        return lambda place: read(place / name, *more)

    return {
        "image (PNG)": Reader({"a.png": png("RGBA")}, "a.png", at("a.png", read_picture, 10**6)),
        "image (JPEG, EXIF)": Reader(
            {"a.jpg": encoded(picture.convert("RGB"), "JPEG", exif=exif)}, "a.jpg", at("a.jpg", read_picture, 10**6)
        ),
        "image (WebP)": Reader({"a.webp": encoded(picture, "WEBP")}, "a.webp", at("a.webp", read_picture, 10**6)),
        "mask": Reader({"a.png": png("L")}, "a.png", at("a.png", read_mask, 10**6)),
        "depth (.npy)": Reader({"a.npy": array.getvalue()}, "a.npy", at("a.npy", read_depth, 10**6)),
        "example (JSON)": Reader(folder, "example.json", load_example),
        "example (PNG)": Reader(folder, "rgba.png", load_example),
        "methods (YAML)": Reader({"m.yaml": METHODS.encode()}, "m.yaml", at("m.yaml", load_methods)),
        "dataset (CSV)": Reader({"d.csv": MANIFEST.encode()}, "d.csv", at("d.csv", load_manifest)),
        "token (.safetensors)": Reader({"t.safetensors": word}, "t.safetensors", at("t.safetensors", load_token)),
        "token (.bin)": Reader({"t.bin": pickle.getvalue()}, "t.bin", at("t.bin", load_token)),
        "checkpoint": Reader(scene, TENSORS, load_scene),
        "checkpoint's record": Reader(scene, RECORD, load_scene),
        "saved state": Reader({"state": save(state)}, "state", resume_folder),
        "scores": Reader({"s.json": json.dumps(scores).encode()}, "s.json", at("s.json", read_scores), InputError),
        "view (PNG)": Reader({"v.png": png("RGBA")}, "v.png", at("v.png", read_view, 3), InputError),
        "mesh (OBJ)": Reader({"m.obj": OBJ}, "m.obj", at("m.obj", load_mesh), InputError),
        "mesh (GLB)": Reader({"m.glb": glb}, "m.glb", at("m.glb", load_mesh), InputError),
        "textured (GLB)": Reader({"m.glb": dressed.export(file_type="glb")}, "m.glb", at("m.glb", read_parts)),
        "textured (OBJ)": Reader(obj, "m.obj", at("m.obj", read_parts)),
        "textured (MTL)": Reader(obj, "m.mtl", at("m.obj", read_parts)),
        "textured (PNG)": Reader(obj, "fur.png", at("m.obj", read_parts)),
        "textured (PLY)": Reader({"m.ply": coloured.export(file_type="ply")}, "m.ply", at("m.ply", read_parts)),
        "textured (glTF)": Reader(apart, "m.gltf", at("m.gltf", read_parts)),
        "textured (glTF's numbers)": Reader(apart, binary, at("m.gltf", read_parts)),
        "textured (ZIP)": Reader({"m.zip": archive.getvalue()}, "m.zip", read_packed),
        "textured (PLY, polygons)": Reader({"m.ply": POLYGONS}, "m.ply", at("m.ply", read_parts)),
        "mesh (PLY)": Reader({"m.ply": ply}, "m.ply", at("m.ply", load_mesh), InputError),
    }  # fmt: skip


WORDS = [
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b"{",
    b"]",
    b'"',
    b"&a",
    b"*a",
    b"!!python/object:os.system",
    b"\x00",
    b"../../x",
    b"\xff\xfe",
]
WORDS += [b"99999999999999999999", b"<<: *words", b"true", b"[]", b",,", b"\n", b"extends"]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """A few changes: bits, bytes, numbers, words, cuts, repetitions; seldom a deep nest.

    Checksums of PNG chunks are mended half of the time.
    """
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(8)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind == 2:
            data[place : place + 4] = struct.pack(chance.choice(("<I", ">I")), chance.choice((0, 2**31 - 1, 2**32 - 1, 65536)))
        elif kind == 3:
            data[place:place] = chance.choice(WORDS)
        elif kind == 4:
            data[place : place + chance.randrange(1, 9)] = chance.choice(WORDS)
        elif kind == 5:
            del data[place : place + chance.randrange(1, 40)]
        elif kind == 6:
            data[place:place] = data[place : place + chance.randrange(1, 64)] * chance.choice((1, 1, 50))
        else:
            del data[place:]
    if chance.random() < 0.005:  # deeper than a parser can follow
        place = chance.choice([index for index, byte in enumerate(data) if byte in b":[, "] or [0])
        data[place + 1 : place + 1] = chance.choice((b"[", b'{"a":', b"{a: ")) * 20_000
    if data.startswith(b"\x89PNG") and chance.random() < 0.5:
        mend_checksums(data)
    return bytes(data)


def mend_checksums(data: bytearray) -> None:
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


class Watch:
    """Files and folders that this process makes, changes, moves or links outside one folder (what Python itself reports)."""

    TARGETS = dict.fromkeys(["open", "os.mkdir", "os.truncate", "os.chmod", "os.remove", "os.rmdir"], slice(0, 1))
    TARGETS |= {"os.rename": slice(0, 2), "os.link": slice(1, 2), "os.symlink": slice(1, 2)}
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

    def __init__(self) -> None:
        self.allowed, self.outside = "", []
        sys.addaudithook(self.see)

    def see(self, event: str, words: tuple) -> None:
        if not self.allowed or event not in self.TARGETS:
            return
        if event == "open" and not (isinstance(words[2], int) and words[2] & self.WRITING):
            return
        if event in ("os.remove", "os.rmdir") and words[1] >= 0:
            return  # named relative to an open folder, as shutil.rmtree does
        for name in words[self.TARGETS[event]]:
            if isinstance(name, (str, bytes, os.PathLike)):
                path = os.path.realpath(os.fsdecode(name))
                if not path.startswith(self.allowed + os.sep) and path != "/dev/null":
                    self.outside.append(f"{event} {path}")


WATCH = Watch()


def attack(reader: Reader, count: int, chance: random.Random, folder: Path) -> tuple[Counter, list[tuple[str, bytes]]]:
    """How `count` changed inputs ended (accepted, refused, finding), and the findings with their inputs."""
    ends, findings = Counter(), []
    for _ in range(count):
        place = Path(tempfile.mkdtemp(dir=folder))
        content = mutate(reader.sound[reader.target], chance)
        for name, sound in reader.sound.items():
            (place / name).write_bytes(content if name == reader.target else sound)
        before = {file.name for file in place.iterdir()}
        problem = None
        WATCH.allowed, WATCH.outside = os.path.realpath(place), []
        try:
            reader.read(place)
            ends["accepted"] += 1
        except reader.error as error:
            ends["refused"] += 1
            if not str(error).strip():
                problem = "an error without words"
            elif " object at 0x" in str(error):
                problem = f"an address in place of a name: {str(error)[:200]}"
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:200]}"
        WATCH.allowed = ""
        if WATCH.outside:
            problem = f"wrote outside its folder: {WATCH.outside[:3]}"
        new = {file.name for file in place.iterdir()} - before - {".out.unfinished"}
        if new:
            problem = f"made {sorted(new)}"
        if problem is not None:
            ends["finding"] += 1
            findings.append((problem, content))
        for file in sorted(place.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        place.rmdir()
    return ends, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all, spread evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reader", nargs="+", default=[""], metavar="NAME", help="only those whose names start so: mesh textured"
    )
    given = parser.parse_args()
    chosen = {name: reader for name, reader in readers().items() if name.startswith(tuple(given.reader))}
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + LIMIT, in_use + LIMIT))
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115  what the readers say of damaged files
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, reader in chosen.items():
            began = time.perf_counter()
            count = given.count // len(chosen)
            ends, findings = attack(reader, count, random.Random(f"{given.seed} {name}"), Path(folder))
            total += len(findings)
            print(f"{name}: {count} inputs, {dict(ends)}, {time.perf_counter() - began:.0f} s", flush=True)
            for problem, inputs in Counter(problem for problem, _ in findings).most_common(8):
                print(f"    {inputs} x {problem}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{total} findings; peak memory {peak} MiB")
    return min(total, 100)


if __name__ == "__main__":
    sys.exit(main())

"""invert: learn a token for one example's object, so that prompts can name exactly this object.

Reads an example folder and a Stable Diffusion folder; writes learned_embeds.safetensors {token: [dim]}, token.json (settings,
where the embedding started, losses, and the comparison with the initial token and with the plain caption: the same bytes for
the same run) and run.json (time and memory).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from magic123.commands.reconstruct import read_speed
from magic123.optimise.loss_history import cost_of
from magic123.records.errors import InputError, NonFinite
from magic123.records.files import output_folder, write_json
from magic123.records.hashes import fingerprint, hash_files
from magic123.settings.inversion import InversionSettings
from magic123.settings.priors import Speed
from magic123.settings.settings_file import validate
from magic123.settings.versions import VERSIONS


def main(argv: list[str] | None = None) -> None:
    """The command line. Raises InputError for whatever the user can mend."""
    parser = argparse.ArgumentParser(prog="magic123 invert", description="Learn a token for one object (textual inversion).")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    parser.add_argument("--weights", type=Path, required=True, help="Stable Diffusion in diffusers' folder format")
    parser.add_argument("--settings", default="{}", help="InversionSettings as JSON, or a file of it")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--device", default=None, help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--save-steps", type=int, default=0, metavar="N", help="save what is unfinished every N steps")
    parser.add_argument("--save-seconds", type=float, default=60, metavar="S", help="and every S seconds (0: no); default 60")
    parser.add_argument("--speed", default="{}", help="Speed as JSON: how the networks are run; changes rounding alone")
    options = parser.parse_args(argv)
    invert(
        options.example,
        options.weights,
        read_settings(options.settings),
        options.seed,
        options.out,
        options.device,
        save_steps=options.save_steps,
        save_seconds=options.save_seconds,
        speed=read_speed(options.speed),
    )


def read_settings(text: str) -> InversionSettings:
    """Settings from JSON text or from a JSON file. Raises InputError."""
    where = "--settings" if text.lstrip().startswith("{") else text
    try:
        data = json.loads(text if where == "--settings" else Path(text).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: not readable as JSON ({error}); give a JSON object or a file of one.") from error
    return validate(InversionSettings, data, where)


def starting_word(settings: InversionSettings, example_json: dict, prompt: str) -> tuple[str, str]:
    """(word, where it comes from): the settings, else the example's init_word, else the last word of its prompt."""
    if settings.init_word:
        return settings.init_word, "settings"
    if example_json.get("init_word"):
        return example_json["init_word"], "example"
    words = [word.strip(",.;:!") for word in prompt.split()]
    if not words:
        raise InputError("there is no word to start the token from: set init_word, or give the example a prompt")
    return words[-1], "last word of the prompt"


def invert(
    example_folder: Path,
    weights: Path,
    settings: InversionSettings,
    seed: int,
    out: Path,
    device: str | None = None,
    *,
    save_steps: int = 0,
    save_seconds: float = 60.0,
    speed: Speed = Speed(),  # noqa: B008 - frozen
) -> dict:
    """Learn and write the token; returns the record in token.json. An earlier, unfinished run of the same is gone on with.

    Raises InputError, and Stopped by a signal.
    """
    started, began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    import torch

    from magic123.example.example import load_example
    from magic123.optimise.resume import Unfinished
    from magic123.optimise.textual_inversion import TextToImage, learn_token
    from magic123.priors.sds import NonFiniteGradient
    from magic123.priors.speed import apply_speed
    from magic123.priors.tokens import save_token

    example = load_example(example_folder)
    described = json.loads((example_folder / "example.json").read_text())
    word, origin = starting_word(settings, described, example.prompt)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    say(f"invert: {example.name}, the token {settings.token} starts from {word!r} ({origin}); device {device}")
    model = TextToImage.load(weights, settings.dtype, device)
    applied = apply_speed([model], speed, device)
    about = {
        "token": settings.token,
        "example": example.name,
        "weights": str(weights),
        "weights_sha256": fingerprint(weights),
        "settings": settings.model_dump(),
        "seed": seed,
        "device": device,
        "threads": torch.get_num_threads(),
        "speed": applied,
        "versions": versions(),
    }
    losses: list[float] = []
    identity = {"code": VERSIONS["invert"], "example": hash_files(example_folder), "word": word, **about}
    with Unfinished(out, identity, losses, steps=save_steps, seconds=save_seconds) as unfinished:
        try:
            embedding, record = learn_token(
                model,
                example.rgb,
                caption=example.prompt,
                init_word=word,
                settings=settings,
                seed=seed,
                progress=say,
                unfinished=unfinished,
            )
        except NonFiniteGradient as error:
            raise NonFinite(f"{error}: set its dtype to float32, or lower its learning_rate") from error
        record["init"]["from"] = origin
        if len(record["init"]["ids"]) > 1:
            say(f"invert: {word!r} is {len(record['init']['ids'])} tokens here: the start is the mean of their embeddings")
        evaluation = record["evaluation"]
        say(
            f"invert: denoising loss {evaluation['learned']:.5f} with the token, {evaluation['initial']:.5f} with its start, "
            f"{evaluation['caption']:.5f} with the caption"
        )
        record = {**about, **record}
        with output_folder(out, "token.json") as folder:
            save_token(folder, settings.token, embedding)
            (folder / "token.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
            write_json(folder / "run.json", cost_of(unfinished.starts, started, began))
        unfinished.finish()
    return record


def versions() -> dict[str, str]:
    """Of the libraries that decide the result."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

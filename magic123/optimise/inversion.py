"""Learn a token for one example's object, from its input files to its output files.

Written: learned_embeds.safetensors {token: [dim]}, token.json (settings, the initial word, losses, and the comparison with the
initial token and with the plain caption; the same run gives the same bytes) and run.json (time and memory).
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path

import torch

from magic123.example.example import Example, load_example
from magic123.example.token_file import save_token
from magic123.optimise.loss_history import cost_of
from magic123.optimise.resume import LoopCheckpoints
from magic123.optimise.textual_inversion import TextToImage, learn_token
from magic123.priors.sds import NonFiniteGradient
from magic123.priors.speed import apply_speed, compile_problems
from magic123.records.devices import present_device
from magic123.records.errors import InputError, NonFinite
from magic123.records.files import output_folder, write_json
from magic123.records.hashes import fingerprint, hash_files
from magic123.records.terminal import say
from magic123.settings.inversion import InversionSettings, initial_word
from magic123.settings.priors import Speed
from magic123.settings.versions import VERSIONS


def starting_word(settings: InversionSettings, example: Example) -> tuple[str, str]:
    """Return the word that the token starts from, and its origin.

    It is the word of the settings, else the example's init_word, else the last word of its prompt.

    Raises:
        InputError: none of them has a word.
    """
    if settings.init_word:
        return settings.init_word, "settings"
    word = initial_word(example.init_word, example.prompt)
    if not word:
        raise InputError("there is no word to start the token from: set init_word, or give the example a prompt")
    return word, "example" if example.init_word else "last word of the prompt"


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
    """Learn a token for an example's object and write it. An unfinished run of the same settings and inputs is resumed.

    Args:
        example_folder: the example, which has a picture.
        weights: Stable Diffusion in diffusers' folder format.
        settings: settings of the optimisation.
        seed: seed of all random numbers.
        out: the folder to write.
        device: None: cuda if there is one, else the CPU.
        save_steps: steps between saves of the unfinished state; 0: none.
        save_seconds: seconds between such saves; 0: none.
        speed: settings for running the network.

    Returns:
        The content of token.json.

    Raises:
        InputError: the inputs do not fit, or (NonFinite) the gradients are not finite.
        Stopped: a signal asked to stop, and the progress is saved.
    """
    started, began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    example = load_example(example_folder)
    if example.rgb is None:
        raise InputError(f"the example {example.name} has only a caption, but a token is learned from a picture")
    word, origin = starting_word(settings, example)
    device = present_device(device)
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
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    losses: list[float] = []
    identity = {"code": VERSIONS["invert"], "example": hash_files(example_folder), "word": word, **about}
    with LoopCheckpoints(out, identity, losses, steps=save_steps, seconds=save_seconds, began=began) as unfinished:
        try:
            embedding, record = learn_token(
                model,
                example.rgb,
                caption=example.prompt,
                init_word=word,
                settings=settings,
                seed=seed,
                progress=say,
                checkpoints=unfinished,
            )
        except NonFiniteGradient as error:
            raise NonFinite(f"{error}: set its dtype to float32, or lower its learning_rate") from error
        record["init"]["from"] = origin
        if len(record["init"]["ids"]) > 1:
            say(f"invert: {word!r} is {len(record['init']['ids'])} tokens here, so the start is the mean of their embeddings")
        evaluation = record["evaluation"]
        say(
            f"invert: denoising loss {evaluation['learned']:.5f} with the token, {evaluation['initial']:.5f} with its start, "
            f"{evaluation['caption']:.5f} with the caption"
        )
        record = {**about, **record}
        if problems := compile_problems([model]):
            record["speed"] = applied | {"compile_problems": problems}
        with output_folder(out, "token.json") as folder:
            save_token(folder, settings.token, embedding)
            (folder / "token.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
            write_json(folder / "run.json", cost_of(unfinished.starts, started, began))
        unfinished.finish()
    return record

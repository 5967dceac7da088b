"""The tokenizer of the miniatures: CLIP's byte-level BPE with a vocabulary of the few words of captions and prompts."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

from magic123.miniatures.families import FAMILIES
from magic123.miniatures.shapes import COLOURS

CONTEXT = 24  # number of tokens, including start and end
WORDS = [
    "a",
    "an",
    "the",
    "of",
    "with",
    "and",
    "on",
    "in",
    "parts",
    "part",
    "photo",
    "picture",
    "image",
    "rendering",
    "render",
    "high",
    "resolution",
    "-",
    ",",
    ".",
    "dslr",
    "good",
    "bad",
    "bright",
    "dark",
    "clean",
    "cropped",
    "close",
    "up",
    "small",
    "large",
    "nice",
    "cool",
    "weird",
    "toy",
    "object",
    "front",
    "side",
    "back",
    "view",
    "white",
    "background",
    "this",
    "my",
    "one",
]


def byte_alphabet() -> list[str]:
    """Return the 256 printable characters that represent bytes in byte-level BPE, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(b) for b in printable]
    return characters + [chr(256 + i) for i in range(256 - len(printable))]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Return the merges of byte-pair encoding, continued until every word is a single token.

    The most frequent pair is merged first; if several are equally frequent, the one that appears first.
    """
    pieces, merges = [[*word[:-1], word[-1] + "</w>"] for word in words], []
    while any(len(p) > 1 for p in pieces):
        pairs = Counter(pair for p in pieces for pair in itertools.pairwise(p))
        best = max(pairs, key=pairs.__getitem__)
        merges.append(best)
        for k, p in enumerate(pieces):
            merged, i = [], 0
            while i < len(p):
                joined = tuple(p[i : i + 2]) == best
                merged.append("".join(best) if joined else p[i])
                i += 2 if joined else 1
            pieces[k] = merged
    return merges


def write_tokenizer(folder: Path):
    """Write a CLIPTokenizer for which every word of the vocabulary is a single token, and return it."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = byte_alphabet()
    merges = learn_merges([*dict.fromkeys([*WORDS, *FAMILIES, *COLOURS])])
    vocabulary = alphabet + [c + "</w>" for c in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return tokenizer


def encode(tokenizer, texts: list[str]):
    """Return the token ids of texts [B, CONTEXT], padded and truncated."""
    return tokenizer(texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids

"""CLIP for scores: loaded without libraries that take longer to import than a cell to score; the tokens are the same."""

import subprocess
import sys

from repository_paths import REPOSITORY

MINIATURE = REPOSITORY / "weights" / "miniature" / "clip"


def test_scores_of_pictures_and_captions_import_no_library_without_need():
    program = (
        "import sys, numpy as np; from eval.metrics.clip import load_clip\n"
        f"clip = load_clip({str(MINIATURE)!r}); clip.encode([np.zeros((32, 32, 3))]); clip.encode_captions(['a red dog'])\n"
        "print({'transformers', 'timm', 'torch._dynamo'} & set(sys.modules))\n"
        "from torchvision.ops.roi_align import is_compile_supported; print(is_compile_supported('cpu'))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["set()", "True"], run.stderr


def test_tokens_are_those_of_transformers():
    from transformers import AutoTokenizer

    from eval.metrics.clip import load_clip

    captions = ["a yellow dog with pink parts", "", "A  Yellow\n dog! " * 2, "日本 é 🙂 dog's"]
    clip = load_clip(str(MINIATURE), prove=False)
    length = clip.model.context_length
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "tokenizer", local_files_only=True)
    expected = tokenizer(captions, padding="max_length", max_length=length).input_ids
    assert clip._tokens(captions).tolist() == expected

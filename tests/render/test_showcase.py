"""Turntable videos of results."""

import numpy as np
import pytest
from limited_files import files_of_at_most

from magic123.records.errors import InputError
from magic123.render.showcase import Frame, is_complete_video, write_video


def test_an_incomplete_video_is_refused(tmp_path):
    """The encoder does not report an error."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3), dtype=np.uint8)
    frames = [Frame(float(number), picture, picture) for number, picture in enumerate(noise)]
    file = tmp_path / "film.mp4"
    write_video(file, frames)
    content = file.read_bytes()
    assert len(content) > 100_000 and is_complete_video(file)
    file.write_bytes(content[:-1])
    assert not is_complete_video(file) and not is_complete_video(tmp_path / "none.mp4")
    with files_of_at_most(50_000), pytest.raises(InputError, match="could not be written to its end; make room"):
        write_video(file, frames)

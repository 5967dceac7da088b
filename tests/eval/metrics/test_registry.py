"""METRICS and NETWORKS agree with themselves, with the protocols and with the kinds of weights that settings may name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.metrics.models import Models
from eval.metrics.registry import (
    METRICS,
    NETWORKS,
    describe,
    explained_by,
    family,
    name_with,
    rows,
    trunk_and_file,
    weights_kinds,
)
from eval.metrics.score import score_views
from eval.pictures.pictures import View
from eval.pictures.protocols import CORRECTED, PROTOCOLS
from magic123.records.errors import InputError
from magic123.settings.registry import METRIC_KINDS

REPOSITORY = Path(__file__).resolve().parents[3]


def test_settings_name_the_weights_that_can_be_loaded():
    assert weights_kinds() == set(METRIC_KINDS)


@pytest.mark.parametrize("name", METRICS)
def test_a_row_is_a_function_or_a_network(name):
    row = METRICS[name]
    assert (row.compute is None) != (row.network is None)
    assert row.network is None or row.network in {network.family for network in NETWORKS.values()}
    assert row.network == "clip" or row.range is not None  # each CLIP scales pictures in its own way
    # the defaults of the card are those of pictures
    assert (row.needs == "true mesh") == (row.range == "world units") == ("trimesh" in row.libraries)
    assert set(row.protocols) <= set(PROTOCOLS)
    assert all(family(other) in METRICS for other in row.gaps.values())
    assert family(name) == name and describe(f"{name}-ring").label == f"{row.label} ring"


def test_rows_are_found_by_what_they_need():
    image, mesh = ["psnr", "psnr-mask", "ssim", "lpips"], ["chamfer", "f-score", "volume-iou"]
    assert [name for name in rows("truth") if name in image] == image and not set(rows("truth")) & set(mesh)
    assert list(rows("truth", "as-published")) == ["psnr", "lpips"]
    assert [name for name in rows("true mesh") if name in mesh] == mesh and not set(rows("true mesh")) & set(image)


def test_gaps_are_explained_by_the_network_behind_a_metric():
    assert explained_by("r-precision-B-32") == explained_by("consistency-clip-mini") == "clip"
    assert explained_by("consistency-lpips-alex") == "lpips"
    assert explained_by("contextual-mini") == "lpips-mini"
    assert explained_by("contextual-vgg19") == "contextual-vgg19"
    assert explained_by("psnr") == "psnr"


def test_names_of_metrics_by_a_network():
    class Network:
        name = "clip-bigG-14"

    assert name_with("clip", Network) == "clip-bigG-14"
    assert name_with("clip-text", Network) == "clip-text-bigG-14"
    assert name_with("consistency-clip", Network) == "consistency-clip-bigG-14"


@pytest.mark.parametrize("option", [option for option, network in NETWORKS.items() if network.trunks])
def test_a_trunk_is_one_of_those_that_the_row_names(option):
    first = NETWORKS[option].trunks[0]
    assert trunk_and_file(option, f"{first}=folder/a=b.pth") == (first, Path("folder/a=b.pth"))
    for wrong in ("folder/a.pth", "resnet=folder/a.pth"):
        with pytest.raises(InputError, match=f"^--{option} must be {first}=FILE.*, got '{wrong}'"):
            NETWORKS[option].load(wrong, "cpu", False)


def test_lpips_can_be_loaded_with_every_trunk_of_its_option():
    from eval.metrics.perceptual import TRUNKS

    assert NETWORKS["lpips"].trunks == tuple(TRUNKS)


def test_a_cards_full_name_ends_in_one_version():
    picture = np.full((16, 16, 3), 100, np.uint8)
    truth = np.full((16, 16, 4), 255, np.uint8)
    values = score_views(CORRECTED, [View("ring", "000", picture, truth)], None, Models())
    assert "psnr.16px.white.corrected.v1" in {value.card.full_name for value in values}


@pytest.mark.parametrize("module", ["eval.tables.build", "eval.tables.layout", "eval.commands.table", "eval.metrics.registry"])
def test_tables_start_without_heavy_libraries(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'pandas', 'skimage', 'trimesh', 'scipy') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"

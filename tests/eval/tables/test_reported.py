"""Published numbers beside ours."""

from dataclasses import replace

import pytest
from result_tables import REPORTED

from eval.metrics.registry import family
from eval.pictures.protocols import PROTOCOLS
from eval.tables.reported import FIELDS, is_comparable, read_reported
from magic123.records.errors import InputError


def test_reported_numbers_are_whole_and_sourced():
    found = {(r.table, r.dataset, r.method, r.metric): r for r in read_reported(REPORTED)}
    for key, printed, confidence in (
        (("Table 1", "nerf4", "Magic123", "psnr"), "24.62", "T"),
        (("Table 1", "realfusion15", "Magic123", "psnr"), "19.50", "T"),
        (("Table 1", "realfusion15", "Magic123", "clip-bigG-14"), "0.82", "T"),
        (("Table 1", "realfusion15", "RealFusion", "psnr"), "18.87", "D"),  # permuted in the text
        (("Table 1", "realfusion15", "3DFuse", "psnr"), "6.28", "D"),
        (("Table 2", "nerf4", "Magic123, 2D prior only, weight 2", "clip-bigG-14"), "0.72", "T"),
    ):
        assert (found[key].printed, found[key].confidence) == (printed, confidence)
    assert sum(key[0] == "Table 1" for key in found) == 42 and sum(key[0] == "Table 2" for key in found) == 24
    for one in found.values():
        if one.protocol == "as-published":  # these can stand in our columns, so their metrics are ours
            family(one.metric)
            assert one.paper == "Magic123 (arXiv v2)"
        if one.paper.startswith("Consistent123"):
            assert one.confidence == "M" and "do not cite" in one.note


def test_only_the_same_views_and_protocol_are_comparable():
    one = next(r for r in read_reported(REPORTED) if r.metric == "psnr" and r.protocol == "as-published")
    assert is_comparable(one, "psnr", "reference", "as-published")
    assert not is_comparable(one, "psnr", "novel", "as-published")
    assert not is_comparable(one, "psnr", "reference", "corrected")
    assert not is_comparable(replace(one, protocol="corrected"), "psnr", "reference", "corrected")  # ours alone
    other = next(r for r in read_reported(REPORTED) if r.protocol == "repaint123")
    assert not any(is_comparable(other, other.metric, views, p) for views in ("all", "reference") for p in PROTOCOLS)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("p,t,d,m,psnr,as-published,high,T,n", "not a number"),
        ("p,t,d,m,psnr,as-published,nan,T,n", "finite"),
        ("p,t,d,m,psnr,as-published,1.0,X,n", "confidence"),
        ("p,t,d,m,psnr,as-published,1.0,T,n,extra", "confidence"),
        ("p,t,d,m,psnr,as-published,1.0,T,n\np,t,d,m,psnr,as-published,2.0,T,n", "twice"),
    ],
)
def test_bad_reported_lines_are_refused(tmp_path, line, sentence):
    (tmp_path / "r.csv").write_text(",".join(FIELDS) + "\n" + line + "\n")
    with pytest.raises(InputError, match=sentence):
        read_reported(tmp_path / "r.csv")

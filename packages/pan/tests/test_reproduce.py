import json
from pathlib import Path

import numpy as np
import pytest
from lowvis_pan import PACKAGE
from lowvis_pan.reproduce import MEASURERS
from lowvis_shared.assets import find_asset
from lowvis_shared.images import Picture, write_image
from lowvis_shared.reproduce import Context, Result, load_paper, run_paper
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_shared.testing.pictures import photo

PAPER = load_paper(PACKAGE.paper_toml)


def run(only: str, **context: object) -> Result:
    return run_paper(PAPER, MEASURERS, Context(device="cpu", offline=True, **context), only=only)


@pytest.mark.parametrize("only", ["x?/parameters", "x?/multi-adds", "aim2020/*"])
def test_the_papers_counts_are_met(only: str) -> None:
    result = run(only)
    assert result.rows
    assert all(row.mark == "✓" for row in result.rows), [row.cells() for row in result.rows]


def test_the_ablations_counts_are_reported_beside_no_value_of_ours() -> None:
    result = run("ablation/*")
    figures = {row.row.id: row.measurement.value for row in result.rows if row.measurement}
    assert len(figures) == len(result.rows) == 16
    assert {row.mark for row in result.rows} == {"•"}
    # Spatial attention takes one map, pixel attention one for each channel.
    for count in ("parameters", "multi-adds"):
        spatial, pixel, none = (
            figures[f"ablation/scpa-{kind}-upa-{kind}/{count}"]
            for kind in ("spatial", "pixel", "none")
        )
        assert none < spatial < pixel


def test_official_weights_are_within_tolerance_on_set5() -> None:
    asset_path("pan/x4/official")
    result = run("x4/set5/[ps]s[ni][rm]")
    assert [row.mark for row in result.rows] == ["✓", "✓"]
    assert all(len(row.measurement.per_item) == 5 for row in result.rows if row.measurement)
    assert all(
        "pan/x4/official" in row.measurement.assets for row in result.rows if row.measurement
    )


def test_sets_of_the_user_run_when_they_are_there(tmp_path: Path) -> None:
    asset_path("pan/x4/official")
    missing = run("x4/b100/*", data_dir=tmp_path)
    assert [row.mark for row in missing.rows] == ["○", "○"]
    assert "B100" in missing.rows[0].reason
    write_image(Picture(photo(64, 64)), tmp_path / "BSD100/HR/1.png")
    there = run("x4/b100/*", data_dir=tmp_path)
    assert [row.mark for row in there.rows] == ["✗", "✗"]  # one picture is not the set


def test_a_set_that_is_here_and_wrong_is_an_error_and_no_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset_path("pan/x2/official")
    path = tmp_path / "Urban100/image_SRF_2/img_001_SRF_2_HR.png"
    write_image(Picture(photo(24, 512)), path)
    half = run("x2/urban100/psnr", data_dir=tmp_path)
    assert [row.mark for row in half.rows] == ["✗"]
    assert "half size" in half.rows[0].reason

    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path))
    assert [row.mark for row in run("x2/set5/psnr").rows] == ["○"]
    damaged = tmp_path / find_asset("set5/HR/woman.png").path  # the others are absent
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    result = run("x2/set5/psnr")
    assert [row.mark for row in result.rows] == ["✗"]
    assert str(damaged) in result.rows[0].reason


def test_rows_are_not_run_where_weights_may_not_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    write_image(Picture(photo(64, 64)), tmp_path / "B100/HR/1.png")
    result = run("x3/b100/psnr", data_dir=tmp_path)
    assert [row.mark for row in result.rows] == ["○"]
    assert "pan/x3/official" in result.rows[0].reason


def test_the_papers_column_holds_the_authors_logs() -> None:
    logs = json.loads(mirror_path("golden/pan/official_logs.json").read_text())["results"]
    rows = {row.id: row for row in PAPER.rows}
    compared = 0
    for scale in (2, 3, 4):
        for name, log in logs[f"x{scale}"].items():
            for metric in ("psnr", "ssim"):
                row = rows[f"x{scale}/{name.lower()}/{metric}"]
                assert row.value == log[f"{metric}_y"]
                column = 3 if metric == "psnr" else 4
                mean = np.mean([picture[column] for picture in log["per_image"]])
                assert row.value == pytest.approx(mean, abs=1e-6)
                compared += 1
    assert compared == 30

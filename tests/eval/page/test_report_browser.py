"""The report page in a browser, from disk: it works with a keyboard, on a phone and in dark mode, and loads nothing else."""

import io
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browser import PATIENCE, Witness, chromium
from PIL import Image
from small_run import COLUMNS, HOSTILE, build_run, fail_cell, report_words, write_hostile

from eval.__main__ import main
from magic123.geometry.export import write_points


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_run(tmp_path_factory.mktemp("browsed"))
    for example in ("dog", "cup"):
        folder = root / f"results/toys/{example}/both/seed0/coarse/progress"
        folder.mkdir()
        for steps in (20, 100):
            Image.new("RGB", (640, 284), (90, 120, 150)).save(folder / f"{steps:06d}.png")
    return root


def page_in(root: Path, **settings) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(report_words(**settings)) == 0
    return root / "small-report.html"


@pytest.fixture(scope="module")
def page(finished: Path) -> Path:
    return page_in(finished)


def pixels(locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def contrast(page, selector: str) -> float:
    """Contrast of an element's text against what lies behind it, by the formula of WCAG 2."""
    text, ground = page.evaluate(
        """selector => {
            const element = document.querySelector(selector);
            let behind = element;
            const clear = (one) => getComputedStyle(one).backgroundColor === "rgba(0, 0, 0, 0)";
            while (clear(behind) && behind.parentElement) behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }""",
        selector,
    )

    def luminance(colour: str) -> float:
        parts = np.array([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]) / 255
        return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(text), luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def until(page, expression: str) -> None:
    """Wait until it holds. Playwright's own way evaluates text inside the page, which the page's policy forbids."""
    for _ in range(20 * PATIENCE):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"still not so after {PATIENCE} s: {expression}")


def load_closer(page) -> None:
    page.locator("#closer").scroll_into_view_if_needed()
    until(page, "document.querySelector('#mesh').dataset.shown")


def test_everything_loads_from_the_file_alone(browser, page) -> None:
    assert page.stat().st_size < 20e6
    with Witness(browser, page) as seen:
        load_closer(seen.page)
        for row in ("copy/coarse", "both/coarse", "both/fine"):
            seen.page.select_option("#closer-row", row)
        until(seen.page, "document.querySelector('#film').readyState >= 2")
        assert seen.page.evaluate("[...document.images].every(one => !one.src || (one.complete && one.naturalWidth > 0))")
        film = "(async () => { const film = document.querySelector('#film'); await film.play(); return film.videoWidth; })()"
        assert seen.page.evaluate(film) == 96  # colour and normals, 48 pixels each
        until(seen.page, "document.querySelector('#film').currentTime > 0.05")
        assert seen.page.locator("#charts path").count() == 2
        assert "from 0.611 at step 0" in seen.page.locator("#charts svg").first.get_attribute("aria-label")
        assert not seen.complaints and not seen.requests


def test_progress_is_shown_where_a_stage_has_pictures_of_it(browser, page) -> None:
    with Witness(browser, page) as seen:
        load_closer(seen.page)
        seen.page.select_option("#closer-row", "both/coarse")
        until(seen.page, "document.querySelector('#progress img')?.naturalWidth === 640")
        assert seen.page.locator("#progress figcaption").all_text_contents() == ["after 20 steps", "after 100 steps"]
        seen.page.select_option("#closer-row", "copy/coarse")
        assert seen.page.locator("#progress-part").is_hidden() and not seen.complaints


def test_the_policy_refuses_what_is_not_the_pages_own(browser, page) -> None:
    """A request is attempted and refused, and the test would notice if it were not."""
    with Witness(browser, page) as seen:
        seen.page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://example.org/a.png'}))")
        seen.page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.harm = 1'}))"
        )
        for _ in range(20 * PATIENCE):
            if len(seen.complaints) >= 2:
                break
            seen.page.wait_for_timeout(50)
        assert len(seen.complaints) == 2 and all("Content Security Policy" in text for text in seen.complaints)
        assert seen.page.evaluate("window.harm === undefined")


def test_tables_sort_by_keyboard_and_say_so(browser, page) -> None:
    with Witness(browser, page) as seen:
        names = seen.page.locator(".results tbody th")
        first = names.all_text_contents()
        assert first == ["a copy", "both priors (coarse)", "both priors (fine)"]
        head = seen.page.locator(".results thead tr:last-child th", has_text="PSNR ring")
        seen.page.locator(".results thead button").nth(1).focus()
        seen.page.keyboard.press("Tab")
        for order, expected in (("descending", first[::-1]), ("ascending", first), ("none", first)):
            seen.page.keyboard.press("Enter")
            assert head.get_attribute("aria-sort") == order and names.all_text_contents() == expected
            said = seen.page.locator("#announce").text_content()
            assert "first order" in said if order == "none" else order in said and "PSNR ring" in said
        # a lower distance is better; what has none comes last in either order
        distance = seen.page.locator(".results thead button", has_text="Chamfer")
        for expected in (first[::-1], [*first[1:], first[0]]):
            distance.press("Space")
            assert names.all_text_contents() == expected
        costs = seen.page.locator("#costs tbody tr")
        seen.page.locator("#costs thead button", has_text="Total").click()
        totals = [float(row.locator("td").nth(4).get_attribute("data-sort")) for row in costs.all()]
        assert totals == sorted(totals) and len(set(totals)) > 1


def test_the_mesh_turns(browser, page) -> None:
    with Witness(browser, page) as seen:
        load_closer(seen.page)
        canvas = seen.page.locator("#mesh")
        canvas.scroll_into_view_if_needed()
        start = pixels(canvas)
        assert start.std() > 15  # something is drawn
        canvas.focus()
        views = [pixels(canvas)]
        for key in ("ArrowRight", "ArrowUp", "+"):
            seen.page.keyboard.press(key)
            views.append(pixels(canvas))
        box = canvas.bounding_box()
        seen.page.mouse.move(box["x"] + 60, box["y"] + 60)
        seen.page.mouse.down()
        seen.page.mouse.move(box["x"] + 160, box["y"] + 80, steps=4)
        seen.page.mouse.up()
        views.append(pixels(canvas))
        seen.page.locator("#mesh-surface").press("Enter")
        views.append(pixels(canvas))
        for before, after in pairwise(views):
            assert np.abs(before - after).mean() > 1
        assert np.ptp(views[-1], axis=-1).max() < np.ptp(views[-2], axis=-1).max() / 3  # the bare surface is grey
        seen.page.locator("#mesh-surface").press("Enter")
        canvas.press("Home")
        assert np.abs(pixels(canvas) - views[0]).mean() < 0.5
        with seen.page.expect_download() as download:
            seen.page.locator("#mesh-save").click()
        saved = Path(download.value.path()).read_bytes()
        assert saved[:4] == b"glTF" and download.value.suggested_filename == "dog-both-priors-fine.glb"


def test_a_point_cloud_turns_in_its_own_colours(browser, finished, tmp_path) -> None:
    """Half of the cloud is of one colour and half of another, and both are shown as stored."""
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    points = np.random.default_rng(0).normal(size=(20_000, 3))
    points /= 2 * np.linalg.norm(points, axis=1, keepdims=True)
    colours = np.where(points[:, 1:2] > 0, (200, 60, 40), (40, 90, 160)) / 255
    folder = root / "results/toys/dog/copy/seed0/coarse/mesh"
    write_points(folder / "points.ply", points.astype(np.float32), colours.astype(np.float32))
    with Witness(browser, page_in(root)) as seen:
        load_closer(seen.page)
        seen.page.select_option("#closer-row", "copy/coarse")
        canvas = seen.page.locator("#mesh")
        until(seen.page, "document.querySelector('#mesh').getAttribute('aria-label') === 'Point cloud of dog, a copy'")
        start = pixels(canvas)
        for colour in ((200, 60, 40), (40, 90, 160)):
            assert (np.abs(start - colour).max(-1) <= 3).mean() > 0.05, colour
        assert not seen.page.locator("#mesh-surface").is_visible() and not seen.complaints
        canvas.focus()
        seen.page.keyboard.press("ArrowUp")
        assert np.abs(pixels(canvas) - start).mean() > 1
        seen.page.select_option("#closer-row", "both/fine")  # a mesh again
        until(seen.page, "document.querySelector('#mesh').getAttribute('aria-label').startsWith('Mesh of')")
        assert seen.page.locator("#mesh-surface").is_visible()


def test_the_columns_that_fit_come_first_and_the_others_on_demand(browser, finished) -> None:
    many = [
        *COLUMNS,
        *(f"{column}-{model}" for model in ("B-32", "L-14", "H-14", "bigG-14") for column in ("clip", "r-precision")),
    ]
    page = page_in(finished, columns=[*many, "ssim", "f-score"], baseline=["copy", "coarse"])
    with Witness(browser, page) as seen:
        for table in (".results table", "#differences"):
            shown = f"[...document.querySelectorAll('{table} thead tr:last-child th')].map(one => one.offsetWidth > 0)"
            box = f"(one => one.scrollWidth - one.clientWidth)(document.querySelector('{table}').parentElement)"
            first = seen.page.evaluate(shown)
            kept = sum(first)
            assert 5 <= kept < len(first) == 15 and first == [True] * kept + [False] * (15 - kept)
            assert seen.page.evaluate(box) <= 0
            button = seen.page.locator(f"{table} >> xpath=../following-sibling::p[1]/button")
            assert button.text_content() == f"Show {15 - kept} more"
            button.press("Enter")
            assert all(seen.page.evaluate(shown)) and seen.page.evaluate(box) > 0
            button.press("Enter")
            assert seen.page.evaluate(shown) == first
    with Witness(browser, page, width=3000) as seen:
        assert seen.page.locator(".columns").first.is_visible()  # the page is not wider than its text
        seen.page.emulate_media(media="print")
        assert seen.page.locator(".results thead tr:last-child th").evaluate_all("all => all.every(one => one.offsetWidth > 0)")


def test_the_gallery_leads_to_one_result(browser, page) -> None:
    with Witness(browser, page) as seen:
        seen.page.locator('[name="kind"][value="normal"]').check()
        tile = seen.page.locator(".pick").nth(1)
        assert tile.locator("img.normal").is_visible() and not tile.locator("img.colour").is_visible()
        tile.focus()
        seen.page.keyboard.press("Enter")
        assert seen.page.locator("#closer-row").evaluate("one => one.value") == "both/coarse"
        assert seen.page.locator("#closer-row").evaluate("one => one === document.activeElement")
        assert "Showing dog, both priors (coarse)." in seen.page.locator("#announce").text_content()
        assert "15.00" in seen.page.locator("#closer-scores").text_content()
        seen.page.select_option("#closer-row", "copy/coarse")
        assert "white-back" in seen.page.locator("#closer-flags .raised").locator("..").text_content()
        assert seen.page.locator("#mesh-none").text_content() == "No mesh: a picture has no surface."
        assert not seen.page.locator("#mesh").is_visible() and not seen.complaints


def test_the_slider_moves_by_keyboard_and_by_hand(browser, page) -> None:
    with Witness(browser, page) as seen:
        seen.page.select_option("#compare-left", "both/coarse")
        seen.page.select_option("#compare-right", "both/fine")
        assert seen.page.locator("#compare-left-name").text_content() == "both priors (coarse)"
        stack, handle = seen.page.locator("#stack"), seen.page.locator("#compare-range")
        handle.scroll_into_view_if_needed()
        handle.focus()
        seen.page.keyboard.press("End")
        whole_left = pixels(stack)
        seen.page.keyboard.press("Home")
        whole_right = pixels(stack)
        for _ in range(30):
            seen.page.keyboard.press("ArrowRight")
        assert handle.get_attribute("aria-valuetext") == "30 % both priors (coarse), 70 % both priors (fine)"
        mixed = pixels(stack)
        edge = int(0.3 * mixed.shape[1])
        assert np.abs(mixed - whole_left)[:, : edge - 4].mean() < 0.5 < np.abs(mixed - whole_right)[:, : edge - 4].mean()
        assert np.abs(mixed - whole_right)[:, edge + 4 :].mean() < 0.5 < np.abs(mixed - whole_left)[:, edge + 4 :].mean()
        box = stack.bounding_box()
        seen.page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 20)
        assert abs(int(handle.input_value()) - 80) <= 1


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_the_screen(browser, page, width) -> None:
    with Witness(browser, page, width, 844, has_touch=True) as seen:
        load_closer(seen.page)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        for details in seen.page.locator("details").all():
            details.evaluate("one => one.open = true")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert seen.page.locator("#mesh").bounding_box()["width"] > width * 0.35
        inside = seen.page.locator(".results .scroller").evaluate("one => [one.scrollWidth, one.clientWidth]")
        assert width > 500 or inside[0] > inside[1]  # the table scrolls in its own box


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_reader(browser, page, scheme) -> None:
    with Witness(browser, page, color_scheme=scheme) as seen:
        load_closer(seen.page)
        ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")
        for selector in ("h1", ".facts", "nav a", ".tiles .label", ".results td", ".results .best", ".sd, .count", ".note",
                         "#costs thead button", "select", "#mesh-surface", "summary", ".views",
                         ".chart p", ".raised", ".strip .flag"):  # fmt: skip
            assert contrast(seen.page, selector) >= 4.5, selector


def test_still_where_motion_is_unwelcome(browser, page) -> None:
    for motion, behaviour in (("reduce", "auto"), ("no-preference", "smooth")):
        with Witness(browser, page, reduced_motion=motion) as seen:
            assert seen.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def test_without_scripts_and_on_paper(browser, page) -> None:
    with Witness(browser, page, java_script_enabled=False) as seen:
        assert seen.page.locator(".results td").first.is_visible() and seen.page.locator(".strip img.colour").first.is_visible()
        assert not seen.page.locator("#closer").is_visible() and not seen.page.locator("#compare").is_visible()
        assert not seen.requests
    with Witness(browser, page) as seen:
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert not seen.page.locator("nav").is_visible() and seen.page.locator(".strip img.colour").first.is_visible()
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_failed_cell_shows_the_end_of_its_log(browser, finished: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    fail_cell(root, "reconstruct: the gradient is not finite", "step 1\nerror: the gradient is not finite\n")
    with Witness(browser, page_in(root)) as seen:
        seen.page.get_by_role("link", name="Which, and why").click()
        gap = seen.page.locator(".missing-result")
        top = "document.querySelector('#gaps-title').getBoundingClientRect().top"
        until(seen.page, f"0 <= {top} && {top} < 850")
        assert gap.locator(".status").text_content() == "failed" and gap.locator("pre").is_visible()
        assert "error: the gradient is not finite" in gap.locator("pre").text_content()
        seen.page.locator('.pick[data-example="toys/dog"][data-row="both/fine"]').click()
        assert "State of this result: failed. reconstruct:" in seen.page.locator("#closer-state").text_content()
        assert not seen.complaints


def test_foreign_text_does_nothing(browser, finished: Path, tmp_path: Path, monkeypatch) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.chdir(root)
    write_hostile(root)
    with Witness(browser, page_in(root, title=HOSTILE)) as seen:
        seen.page.locator("#closer").scroll_into_view_if_needed()
        until(seen.page, "document.querySelector('#closer-scores tr') !== null")
        for example in seen.page.locator("#closer-example option").all():
            seen.page.select_option("#closer-example", example.get_attribute("value"))
            for row in seen.page.locator("#closer-row option").all():
                seen.page.select_option("#closer-row", row.get_attribute("value"))
                seen.page.wait_for_timeout(50)
        assert seen.page.evaluate("window.harm === undefined")
        assert seen.page.locator("h1").text_content() == HOSTILE and seen.page.title() == HOSTILE
        assert seen.page.evaluate("[...document.querySelectorAll('img[src=x], [onerror]')].length") == 0
        # not even the policy had to step in
        assert not seen.complaints and not seen.requests

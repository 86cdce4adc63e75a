"""The report: what it says of a run, and what a browser makes of it."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import run_command, tiny_options

import basicsr_ext as bx
from basicsr_ext import load_options
from basicsr_ext.data.images import write_image
from basicsr_ext.engine.logger import log_to_console
from basicsr_ext.engine.run import _report
from basicsr_ext.report import NoRunError, write_report
from basicsr_ext.report.runs import Series, read_run

HOSTILE = "</script><script>document.title='taken'</script>"


def entry(iteration, kind="train", **values):
    return {"iteration": iteration, "kind": kind, **values}


def make_run(folder, entries, events=(), options=None, pictures=True):
    """Write what a run leaves, without one."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries))
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in events))
    if options is not None:
        (folder / "run.yml").write_text(yaml.safe_dump(options))
    if pictures:
        rng = np.random.default_rng(0)
        panels = ["LQ", "bicubic", "restored", "GT"]
        write_image(folder / "samples/0/0.png", rng.integers(0, 256, (20 + 32, 32 * 4, 3), np.uint8))
        scores = {f"image{i}": {"psnr": 20.0 + i} for i in range(12)} | {HOSTILE: {"psnr": 5.0}}
        content = {"iteration": 8, "dataset": "photos", "scores": scores, "pictures": {HOSTILE: panels}}
        (folder / "samples/0.json").write_text(json.dumps(content))
    return folder


def example(folder, name="run", points=40, **options):
    """Return a run of some iterations that was resumed once."""
    entries = []
    for i in range(1, points + 1):
        values = {"l_pix": 1 / i, "lr": 1e-3, "gt_size": 16 if i < 20 else 32, "data_wait": 0.1}
        entries.append(entry(i, **values, iterations_per_second=5.0))
        if i % 20 == 0:
            entries.append(entry(i, "val/photos", psnr=20 + i / 10, bicubic_psnr=21.5))
    events = [
        {"event": "start", "iteration": 0, "time": "2026-01-01 00:00:00", "environment": {"torch": "2"}},
        {"event": "start", "iteration": 24, "time": "2026-01-01 01:00:00", "environment": {"torch": "3"}},
        {"event": "end", "iteration": 40, "time": "2026-01-01 02:00:00", "reason": "finished"},
    ]
    described = tiny_options(folder / name)
    described["name"] = "run"
    return make_run(folder / name, entries, events, described | options)


def page(*folders):
    target = folders[0] / "report.html"
    write_report(folders, target)
    return target.read_text()


def data_of(text):
    return json.loads(re.search(r"<script type='application/json' id='data'>(.*?)</script>", text)[1])


class TestWhatIsRead:
    def test_thinning_keeps_extremes_and_ends(self):
        values = list(np.sin(np.arange(5000) / 50))
        values[1234], values[4321] = 9.0, -9.0
        thinned = Series(list(range(5000)), values).thinned(100)
        assert len(thinned.values) <= 100
        assert {9.0, -9.0, values[0], values[-1]} <= set(thinned.values)
        assert thinned.iterations == sorted(thinned.iterations)
        assert all(values[i] == v for i, v in zip(thinned.iterations, thinned.values, strict=True))

    def test_values_that_are_not_finite_are_counted_not_drawn(self, tmp_path):
        folder = make_run(
            tmp_path / "run", [entry(1, l_pix=math.nan), entry(2, l_pix=math.inf), entry(3, l_pix=1)]
        )
        (chart,) = data_of(page(folder))["charts"]
        assert chart["remarks"] == ["l_pix: 2 not finite, the first at iteration 1"]
        assert chart["curves"][0]["x"] == [3]

    def test_a_line_cut_short_by_a_crash_is_passed_over(self, tmp_path):
        folder = make_run(tmp_path / "run", [entry(1, l_pix=1.0)])
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"iteration": 2, "ki')
        assert read_run(folder).last_iteration == 1

    def test_a_folder_without_a_run_is_refused(self, tmp_path):
        with pytest.raises(NoRunError, match=r"expected a run's folder.*metrics\.jsonl"):
            write_report([tmp_path], tmp_path / "report.html")
        assert not (tmp_path / "report.html").exists()


class TestThePage:
    def test_it_has_scores_beside_what_they_are_compared_with(self, tmp_path):
        charts = {chart["title"]: chart["curves"] for chart in data_of(page(example(tmp_path)))["charts"]}
        assert [(c["label"], c["dashed"]) for c in charts["photos: psnr"]] == [
            ("psnr", False),
            ("bicubic_psnr", True),
        ]
        assert {"losses", "learning rate", "patch size (pixels)", "iterations per second"} <= charts.keys()

    def test_it_marks_stages_and_resumes(self, tmp_path):
        marks = data_of(page(example(tmp_path)))["marks"]
        assert [(mark["x"], mark["kind"]) for mark in marks] == [(3, "stage"), (5, "stage"), (24, "resume")]

    def test_it_tells_state_network_and_environment(self, tmp_path):
        text = page(example(tmp_path))
        assert "finished, 2026-01-01 02:00:00, resumed 1 time<" in text
        assert re.search(r"<td>parameters</td><td>[\d,]+ \(\d\.\d\d M\)", text)
        assert re.search(r"<td>multiply-adds of an input of 64 x 64</td><td>0\.\d+ G", text)
        assert "<td>torch</td><td>3</td>" in text

    def test_it_lists_starts_and_how_they_ended(self, tmp_path):
        folder = example(tmp_path)
        stopped = {"event": "end", "iteration": 30, "time": "2026-01-01 01:30:00", "reason": "stopped"}
        again = {"event": "start", "iteration": 30, "time": "2026-01-01 01:40:00"}
        lines = (folder / "events.jsonl").read_text().splitlines()
        lines[2:2] = [json.dumps(stopped), json.dumps(again)]
        (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
        section = page(folder).split("Starts, interruptions, resumes")[1].split("</table>")[0]
        assert re.findall(r"<td>([^<]*)</td></tr>", section) == [
            "started",
            "ended without notice: killed, or the machine stopped",
            "resumed",
            "ended: stopped",
            "resumed",
            "ended: finished",
        ]

    def test_a_run_without_an_end_may_have_been_killed(self, tmp_path):
        folder = make_run(tmp_path / "run", [entry(1, l_pix=1.0)], [{"event": "start", "time": "now"}])
        assert "running, or killed (started now)" in page(folder)

    def test_options_are_marked_where_they_are_not_the_default(self, tmp_path):
        text = page(example(tmp_path))
        assert "<tr class='marked'><td>logger.print_freq</td><td>1</td><td>100</td></tr>" in text
        assert "<tr><td>scale</td>" not in text.partition("<h2>Options")[0]

    def test_options_are_marked_where_runs_differ(self, tmp_path):
        first, second = example(tmp_path, "first"), example(tmp_path, "second", manual_seed=4)
        text = page(first, second)
        marked = re.findall(r"<tr class='marked'><td>([^<]+)", text)
        assert "manual_seed" in marked
        assert "logger.print_freq" not in marked

    def test_best_and_worst_images_are_listed(self, tmp_path):
        rows = re.findall(r"<td>(\d+) of 13 by psnr</td>", page(example(tmp_path)))
        assert rows == ["1", "2", "3", "4", "5", "9", "10", "11", "12", "13"]

    def test_text_of_others_is_escaped(self, tmp_path):
        folder = example(tmp_path, "<script>", suffix=HOSTILE)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(entry(40, f"val/{HOSTILE}", psnr=1.0)) + "\n")
        text = page(folder)
        assert "<script>document" not in text
        assert "<h1>&lt;script&gt;</h1>" in text
        assert data_of(text)["runs"] == ["<script>"]
        assert f"{HOSTILE}: psnr" in [chart["title"] for chart in data_of(text)["charts"]]

    def test_300000_points_make_less_than_3_mb(self, tmp_path):
        rng = np.random.default_rng(0)
        values = rng.random((300_000, 4)).tolist()
        names = ("l_pix", "lr", "data_wait", "iterations_per_second")
        lines = [entry(i, **dict(zip(names, row, strict=True))) for i, row in enumerate(values)]
        lines[77_777]["l_pix"] = 50.0
        folder = make_run(tmp_path / "run", lines, pictures=False)
        text = page(folder)
        assert len(text.encode()) < 3e6
        assert 50.0 in data_of(text)["charts"][0]["curves"][0]["y"]

    def test_nothing_is_loaded_from_elsewhere(self, tmp_path):
        text = page(example(tmp_path))
        assert not re.findall(r"""(?:src|href)=['"]?https?:|@import|url\((?!data:)""", text)
        assert "default-src 'none'" in text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a tiny run that has written its report."""
    options = tiny_options(tmp_path_factory.mktemp("runs") / "run")
    options["logger"]["report"] = True
    return bx.train(load_options(options)).folder


class TestTraining:
    def test_it_ends_with_a_report_with_pictures_and_scores_of_images(self, trained):
        run = read_run(trained)
        assert [event["event"] for event in run.events] == ["start", "end"]
        assert run.events[-1]["reason"] == "finished"
        assert run.events[-1]["peak_memory_bytes"] > 2**20
        assert list(run.pictures[0].versions) == ["LQ", "bicubic", "restored", "GT"]
        scores = [of_one["psnr"] for of_one in run.samples["photos"].values()]
        assert np.mean(scores) == pytest.approx(run.series["val/photos"]["psnr"].values[-1])
        assert "<figure" in (trained / "report.html").read_text()

    def test_a_report_that_fails_is_one_line(self, tmp_path, capsys):
        log_to_console(True)
        _report(tmp_path)
        (line,) = capsys.readouterr().out.splitlines()
        assert "WARNING: The report could not be written: " in line


def test_the_command_says_what_it_wrote_and_what_is_no_run(tmp_path):
    folder = example(tmp_path)
    done = run_command(sys.executable, "scripts/report.py", folder, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'page.html'}: 0." in done.stdout
    refused = run_command(sys.executable, "scripts/report.py", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {tmp_path}: expected a run's folder")


# --- in a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """The machine's Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens a page from disk, without a network, and collects what its console says."""
    contexts, said = [], []

    def open_page(path: Path, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(path.as_uri())
        tab.wait_for_function("window.reportCharts !== undefined")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize("width", [1280, 390])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_draws_and_fits(self, opened, tmp_path, width, scheme):
        folder = example(tmp_path, "<script>", suffix=HOSTILE)
        page(folder)
        tab = opened(folder / "report.html", width, scheme)
        assert tab.title() == "<script>"
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("reportCharts.length") == 6
        painted = """() => reportCharts.every(c => {
            const g = c.ctx.getImageData(0, 0, c.ctx.canvas.width, c.ctx.canvas.height).data;
            return g.some((v, i) => i % 4 === 3 && v > 0); })"""
        assert tab.evaluate(painted)
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
        smallest = tab.evaluate(
            "Math.min(...[...document.querySelectorAll('td, .hint, figcaption')]"
            ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert smallest >= 12

    def test_hovering_shows_values_dragging_zooms_and_smoothing_smooths(self, opened, tmp_path):
        folder = example(tmp_path)
        page(folder)
        tab = opened(folder / "report.html")
        over = tab.locator(".u-over").first
        box = over.bounding_box()
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
        assert re.search(r"\d", tab.locator(".u-legend").first.inner_text().split("l_pix")[-1])
        before = tab.evaluate("[reportCharts[0].scales.x.min, reportCharts[0].scales.x.max]")
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=5)
        tab.mouse.up()
        after = tab.evaluate("[reportCharts[0].scales.x.min, reportCharts[0].scales.x.max]")
        assert before[0] < after[0] < after[1] < before[1]
        assert tab.evaluate("reportCharts[0].data[1][1]") == 0.5
        tab.locator("#smoothing").fill("0.9")
        assert tab.evaluate("reportCharts[0].data[1][1]") == pytest.approx((0.9 * 1 + 0.5) / 1.9)
        tab.locator("#log").check()
        assert tab.evaluate("reportCharts[0].scales.y.distr") == 3

    def test_the_slider_moves_and_zoom_is_everyones(self, opened, tmp_path):
        first, second = example(tmp_path, "first"), example(tmp_path, "second")
        page(first, second)
        tab = opened(first / "report.html")
        slider = tab.locator("img-comparison-slider").first
        slider.scroll_into_view_if_needed()
        assert slider.evaluate(
            "s => [...s.querySelectorAll('img')].every(i => i.complete && i.naturalWidth === 32)"
        )
        assert float(slider.evaluate("s => s.value")) == 50
        box = slider.bounding_box()
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=4)
        tab.mouse.up()
        assert float(slider.evaluate("s => s.value")) == pytest.approx(80, abs=3)
        tab.locator("#zoom").fill("4")
        transforms = tab.evaluate(
            "[...new Set([...document.querySelectorAll('figure img')].map("
            "image => getComputedStyle(image).transform))]"
        )
        assert transforms == ["matrix(4, 0, 0, 4, 0, 0)"]
        shown = slider.locator("img").first
        source = shown.get_attribute("src")
        tab.locator("figure select").first.select_option("GT")
        assert shown.get_attribute("src") != source

    @pytest.mark.parametrize("values", [[1.0], [math.nan], [math.nan, 1.0, math.inf]])
    def test_runs_of_few_or_no_points_open(self, opened, tmp_path, values):
        folder = make_run(tmp_path / "run", [entry(i, l_pix=v) for i, v in enumerate(values)], pictures=False)
        page(folder)
        assert opened(folder / "report.html").evaluate("reportCharts.length") == 1

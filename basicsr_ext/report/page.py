"""The page: tables made here, curves and sliders drawn by the browser from data in the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import cv2
import numpy as np

from ..data.images import ImageError, read_image
from .runs import Picture, Run, Series

_LABEL_HEIGHT = 20
"""Of the strip with names at the top of validation pictures."""
_SHOWN_SAMPLES = 5
_HIDDEN = {"stage", "replaced_samples", "batch_size"}
_TITLES = {
    "gt_size": "patch size (pixels)",
    "iterations_per_second": "iterations per second",
    "data_wait": "share of time waiting for data",
    "lr": "learning rate",
}
# Nothing is loaded from anywhere, whatever a name or an option says.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page_of(runs: Sequence[Run]) -> str:
    """Return the HTML page about ``runs``, which stand side by side in it."""
    title = " / ".join(run.name for run in runs)
    data = {"charts": list(_charts(runs)), "marks": list(_marks(runs)), "runs": [run.name for run in runs]}
    body = "".join(
        [
            f"<h1>{escape(title)}</h1>",
            _summary(runs),
            _CURVES,
            _pictures(runs),
            _samples(runs),
            _stages(runs),
            _events(runs),
            _environments(runs),
            _options(runs),
        ]
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{escape(title)}</title><style>{_asset('vendor/uPlot.min.css')}"
        f"{_asset('vendor/img-comparison-slider.css')}{_asset('report.css')}</style></head><body>{body}"
        f"<script type='application/json' id='data'>{_json(data)}</script>"
        f"<script>{_asset('vendor/uPlot.iife.min.js')}</script>"
        f"<script>{_asset('vendor/img-comparison-slider.js')}</script>"
        f"<script>{_asset('report.js')}</script></body></html>\n"
    )


_CURVES = (
    "<section><h2>Curves</h2><p class='tools'><label>smoothing <input id='smoothing' type='range' min='0' "
    "max='0.99' step='0.01' value='0'></label> <label><input id='log' type='checkbox'> logarithmic losses"
    "</label> <span class='hint'>drag to zoom, double-click for all; dashed: compared with; vertical lines: "
    "stages (grey), resumes (red)</span></p><div id='charts'></div></section>"
)


def _asset(name: str) -> str:
    return files("basicsr_ext.report").joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """Return JSON that ends no script element, whatever its strings say."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """Return a table of texts, which are escaped; rows may be marked."""
    lines = []
    for number, row in enumerate(rows):
        kind = " class='marked'" if number < len(marked) and marked[number] else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class='wide'><table>{body}</table></div>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


# --- curves -----------------------------------------------------------------------------------------


def _charts(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Yield the charts in the page's order: title, whether they are losses, curves of all runs."""
    trained = list(dict.fromkeys(name for run in runs for name in run.series.get("train", {})))
    yield from _chart(runs, "losses", "train", [n for n in trained if n.startswith("l_")], losses=True)
    for kind in sorted({kind for run in runs for kind in run.series if kind.startswith("val/")}):
        names = list(dict.fromkeys(name for run in runs for name in run.series.get(kind, {})))
        for metric in names:
            if not any(metric != other and metric.endswith(f"_{other}") for other in names):
                beside = [other for other in names if other.endswith(f"_{metric}")]
                yield from _chart(runs, f"{kind[4:]}: {metric}", kind, [metric, *beside], dashed=beside)
    rest = [name for name in trained if not name.startswith("l_") and name not in _HIDDEN]
    rates = [name for name in rest if name == "lr" or name.startswith("lr_")]
    if rates:
        yield from _chart(runs, _TITLES["lr"], "train", rates)
    for name in (name for name in rest if name not in rates):
        yield from _chart(runs, _TITLES.get(name, name), "train", [name])


def _chart(
    runs: Sequence[Run],
    title: str,
    kind: str,
    names: Sequence[str],
    dashed: Sequence[str] = (),
    losses: bool = False,
) -> Iterator[dict[str, Any]]:
    curves, remarks = [], []
    for number, run in enumerate(runs):
        for name in names:
            series = run.series.get(kind, {}).get(name)
            if series is None:
                continue
            label = name if len(runs) == 1 else f"{run.name}: {name}"
            if series.not_finite:
                first = series.first_not_finite
                remarks.append(f"{label}: {series.not_finite} not finite, the first at iteration {first}")
            if series.values:
                curves.append({"run": number, "label": label, "dashed": name in dashed, **_points(series)})
    if curves or remarks:
        yield {"title": title, "losses": losses, "curves": curves, "remarks": remarks}


def _points(series: Series) -> dict[str, Any]:
    return {"x": series.iterations, "y": [float(f"{value:.6g}") for value in series.values]}


def _marks(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    for number, run in enumerate(runs):
        start = 0
        for iterations, patch, _ in run.stages[:-1]:
            start += iterations
            yield {"run": number, "x": start, "kind": "stage", "label": f"after patch {patch}"}
        for event in _resumes(run):
            yield {"run": number, "x": event["iteration"], "kind": "resume", "label": "resumed"}


def _resumes(run: Run) -> list[Mapping[str, Any]]:
    starts = [event for event in run.events if event.get("event") == "start"]
    return [event for event in starts[1:] if isinstance(event.get("iteration"), int)]


# --- tables -----------------------------------------------------------------------------------------


def _summary(runs: Sequence[Run]) -> str:
    rows: dict[str, list[str]] = {}

    def add(key: str, number: int, value: str) -> None:
        rows.setdefault(key, [""] * len(runs))[number] = value

    for number, run in enumerate(runs):
        of = "" if run.total is None else f" of {run.total:,}"
        add("iterations", number, f"{run.last_iteration:,}{of}")
        add("state", number, _state(run))
        for key, value in run.network.items():
            add(key, number, value)
        peaks = [peak for event in run.events if isinstance(peak := event.get("peak_memory_bytes"), int)]
        if peaks:
            add("peak memory", number, f"{max(peaks) / 2**30:.2f} GiB")
        for kind, named in run.series.items():
            for name, series in named.items():
                if kind.startswith("val/") and series.values:
                    add(f"{kind[4:]}: {name}, last", number, f"{series.values[-1]:.4f}")
    return _table(["", *(run.name for run in runs)], [[key, *values] for key, values in rows.items()])


def _state(run: Run) -> str:
    if not run.events:
        return "not recorded"
    last = run.events[-1]
    if last.get("event") == "start":
        return f"running, or killed (started {last.get('time', '')})"
    reason = str(last.get("reason", ""))
    times = len(_resumes(run))
    return f"{reason}, {last.get('time', '')}" + (
        f", resumed {times} time{'s' * (times > 1)}" if times else ""
    )


def _stages(runs: Sequence[Run]) -> str:
    rows, start = [], 0
    for run in runs:
        start = 0
        for number, (iterations, patch, batch) in enumerate(run.stages, start=1):
            rows.append(
                [run.name, str(number), f"{start + 1:,} to {start + iterations:,}", str(patch), batch]
            )
            start += iterations
    return _section("Stages", _table(["run", "stage", "iterations", "patch", "batch"], rows) if rows else "")


def _events(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        before = ""
        for event in run.events:
            kind = now = str(event.get("event", ""))
            if kind == "start":
                if before == "start":
                    rows.append([run.name, "", "", "ended without notice: killed, or the machine stopped"])
                kind = "resumed" if before else "started"
            elif kind == "end":
                kind = f"ended: {event.get('reason', '')}"
            before = now
            rows.append([run.name, str(event.get("time", "")), str(event.get("iteration", "")), kind])
    head = ["run", "time", "after iteration", "what"]
    return _section("Starts, interruptions, resumes", _table(head, rows) if rows else "")


def _environments(runs: Sequence[Run]) -> str:
    last = [next((e["environment"] for e in reversed(r.events) if "environment" in e), {}) for r in runs]
    keys = list(dict.fromkeys(key for found in last for key in found))
    rows = [[key, *(str(found.get(key, "")) for found in last)] for key in keys]
    head = ["", *(run.name for run in runs)]
    return _section("Environment", _table(head, rows) if rows else "")


def _options(runs: Sequence[Run]) -> str:
    """Return what option files say, marked where runs differ or, of one run, from the default."""
    keys = list(dict.fromkeys(key for run in runs for key in run.options))
    rows, marked = [], []
    for key in keys:
        values = [_in_words(run.options[key]) if key in run.options else "" for run in runs]
        default = next((_in_words(run.defaults[key]) for run in runs if key in run.defaults), "")
        rows.append([key, *values, default])
        differs = len(set(values)) > 1
        marked.append(differs if len(runs) > 1 else bool(default) and values[0] != default)
    what = "the runs differ" if len(runs) > 1 else "it is not the default"
    table = _table(["key", *(run.name for run in runs), "default"], rows, marked)
    return _section("Options", f"<p class='hint'>Marked where {what}.</p>{table}" if rows else "")


def _in_words(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _samples(runs: Sequence[Run]) -> str:
    """Return the best and worst images of every set by its first metric."""
    rows = []
    for run in runs:
        for dataset, scores in run.samples.items():
            metrics = list(dict.fromkeys(metric for of_one in scores.values() for metric in of_one))
            if not metrics:
                continue
            first = metrics[0]
            known = [name for name, of_one in scores.items() if isinstance(of_one.get(first), int | float)]
            finite = [name for name in known if scores[name][first] == scores[name][first]]
            order = sorted(finite, key=lambda name: scores[name][first], reverse=True)
            ends = list(dict.fromkeys([*order[:_SHOWN_SAMPLES], *order[-_SHOWN_SAMPLES:]]))
            for name in ends:
                told = ", ".join(f"{metric} {value:.4f}" for metric, value in scores[name].items())
                rank = f"{order.index(name) + 1} of {len(order)} by {first}"
                rows.append([run.name, dataset, rank, name, told])
    head = ["run", "data set", "rank", "image", "scores"]
    return _section("Highest and lowest images of the last validation", _table(head, rows) if rows else "")


# --- pictures ---------------------------------------------------------------------------------------


def _pictures(runs: Sequence[Run]) -> str:
    figures = "".join(_figure(run, picture, len(runs) > 1) for run in runs for picture in run.pictures)
    if not figures:
        return ""
    tools = (
        "<p class='tools'><label>zoom <input id='zoom' type='range' min='1' max='8' step='0.5' value='1'>"
        "</label> <span class='hint'>the same for all pictures; double-click chooses the centre</span></p>"
    )
    return _section("Pictures of the last validation", f"{tools}<div class='pictures'>{figures}</div>")


def _figure(run: Run, picture: Picture, several: bool) -> str:
    try:
        whole = read_image(picture.file)
    except ImageError:
        return ""
    panels = np.split(whole[_LABEL_HEIGHT:], len(picture.versions), axis=1)
    images = {name: _data_uri(panel) for name, panel in zip(picture.versions, panels, strict=True)}
    left, right = _first_pair(list(images))

    def choice(slot: str, chosen: str) -> str:
        names = "".join(
            f"<option{' selected' if name == chosen else ''}>{escape(name)}</option>" for name in images
        )
        return f"<select data-slot='{slot}' aria-label='{slot} picture'>{names}</select>"

    title = f"{run.name}, {picture.name}" if several else picture.name
    # Pictures stand in the page once, in the order of the choices; report.js shows them.
    return (
        f"<figure data-pictures='{escape(json.dumps(list(images.values())))}'>"
        "<img-comparison-slider tabindex='0'><img slot='first' alt=''><img slot='second' alt=''>"
        f"</img-comparison-slider><figcaption>{choice('first', left)}{choice('second', right)} "
        f"{escape(picture.dataset)}: {escape(title)}</figcaption></figure>"
    )


def _first_pair(names: Sequence[str]) -> tuple[str, str]:
    left = next((name for name in ("bicubic", "LQ") if name in names), names[0])
    return left, "restored" if "restored" in names else names[-1]


def _data_uri(image: np.ndarray) -> str:
    written, data = cv2.imencode(".png", image[..., ::-1])
    if not written:
        return ""
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"

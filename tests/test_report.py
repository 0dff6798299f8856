"""The report of a run, the comparison of two, and the curves in both."""

import base64
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from minigan.gan.curves import alarms, collect, draw_curves, panel_svg, panels, read_metrics, smooth
from minigan.gan.pictures import save_animation, save_png
from minigan.gan.report import FRAMES, Run, write_comparison, write_report

EVIL = "<script>alert('1')</script>&\"</script>"
SCORE = {"value": 3.0, "low": 2.5, "high": 3.5, "floor": 2.2, "better": "lower"}
RECORDS = [
    *({"step": s, "d_loss": 1.2 + s / 100, "g_loss": 0.7, "d_real": 0.6, "d_grad": 1.5} for s in range(1, 100)),
    {"step": 50, "scores": {"frechet": SCORE, "recall": SCORE | {"better": "higher"}, EVIL: SCORE}},
    {"step": 60, "warning": "collapse", "message": EVIL},
    {"step": 100, "scores": {"frechet": SCORE | {"value": 2.75}}},
]
VOID = {"meta", "img", "input", "br", "hr", "link"}


class Page(HTMLParser):
    """A page's elements; an end tag without its start is an error."""

    def __init__(self, path):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(path.read_text("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        return " ".join(data for where, data in self.texts if where == tag)


def check_page(path):
    """What holds for every page written here."""
    page = Page(path)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("script")) == 2  # ours
    assert len(page.all("h1")) == len(page.all("title")) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "href"]
        assert attributes.get("src", "data:").startswith("data:")
        assert tag not in ("link", "iframe", "object")
    assert not re.search(r"https?:|@import|url\(", page.text("style") + page.text("script"))
    for attributes in page.all("img"):
        assert attributes["alt"]
        kind, data = re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", attributes["src"]).groups()
        picture = base64.b64decode(data, validate=True)
        if kind == "svg+xml":
            ElementTree.fromstring(picture)
            assert b"<script" not in picture
        else:
            with Image.open(io.BytesIO(picture)) as image:
                assert image.format.lower() == kind
                image.load()
    json.loads(page.texts[[tag for tag, _ in page.texts].index("script")][1])
    return page


def make_run(folder, records=RECORDS, samples=(), settings='loss = "hinge"\nsteps = 100', config=None):
    folder.mkdir(parents=True)
    tables = f'[settings]\n{settings}\n[versions]\nminigan = "0.1.0"\n[data]\nname = "ring"\nshape = [2]\n'
    (folder / "config.toml").write_text(config or f'recipe = "ring"\ncreated = "2025-01-01"\n{tables}')
    if records is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for step in samples:
        (folder / "samples").mkdir(exist_ok=True)
        save_png(np.full((4, 4, 1), step % 256, np.uint8), folder / f"samples/step-{step:06d}.png")
    return folder


def size(path):
    with Image.open(path) as image:
        return image.size


def test_a_whole_run(tmp_path):
    run = make_run(tmp_path / "run", samples=(0, 50, 100))
    save_png(np.zeros((4, 4, 1), np.uint8), run / "real.png")
    save_animation(np.array([[[[0]]], [[[255]]]], np.uint8), run / "walk.gif")
    assert write_report(run) == run / "report.html"
    page = check_page(run / "report.html")
    headings = page.text("h2").split(" ")
    expected = "Warnings Samples Latent walk Curves Scores Settings Data Versions Go on from here"
    assert headings == expected.split(" ")
    cells = page.text("td")
    for told in ("hinge", "ring", "0.1.0", "2.75", "2.5 to 3.5", "2.2", "2.75 at step 100", "3 at step 50"):
        assert told in cells
    assert f"minigan resume {run}" in page.text("code")
    (slider,) = page.all("input")
    assert (slider["type"], slider["max"]) == ("range", "2")
    images = [attributes["src"] for attributes in page.all("img")]
    assert len(images) == 1 + 1 + 3 + 1 + len(panels(collect(RECORDS)))
    assert size(run / "curves.png") == (1200, 800)
    (film,) = [a for _, a in page.elements if a.get("class") == "film"]
    assert film["data-steps"] == "0,50,100"


@pytest.mark.parametrize("records", [None, [], RECORDS[:1], RECORDS[-1:]])
@pytest.mark.parametrize("samples", [(), (7,)])
def test_a_run_with_parts_missing(tmp_path, records, samples):
    run = make_run(tmp_path / "run", records, samples)
    page = check_page(write_report(run))
    assert ("No samples yet." in page.text("p")) == (not samples)
    assert ("Curves" in page.text("h2")) == bool(records)


def test_nearly_nothing_is_enough(tmp_path):
    check_page(write_report(make_run(tmp_path / "run", None, config="settings = 3\n")))


def test_no_run_folder_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"not a run folder: there is no config\.toml"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_says_is_text_and_never_html(tmp_path):
    name = "<script>alert(1)<&\"'"
    records = [*RECORDS, {"step": 110, "warning": EVIL, "message": EVIL}]
    run = make_run(tmp_path / name, records, (0,), settings=f"loss = '''{EVIL}'''\n'{'<b>'}' = ['<i>', 2]")
    page = check_page(write_report(run))
    assert name in page.text("h1")
    assert EVIL in page.text("td")
    assert "<i>, 2" in page.text("td")
    assert not page.all("b")
    write_comparison(run, run, tmp_path / "both.html")
    check_page(tmp_path / "both.html")


def test_a_long_film_is_thinned_with_both_ends_kept(tmp_path):
    run = make_run(tmp_path / "run", None, range(0, 500, 5))
    (run / "samples/step-last.png").write_bytes(b"not a step")
    steps = [step for step, _ in Run(run).pictures()]
    assert (len(steps), steps[0], steps[-1]) == (FRAMES, 0, 495)
    assert max(np.diff(steps)) <= 20


def test_two_runs_side_by_side(tmp_path):
    a = make_run(tmp_path / "a", samples=(0, 100))
    b = make_run(tmp_path / "b", [{"step": 5, "d_loss": 1.0, "penalty": 0.1}], (0,), 'loss = "lsgan"\nsteps = 100')
    write_comparison(a, b, tmp_path / "both.html")
    page = check_page(tmp_path / "both.html")
    assert "hinge lsgan" in page.text("td")
    assert "settings: steps" not in page.text("th")  # it is the same in both
    assert len(page.all("input")) == 2
    assert [h for h in ("a", "b") if h in page.text("h3")] == ["a", "b"]
    write_comparison(a, a, tmp_path / "same.html")
    assert "None of" in Page(tmp_path / "same.html").text("p")


def test_metrics_of_a_killed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "d_loss": NaN}\n{"step": 2, "d_loss": 0.5}\n'
    ends = [match.end() for match in re.finditer(b"}", whole)]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert len(read_metrics(path)) == sum(end <= length for end in ends)


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"[1]", b"{}", b'{"step": "1"}', b'{"step": -1}', b"[" * 100_000,
                                  b'{"step": 1, "scores": 3}', b'{"step": 1, "scores": {"kid": 3}}'])  # fmt: skip
def test_damaged_metrics_name_the_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected"):
        read_metrics(path)


ODD = [
    [],
    [{"step": 0}],
    [{"step": 0, "d_loss": 1.0}],
    [{"step": 5, "g_grad": 0.0}, {"step": 6, "g_grad": -1.0}],
    [{"step": s, "d_loss": math.nan, "d_grad": math.inf} for s in range(100)],
    [{"step": s, "d_loss": math.nan if s % 2 else 1.0, "d_grad": 10.0**-s} for s in range(100)],
    [{"step": 1, "d_loss": None, "g_loss": "high", "d_real": True}],
    [{"step": 1, "scores": {"kid": {"value": None}, "new score": {}}}],
    [{"step": s, "d_loss": 1e300 * (-1) ** s, "g_loss": 5.0} for s in range(60)],
    [{"step": 3, "warning": "collapse"}, {"step": 3, "warning": "collapse"}, {"step": 4, "warning": "$\\x^$"}],
    [{"step": 10**9, "d_loss": 1.0}, {"step": 10**9 + 1, "d_loss": 10**400}],
]


@pytest.mark.parametrize("records", ODD, ids=range(len(ODD)))
def test_curves_of_anything(tmp_path, records):
    draw_curves(records, tmp_path / "curves.png")
    assert size(tmp_path / "curves.png") == (1200, 800)
    run = make_run(tmp_path / "run", records)
    check_page(write_report(run))


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in "ab":
        draw_curves(RECORDS, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (panel, *_) = panels(collect(RECORDS))
    assert panel_svg(panel, 100, alarms(RECORDS)) == panel_svg(panel, 100, alarms(RECORDS))


def test_series_hold_what_the_records_say():
    series = collect(RECORDS)
    assert list(series)[:6] == ["d_loss", "g_loss", "d_real", "d_grad", "frechet", "recall"]
    frechet = series["frechet"]
    assert (frechet.steps.tolist(), frechet.values.tolist()) == ([50, 100], [3.0, 2.75])
    assert (frechet.low[0], frechet.high[0], frechet.floor[0], frechet.better) == (2.5, 3.5, 2.2, "lower")
    assert [panel.title[:8] for panel in panels(series)[:4]] == ["Losses", "Outputs ", "Gradient", "Fréchet "]
    assert [one.name for one in panels(series)[0].series] == ["D loss", "G loss"]


def test_smoothing_is_a_centred_mean_that_leaves_nan_out():
    assert (smooth(np.arange(5.0)) == np.arange(5)).all()  # too short to need any
    line = np.arange(600.0)
    line[100] = np.nan
    means = smooth(line)
    assert math.isnan(means[100])
    assert means[300] == pytest.approx(300)
    assert means[95] == pytest.approx(np.nanmean(line[85:106]))


def test_every_drawn_value_is_finite_in_the_page(tmp_path):
    run = make_run(tmp_path / "run", [{"step": 1, "d_loss": math.nan}, {"step": 2, "d_loss": 0.123456}])
    page = Page(write_report(run))
    told = json.loads(page.texts[[tag for tag, _ in page.texts].index("script")][1])
    assert told["series"] == [["D loss", [2], [0.1235]]]

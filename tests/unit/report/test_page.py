import base64
import json
import re
from collections import Counter
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import tifffile

from mediar_infer.challenge.checks import Finding, LabelFacts
from mediar_infer.challenge.launchers import RunOutcome
from mediar_infer.challenge.page import write_verdict
from mediar_infer.challenge.records import ChallengeRecord, write_results
from mediar_infer.images.sources import ArraySource
from mediar_infer.labels.metrics import Scores
from mediar_infer.report.pictures import draw_files, read_reduced
from mediar_infer.report.plot import Point, draw_plot

NASTY = "<img src=x onerror=alert(1)>&\"'{{script}}\u202e\udcff.png"
HEAD = {"engine": "docker", "image": "team:latest", "machine": {"memory_bytes": 2**34}}


def record(name="a.png", **changes):
    fields = {
        "image": name,
        "size": (1000, 2000),
        "outcome": RunOutcome(exit_code=0, wall_s=3.5, log="</template><script>alert(1)</script>"),
        "label": None,
    }
    return ChallengeRecord(**fields | changes)


class Outline(HTMLParser):
    """Tags, ids, titles and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.addresses, self.titles = Counter(), [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.titles |= {found["title"]} if "title" in found else set()
        self.addresses += [found[key] for key in ("href", "src") if key in found]


def page_of(folder, records, verdict="passed", images=None):
    write_verdict(folder, HEAD, verdict, records, images or {})
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_needs_nothing_but_itself(tmp_path):
    page = page_of(tmp_path, [record()])
    outline = Outline(page)
    assert "default-src 'none'" in page
    assert [each for each in outline.addresses if not each.startswith(("#", "data:"))] == []
    assert re.findall(r"https?://|@import|url\(", page) == []


def test_links_lead_to_elements_and_ids_are_unique(tmp_path):
    records = [record("a.png"), record("b.png", findings=(Finding("b.png", "ids", "x", "y"),))]
    outline = Outline(page_of(tmp_path, records, "breached"))
    links = {each[1:] for each in outline.addresses if each.startswith("#")}
    assert links == {"image-1", "image-2"}
    assert links <= set(outline.ids)
    assert max(Counter(outline.ids).values()) == 1


def test_names_and_printing_are_escaped(tmp_path):
    plain = page_of(tmp_path, [record(findings=(Finding("a", "ids", "x", "y"),))], "breached")
    findings = (Finding(NASTY, "output", NASTY, NASTY),)
    nasty = page_of(tmp_path, [record(NASTY, findings=findings)], "breached")
    assert Outline(nasty).tags == Outline(plain).tags
    assert "\u202e" not in nasty
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;&#34;&#39;{{script}}??.png" in nasty
    assert Outline(nasty).titles >= {"<img src=x onerror=alert(1)>&\"'{{script}}??.png"}


def test_numbers_are_sorted_by_their_values(tmp_path):
    page = page_of(tmp_path, [record(scores=(Scores(0.5, 4, 4, 3),))])
    for value in ("a.png", "0", "2000000", "3.5", "20.0", "0.0", "0.75"):
        assert f'data-value="{value}"' in page
    assert page.count('<th scope="col"') == page.count("<td") + page.count('<th scope="row"')


def test_columns_in_which_nothing_is_known_are_left_out(tmp_path):
    page = page_of(tmp_path, [record()])
    assert ">seconds</button>" in page
    assert ">F1</button>" not in page
    assert ">GiB</button>" not in page
    measured = RunOutcome(exit_code=0, wall_s=3.5, peak_memory_bytes=2**31)
    page = page_of(tmp_path, [record(), record("b.png", outcome=measured)])
    assert ">GiB</button>" in page
    assert page.count('<td class="minor" data-value="2.0">2.00</td>') == 1


def test_engine_ledger_is_shown_where_there_is_one(tmp_path):
    ledger = {"stages_s": {"network": 1.25, "open": 0.001}, "plan": {"name": "fast"}}
    page = page_of(tmp_path, [record(ledger=ledger)])
    assert "<dd>network 1.25 s</dd>" in page
    assert "<dd>fast</dd>" in page


@pytest.mark.parametrize(
    ("made_of", "shown"),
    [
        (
            {"plan": {"name": "fast"}, "weights": {"a": "0123456789abcdef"}},
            ["fast", "a 0123456789ab"],
        ),
        ({"plan": "mine", "weights": "mine too"}, ["mine"]),
        ({"plan": {"name": "paper"}, "budget": {"plan": "tiles"}}, ["tiles"]),
        ({"plan": ["x"], "weights": [1]}, ["[&#39;x&#39;]"]),
        ({"plan": {}, "budget": 7}, []),
    ],
)
def test_what_label_files_say_of_their_making_is_shown(tmp_path, made_of, shown):
    label = LabelFacts("a_label.tiff", "uint16", (1000, 2000), 7, "0" * 64, made_of)
    page = page_of(tmp_path, [record(label=label)])
    assert re.findall(r"<dt>(?:plan|weights)</dt><dd>(.*?)</dd>", page) == shown


def test_stopped_run_before_its_first_size_is_known_has_a_page(tmp_path):
    assert "Stopped" in page_of(tmp_path, [record(size=None)], "stopped")


def test_results_hold_one_line_per_image(tmp_path):
    label = LabelFacts("a_label.tiff", "uint16", (1000, 2000), 7, "0" * 64, {})
    write_results(tmp_path, HEAD, "passed", [record(label=label), record("b.png")])
    text = (tmp_path / "challenge.json").read_text()
    results = json.loads(text)
    assert results["summary"]["n_cells"] == 7
    lines = [line for line in text.splitlines() if line.startswith('    {"image": ')]
    assert [json.loads(line.rstrip(","))["image"] for line in lines] == ["a.png", "b.png"]


def test_peak_memory_is_the_measured_one_or_else_that_of_the_ledger():
    told = {"peak_memory_bytes": {"host": 5}}
    measured = RunOutcome(exit_code=0, wall_s=1.0, peak_memory_bytes=7)
    assert record(ledger=told).peak_memory_bytes == 5
    assert record(ledger=told, outcome=measured).peak_memory_bytes == 7
    assert record().peak_memory_bytes is None


def decode(address):
    data = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def test_layers_have_one_size_and_outlines_are_transparent_elsewhere(tmp_path):
    labels = np.zeros((60, 90), np.uint16)
    labels[10:30, 10:30] = 1
    tifffile.imwrite(tmp_path / "a_label.tiff", labels)
    tifffile.imwrite(tmp_path / "a.tif", np.arange(5400, dtype=np.uint16).reshape(60, 90))
    layers = draw_files(tmp_path / "a.tif", tmp_path / "a_label.tiff")
    picture, outlines = decode(layers.picture), decode(layers.outlines)
    assert picture.shape == (60, 90, 3)
    assert outlines.shape == (60, 90, 4)
    assert outlines[10, 15, 3] == outlines[29, 29, 3] == 255
    assert outlines[20, 20, 3] == outlines[40, 40, 3] == 0
    assert 0 <= int(picture[0, 0].max()) < 20 < 235 < int(picture[-1, -1].min())


def test_layers_of_noise_full_of_cells_stay_below_100_kb(tmp_path, rng):
    image = rng.integers(0, 256, (900, 1100, 3), np.uint8)
    labels = np.kron(np.arange(1, 9901).reshape(90, 110), np.ones((10, 10), int))
    tifffile.imwrite(tmp_path / "a.tif", image)
    tifffile.imwrite(tmp_path / "a_label.tiff", labels.astype(np.uint16))
    layers = draw_files(tmp_path / "a.tif", tmp_path / "a_label.tiff")
    assert 0 < len(layers.picture) + len(layers.outlines) < 100_000
    assert decode(layers.picture).shape[:2] == decode(layers.outlines).shape[:2]


def test_layer_of_a_file_that_cannot_be_read_is_empty(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    layers = draw_files(tmp_path / "a.tif", tmp_path / "a.tif")
    assert (layers.picture, layers.outlines) == ("", "")


@pytest.mark.parametrize("shape", [(50, 70), (1, 2000), (1025, 30), (700, 1300)])
def test_image_is_read_reduced_by_a_whole_factor(shape):
    ramp = np.broadcast_to(np.linspace(0, 1000, shape[1], dtype=np.float32), shape)
    reduced = read_reduced(ArraySource(ramp), 100)
    factor = max(1, max(shape) // 100)
    assert max(reduced.shape) < 200
    assert abs(reduced.shape[1] - shape[1] / factor) <= 1
    assert reduced.shape[0] == pytest.approx(shape[0] / factor, abs=1)
    middles = (np.arange(reduced.shape[1]) + 0.5) / reduced.shape[1] * 1000
    assert reduced[0, :, 0] == pytest.approx(middles, abs=30)


def numbers(pattern, svg):
    return [float(each) for each in re.findall(pattern, svg)]


def test_plot_is_logarithmic_on_both_axes():
    points = [Point(f"p{k}", "a", 10.0**k, 10.0**k, is_breach=False) for k in (-1, 0, 1)]
    svg = draw_plot(points)
    x, y = numbers(r'cx="([\d.]+)"', svg), numbers(r'cy="([\d.]+)"', svg)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.2)


def test_tolerance_is_flat_up_to_a_megapixel_and_then_passes_through_ten_seconds_each():
    points = [Point("p", "a", size, 10 * max(1, size), is_breach=False) for size in (0.1, 1, 50)]
    svg = draw_plot(points)
    (line,) = re.findall(r'<polyline class="tolerance" points="([^"]+)"', svg)
    corners = [tuple(map(float, each.split(","))) for each in line.split()]
    assert corners[0][1] == corners[1][1]
    x, y = numbers(r'cx="([\d.]+)"', svg), numbers(r'cy="([\d.]+)"', svg)
    assert (x[1], y[1]) == corners[1]
    slope = (corners[2][1] - corners[1][1]) / (corners[2][0] - corners[1][0])
    assert y[2] == pytest.approx(y[1] + slope * (x[2] - x[1]), abs=0.5)


def test_breach_has_a_shape_of_its_own():
    svg = draw_plot([Point("p", "a", 1.0, 30.0, is_breach=True)])
    assert "<circle" not in svg
    assert 'class="point breach" href="#p"' in svg


def test_plot_without_points_is_drawn():
    assert "tolerance" in draw_plot([])

"""Progress of a training: the page, its cost, its failures, and the terminal."""

import io
import re
import warnings

import pytest
import torch
from rich.console import Console

import beeline as bl
from beeline.data.image_files import Digits
from beeline.data.point_files import DistributionData
from beeline.runs.live.charts import chart
from beeline.runs.live.page import PAGE, LivePage
from beeline.runs.live.state import Curve, State
from beeline.runs.live.terminal import progress

CPU = torch.device("cpu")
HELD = {"value": 0.4, "by_bin": [0.2, 0.6], "mean": [1.0, 1.0], "posterior": [0.1, 50.0], "error": 0.1}


def entry(step, loss=0.5, **more):
    return {"step": step, "loss": loss, "samples_per_second": 100.0, **more}


def test_a_run_has_a_page_with_samples_and_curves(tmp_path):
    recipe = bl.Run(
        Digits(),
        {"is": "networks.MLP", "width": 16, "depth": 1},
        training=bl.Training(steps=6, batch_size=16, checkpoint_every=3),
        sampler=bl.Sampler(2),
    )
    bl.train(recipe, out=tmp_path / "a & b", device="cpu")
    text = (tmp_path / "a & b" / PAGE).read_text()
    assert "<h1>a &amp; b</h1>" in text and "finished" in text and "6 of 6" in text
    assert text.count("data:image/png;base64,") == 2 and "averaged weights" in text
    assert text.count("<polyline") == 5  # losses, held-out losses, and the held-out loss by time with two baselines
    assert "location.reload" not in text and 'http-equiv="refresh"' not in text  # it is the last version
    assert "http:" not in text and "https:" not in text  # nothing from elsewhere
    bl.train(recipe, out=tmp_path / "quiet", device="cpu", live=False)
    assert not (tmp_path / "quiet" / PAGE).exists()


def test_a_running_page_refreshes_itself_and_escapes_messages(tmp_path):
    page = LivePage(tmp_path, CPU)
    page.due(1, 10)
    page.record({"step": 0, "note": "<script>"})
    page.record(entry(1, heldout={"raw": HELD}))
    text = (tmp_path / PAGE).read_text()
    assert "location.reload" in text and 'http-equiv="refresh"' in text
    assert "&lt;script&gt;" in text and "1 of 10" in text and "0.4000" in text


def test_the_page_takes_a_bounded_share_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    page = LivePage(tmp_path, CPU, clock=lambda: clock[0])
    written = []

    def write(status):
        clock[0] += 0.3
        written.append(clock[0])

    monkeypatch.setattr(page, "write", write)
    for step in range(1, 20_001):
        clock[0] += 0.01
        page.record(entry(step))
    assert written[0] < 1 and 10 < len(written) < 15
    assert page.spent <= 0.02 * clock[0]


def test_a_page_that_cannot_be_written_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    page = LivePage(tmp_path / "file", CPU, share=1.0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for step in range(1, 5):
            page.record(entry(step))
        with page.until_the_end():
            pass
    assert len(found) == 1 and "is no longer written" in str(found[0].message)


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_the_last_version_says_how_the_run_ended(tmp_path, error, status):
    page = LivePage(tmp_path, CPU)
    with pytest.raises(error), page.until_the_end():
        page.record(entry(1))
        raise error
    text = (tmp_path / PAGE).read_text()
    assert f": {status}</title>" in text and "location.reload" not in text


def test_a_resumed_run_shows_the_earlier_losses(tmp_path):
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.0}', '{"step": 3, "loss": 0.5}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    page = LivePage(tmp_path, CPU)
    page.record(entry(3))
    assert page.state.curve.points == [(1, 2.0), (2, 1.0), (3, 0.5)]


def test_points_and_tables_are_previewed_beside_real_data():
    data = DistributionData(bl.distributions.TwoMoons(), n=50)
    raw, _ = data.load()
    modality = data.modality().fit(raw)
    assert modality.preview_beside(raw, raw) != modality.preview(raw)
    pd = pytest.importorskip("pandas")
    from beeline.data.tables.table import Table

    real = pd.DataFrame({"age": range(20, 60), "<b>": ["x", "y"] * 20})
    made = pd.DataFrame({"age": [25] * 10, "<b>": ["x"] * 10})
    text = Table().fit(real).preview_beside(made, real).decode()
    assert "<title>x: real 50.0%, generated 100.0%</title>" in text and "<b>" not in text
    shares = [float(q) for q in re.findall(r"real [\d.]+%, generated ([\d.]+)%", text)]
    assert sum(shares) == pytest.approx(200)  # each of the two columns sums to one


def test_a_curve_is_bounded_and_keeps_the_mean():
    curve = Curve(most=10)
    for step in range(1, 1001):
        curve.add(step, float(step % 7))
    points = curve.points
    assert len(points) <= 12 and points[-1][0] == 1000
    assert sum(v for _, v in points) / len(points) == pytest.approx(3.0, abs=0.3)


def test_the_remaining_time_counts_evaluations_and_stands_a_still_clock():
    clock = [0.0]
    state = State(100, clock=lambda: clock[0])
    state.record(entry(1))
    assert state.remaining is None
    state.record(entry(2))
    assert state.remaining is None
    clock[0] = 10.0
    state.record(entry(11))
    assert state.remaining == pytest.approx(89.0)
    state.record({"step": 11, "steps": 50, "note": "shorter"})
    assert state.remaining == pytest.approx(39.0)


def test_a_chart_clips_what_is_far_above_and_has_no_point_to_lose():
    text = chart({"a": [(0, 1.0), (1, 2.0)], "b": [(0, 1.0), (1, 900.0)]}, "x", "y", ["a"])
    heights = [float(pair.split(",")[1]) for pair in re.findall(r'points="([^"]+)"', text)[1].split()]
    assert heights[1] < -1000 and 'class="plot"' in text
    assert chart({"a": [(0, float("nan"))]}, "x", "y", ["a"]) == ""
    assert chart({"a": [(5, 0.0)]}, "x", "y", ["a"])  # one point, at zero


def test_the_terminal_shows_losses_rate_time_and_places(tmp_path):
    (tmp_path / PAGE).write_text("")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, highlight=False)
    with progress("[/b]", 4, console, tmp_path) as log:
        log({"step": 0, "note": "[/x] hello"})
        for step in range(1, 5):
            log(entry(step, 0.25, heldout={"ema": HELD}, previews={"raw": "r.png", "ema": "e.png"}))
    text = out.getvalue()
    for part in ("[/b]", "[/x] hello", "4/4", "loss 0.2500", "held-out 0.4000", "100 samples/s", "left"):
        assert part in text, part
    assert str(tmp_path / "samples" / "e.png") in text and str(tmp_path / PAGE) in text


def test_a_file_of_output_gets_few_lines(tmp_path):
    out = io.StringIO()
    with progress("digits", 300, Console(file=out, width=80, highlight=False), tmp_path) as log:
        for step in range(1, 301):
            log(entry(step, 0.25))
    assert out.getvalue() == "digits  300/300  loss 0.2500  100 samples/s\n"

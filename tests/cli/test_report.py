"""The page of a report is well-formed and self-contained, and its plots show the data."""

import re
from html.parser import HTMLParser

import pytest
import torch

from beeline.cli.report import page as pages
from beeline.cli.report import plots, sections
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.evaluation.evaluate import Extras, evaluate
from beeline.evaluation.metrics import Energy, Frechet
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER

RING = GaussianMixture.ring(4)
VOID = {"meta", "img", "br", "link", "input", "path", "use"}


class Page(HTMLParser):
    """Parsed page: balanced tags, ids, references within the page, and everything that a browser would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.refs, self.fetched, self.headings, self.tags = [], [], [], [], [], set()
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "xlink:href", "src", "srcset", "data", "action"):
                (self.refs if value.startswith("#") else self.fetched).append(value)
            if key == "aria-labelledby":
                self.refs.append(f"#{value}")
            self.refs += re.findall(r"url\((#[^)]+)\)", value or "")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def page():
    flow, real = RING.flow(), RING.batch(300, Rng(0))
    samplers = {"teacher": Sampler(steps=8), "<student & co>": Sampler(steps=1, solver=EULER)}
    x0 = Rng(1).normal(torch.empty(60, 2))
    reports, grids, curves, paths = {}, {}, {}, {}
    for name, sampler in samplers.items():
        reports[name] = evaluate(
            flow, sampler, None, real, 100, Rng(0), (Frechet(), Energy()), reference_name="ring",
            extras=Extras(rows=20, replicates=5, splits=2),
        )  # fmt: skip
        seen = []
        sampler(flow, x0[:5], watch=lambda x, t, seen=seen: seen.append(x))
        paths[name] = torch.stack(seen)
        grids[name] = {1: Sampler(1, solver=EULER)(flow, x0), 16: Sampler(8)(flow, x0)}
        score = reports[name]["energy distance"]
        curves[name] = [(1, 2.5, None), (sampler.evaluations + 1, score.value + 1, score.interval)]
    parts = [
        sections.introduction(),
        sections.samples(grids, real=real.x1[:60], limits=(-6, 6)),
        sections.quality(curves, "energy distance", floor=0.1),
        sections.trajectories(paths, straightness={"teacher": 0.3}),
        sections.loss_by_time({"teacher": [1.0, 2.0]}, mean=[2.0, 2.1], posterior=[0.9, 30.0]),
        sections.training({"teacher": [(i, 1 / (i + 1)) for i in range(100)]}),
        sections.scores(reports),
        sections.lineage([{"name": "teacher", "made_by": "train ring"}, {"name": "<student & co>", "from": "teacher"}]),
        sections.commands(["beeline demo --out demo"]),
    ]
    return pages.page(parts, "A title with <b>", "A lead")


def test_the_page_is_well_formed_and_self_contained(page):
    seen = Page(page)
    assert page.startswith("<!doctype html>") and "<b>" not in re.search("<title>(.*)</title>", page)[1]
    assert seen.headings == [
        "About this report", "Samples", "Quality against cost", "Trajectories from noise to data", 
        "Held-out loss by time", "Training", "Scores", "Lineage", "Reproduce",
    ]  # fmt: skip
    assert all(source.startswith("data:image/png;base64,") for source in seen.fetched)
    assert "http" not in page and "@import" not in page and "<script src" not in page and "link" not in seen.tags
    assert "dialog" in seen.tags and page.count("<script>") == 1  # pictures are enlarged by a few lines of script
    assert len(set(seen.ids)) == len(seen.ids)
    assert {ref[1:] for ref in seen.refs} <= set(seen.ids)
    assert "&lt;student &amp; co&gt;" in page and "<student" not in page


def test_no_placeholder_colour_is_left(page):
    assert not re.search("#0a0a0a|#0b0b0b|#0c0c0c|#01000", page)
    assert {v for v in re.findall(r"var\(--([a-z0-9-]+)\)", page)} <= {*plots.VARIABLES.values(), "paper", "panel"}
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_svg_is_deterministic_and_labelled():
    plot = lambda: plots.training({"a": [(0, 1.0), (1, 0.5)]})  # noqa: E731
    assert plots.svg(plot(), "x") == plots.svg(plot(), "x") != plots.svg(plot(), "y")
    assert 'aria-labelledby="x-caption"' in plots.svg(plot(), "x")
    assert 'aria-label="&lt;a&gt; &amp; b"' in plots.svg(plot(), "x", about="<a> & b")


def test_colours_follow_the_order_of_the_models():
    assert plots.colour("b", ["a", "b"]) == plots.SERIES[1]
    drawn = plots.trajectories({"b": torch.zeros(2, 1, 3), "a": torch.ones(2, 1, 3)}, ["a", "b"])
    assert plots.VARIABLES[plots.SERIES[1]] in plots.svg(drawn["b"], "n")
    assert plots.VARIABLES[plots.SERIES[0]] not in plots.svg(drawn["b"], "n")


def test_the_plane_is_spanned_by_the_principal_components():
    noise = Rng(0).normal(torch.empty(40, 10, 6, dtype=torch.float64))
    path = noise * torch.tensor([1.0, 9.0, 1.0, 5.0, 1.0, 1.0]) + 3
    centre, two = plots.plane({"a": path[:, :5], "b": path[:, 5:]})
    assert torch.allclose(centre, path.flatten(0, 1).mean(0))
    assert two.T @ two == pytest.approx(torch.eye(2).numpy(), abs=1e-10)
    assert abs(float(two[1, 0])) > 0.95 and abs(float(two[3, 1])) > 0.95


def test_labels_are_moved_apart_as_little_as_possible():
    assert plots.spread([0.1, 0.5], 0.1) == [0.1, 0.5]
    moved = plots.spread([0.5, 0.52, 0.48, 0.9], 0.1)
    assert moved == pytest.approx([0.5, 0.6, 0.4, 0.9])
    chain = sorted(plots.spread([0.0, 0.05, 0.1, 0.12], 0.1))
    assert min(b - a for a, b in zip(chain, chain[1:], strict=False)) == pytest.approx(0.1)


def test_tiles_are_separated_by_transparent_gaps():
    import io

    import numpy as np
    from PIL import Image as Picture

    x = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    got = np.asarray(Picture.open(io.BytesIO(plots.tiles(x, columns=2))))
    assert got.shape == (9, 9, 4)
    assert got[0, 0].tolist() == [0, 0, 0, 255] and got[0, 5].tolist() == [128, 128, 128, 255]
    assert got[5, 0].tolist() == [255, 255, 255, 255] and got[4, 4, 3] == 0 and got[5, 5, 3] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sections.samples({}), "no samples"),
        (lambda: sections.quality({"a": []}, "x"), "no scores to plot"),
        (lambda: sections.trajectories({}), "no trajectories"),
        (lambda: sections.scores({}), "no reports"),
        (lambda: pages.page([sections.introduction()] * 2), "two sections have the same title"),
        (lambda: plots.tiles(torch.zeros(2, 5, 4, 4)), "one channel or three"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()

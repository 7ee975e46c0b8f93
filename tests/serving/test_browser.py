"""The studio in a real browser; skipped where there is no Chromium, or no playwright (extra ``browser``)."""

import contextlib
import json
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image as Picture

from beeline.sampling.sampler import Sampler
from beeline.serving.keys import Keys, hashed
from beeline.serving.routes.waiting import Served
from beeline.serving.service import Limits, Service
from tests.serving.test_service import made_bundle

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: extra browser")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: extra serve")
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.engine, pytest.mark.skipif(PROGRAM is None, reason="no chromium is installed")]


@contextlib.contextmanager
def serving(service, keys=None):
    """The address of a server with the studio."""
    from beeline.serving.app import app
    from beeline.serving.studio.router import studio

    more = (studio({name: f"runs/{name}" for name in service.models}, keys is not None),)
    server = uvicorn.Server(uvicorn.Config(app(Served(service), keys, more=more), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def service():
    bundle = made_bundle()
    made = Service({"small": bundle, "other": bundle}, Limits(batch=16, samples=40))
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(service):
    with serving(service) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])  # containers have no user
        yield found
        found.close()


@pytest.fixture
def page(browser, address):
    """The page after its first samples; whatever it logs as an error fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, reduced_motion="reduce")
    found, wrong = context.new_page(), []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((address, "data:")) else None)
    found.set_default_timeout(20_000)
    found.goto(address)
    drawn(found)
    yield found
    context.close()
    assert not wrong, "errors, or requests to other places"


def until(page, script, seconds=30):
    """Wait until something holds; the policy of the page forbids ``wait_for_function``, which evaluates text in it."""
    end = time.monotonic() + seconds
    while not page.evaluate(script):
        assert time.monotonic() < end, script
        page.wait_for_timeout(20)


def drawn(page):
    """Wait until nothing is drawn any more."""
    until(page, "!!document.body.dataset.first && !document.body.classList.contains('busy')")
    page.wait_for_selector(".tile canvas")


def pixels(page, chosen=".tile canvas"):
    """The first picture of the page, as it is on its canvas."""
    script = """(one) => [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data]"""
    return np.array(page.locator(chosen).first.evaluate(script)).reshape(8, 8, 4)[..., 0]


def test_a_picture_is_drawn_and_the_seed_changes_it(page, service):
    seed = int(page.input_value("#seed"))
    (bundle,) = {id(one.bundle): one.bundle for one in service.models.values()}.values()
    assert np.abs(pixels(page) - bundle.sample(1, seeds=[seed], label=0).pixels[0, ..., 0].astype(int)).max() <= 1
    page.fill("#seed", "12345")
    until(page, "document.querySelector('.meta').textContent.includes('seeds 12345')")
    assert np.abs(pixels(page) - bundle.sample(1, seeds=[12345], label=0).pixels[0, ..., 0].astype(int)).max() <= 1
    page.click("#lock")
    page.click("#draw")
    drawn(page)
    assert page.input_value("#seed") == "12345", "a seed that is kept stays"
    page.keyboard.press("l")
    page.keyboard.press("r")
    until(page, "!document.querySelector('.meta').textContent.includes('seeds 12345')")
    assert page.input_value("#seed") != "12345" and page.get_attribute("#lock", "aria-pressed") == "false"


def test_the_slider_goes_from_noise_to_data(page):
    last = pixels(page)
    slider = page.get_by_label("Time along the trajectory")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(100)
    assert not np.array_equal(pixels(page), last) and slider.get_attribute("aria-valuetext") == "t = 0.00"
    page.keyboard.press("End")
    page.wait_for_timeout(100)
    assert np.array_equal(pixels(page), last)


def test_a_long_run_is_stopped(page, service):
    page.get_by_label("Steps").focus()
    page.keyboard.press("End")
    page.wait_for_selector(".busy")
    running = [job for job in service.jobs.values() if job.work.sampler.steps == 1000]
    page.keyboard.press("Escape")
    until(page, "document.getElementById('status').textContent === 'Stopped.'")
    assert page.inner_text("#draw") == "Draw" and all(job.wait(20) for job in running)
    assert {job.state.value for job in running} == {"cancelled"}


def test_a_mask_is_painted_and_the_rest_is_kept(page):
    page.click("#tab-edit")
    page.wait_for_selector("#mask")
    page.wait_for_timeout(500)  # its first picture
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.9 * box["height"], steps=12)
    page.mouse.up()
    page.click("#draw")
    until(page, "document.querySelector('.meta').textContent.includes('outside of the mask')")
    assert "outside of the mask it changed by 0.0 %" in page.inner_text(".meta")
    page.click("#tab-history")
    assert page.locator(".card").first.inner_text().startswith("Edit · small")


def test_a_message_of_the_server_is_shown_and_goes_away(page):
    page.fill("#seed", "-1")
    page.wait_for_selector("#alert:visible")
    assert "whole number from 0" in page.inner_text("#alert")
    page.fill("#seed", "1")
    page.wait_for_selector("#alert", state="hidden")
    page.route("**/v1/stream", lambda route: route.continue_(post_data=json.dumps({"n": 99})))
    page.click("#draw")
    page.wait_for_selector("#alert:visible")
    assert "99 samples were requested; a request has 1 to 40" in page.inner_text("#alert")


def test_views_of_evaluations_and_of_two_samplers(page):
    page.click("#tab-evaluations")
    until(page, "document.querySelectorAll('.strip small').length > 8")
    one = pixels(page)
    page.locator("#evaluations").focus()
    page.keyboard.press("End")
    until(page, "document.querySelector('.meta').textContent.startsWith('32 evaluations')")
    assert not np.array_equal(pixels(page), one)
    page.click("#tab-compare")
    until(page, "document.querySelector('.actions .meta').textContent.includes('differ by')")
    assert "differ by 0.0 %" in page.inner_text(".actions .meta"), "two models that are one"
    assert page.locator(".side").count() == 2


def test_requests_are_copied_as_code_and_the_history_is_exported(page, tmp_path):
    page.click("[data-copy=command]")
    page.wait_for_selector("pre:visible")
    assert page.inner_text("pre").startswith("beeline sample runs/small -n 20 --seeds 7,8,9")
    page.click("#tab-history")
    with page.expect_download() as waited:
        page.get_by_text("Export").click()
    waited.value.save_as(tmp_path / "history.json")
    (entry,) = json.loads((tmp_path / "history.json").read_text())
    assert entry["request"]["seed"] == 7 and entry["evaluations"] == Sampler(4).evaluations
    page.locator(".card").click()
    drawn(page)
    assert page.input_value("#seed") == "7" and page.get_attribute("#lock", "aria-pressed") == "true"


def test_everything_has_a_label_and_fits_a_phone_in_both_colours(browser, address, tmp_path):
    unnamed = """() => [...document.querySelectorAll('button, input, select, textarea, canvas.paint')].filter((one) =>
      one.checkVisibility() && !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim()))
      .map((one) => one.outerHTML)"""
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": 360, "height": 740}, has_touch=True, color_scheme=scheme, reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(address)
        for tab in ("draw", "evaluations", "compare", "edit", "history"):
            page.tap(f"#tab-{tab}")
            page.wait_for_timeout(150)
            assert page.evaluate(unnamed) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
        page.screenshot(path=tmp_path / "it.png")
        light = np.asarray(Picture.open(tmp_path / "it.png").convert("L")).mean() > 128
        assert light == (scheme == "light")
        context.close()


def test_a_key_is_asked_for_where_the_server_wants_one(browser, service):
    with serving(service, Keys({hashed("secret"): "ada"})) as address:
        page = browser.new_context(reduced_motion="reduce").new_page()
        page.goto(address)
        page.fill("dialog input", "secret")
        page.keyboard.press("Enter")
        drawn(page)
        assert page.locator(".tile").count() == 20
        page.context.close()

"""The web page: what it computes, what it refuses, and a browser that uses it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

pytest.importorskip("gradio", reason="gradio is not installed (requirements-app.txt)")

from data.images import save_image  # noqa: E402
from models.face import Face  # noqa: E402
from pipeline.cli import UserError  # noqa: E402
from styles.controls import REGIONS, Control, Look  # noqa: E402
from web.controls import first_values, kept_values, look_of, step_of, value_of  # noqa: E402
from web.jobs import Trainer, check_name  # noqa: E402
from web.studio import Cache, Studio, Wish, truncated  # noqa: E402
from web.thumbs import Thumbnails  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
SHOTS = os.environ.get("APP_SCREENSHOTS")
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")


class Code:
    def __reduce__(self):
        return os.system, ("touch /tmp/app_ran_code",)


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """A folder of weights with a visible style, and a file that wants to run code."""
    from checkpoints.builders import load_base
    from models.deformable import DeformableGenerator
    from styles.deformable import save_style

    path, base = tmp_path_factory.mktemp("weights"), load_base("starter")
    deformable = DeformableGenerator.for_generator(base.generator)
    with torch.no_grad():
        for block in deformable.tps.stns:
            block.loc_net.fc[2].bias.mul_(0.8)
    save_style(path / "alpha_style.safetensors", deformable, w_avg=base.w_avg,
               base={"name": "starter", "fingerprint": base.fingerprint}, training={})
    torch.save({"g": Code(), "stns": {}, "rtstn": {}}, path / "evil.pt")
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    Image.fromarray(astronaut()).save(path)
    return path


@pytest.fixture()
def studio(styles, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    return Studio()


ALPHA = Control("alpha", "degree", default=0.8, samples=0.6, low=-0.5, high=1.5, per="region")


def test_widgets_say_what_a_control_takes(tmp_path):
    assert first_values(ALPHA, samples=True) == [0.6] + [1.0] * len(REGIONS)
    assert value_of(ALPHA, [0.5] + [1.0] * len(REGIONS)) == 0.5
    alpha = value_of(ALPHA, [0.5, *(2.0 if name == "eyes" else 1.0 for name in REGIONS)])
    assert alpha.degree("eyes") == 1.0 and alpha.degree("jaw") == 0.5
    colour = Control("colour", "left out", high=1.5)
    assert first_values(colour, samples=False) == [False, 1.0] and value_of(colour, [False, 1.0]) is None
    assert value_of(colour, [True, 0.3]) == 0.3
    rows = Control("weights", "by row", default=1.0, per="row")
    assert value_of(rows, [0.5, " "]) == 0.5 and value_of(rows, [0.5, "0,1,0.5"]) == (0.0, 1.0, 0.5)
    with pytest.raises(UserError, match="Weights: expected a number"):
        value_of(rows, [0.5, "0,one"])
    choice = Control("model", "one", type="choice", choices=("a", "b"), default="b")
    assert value_of(choice, first_values(choice, samples=False)) == "b" and value_of(choice, [None]) is None
    either = Control("exemplar", "one", type="choice", choices=("a", "b"), files=True)
    (tmp_path / "own.png").write_bytes(b"picture")
    assert first_values(either, samples=False) == [None, None] and value_of(either, ["a", None]) == "a"
    assert value_of(either, ["a", str(tmp_path / "own.png")]).path == str(tmp_path / "own.png")
    assert kept_values(either, {"exemplar": (either, ["a", str(tmp_path / "gone.png")])}, samples=False) == ["a", None]
    file = Control("image", "one", type="file")
    (tmp_path / "image").write_bytes(b"1")
    assert value_of(file, [None]) is None and value_of(file, [str(tmp_path / "image")]).digest
    with pytest.raises(UserError, match="cannot be read"):
        value_of(file, [str(tmp_path / "gone")])


def test_values_are_kept_where_the_next_style_has_the_same_control():
    kept = {"alpha": (ALPHA, [0.2] + [1.0] * len(REGIONS))}
    other = Control("alpha", "degree", default=1.0, low=0.0, high=2.0)
    assert look_of((ALPHA,), kept, samples=False) == Look(alpha=0.2)
    assert look_of((other,), kept, samples=False) == Look(alpha=1.0)


@pytest.mark.parametrize("ends", [(-0.5, 1.5), (0.0, 1.0), (0.0, 1.5), (0.0, 200.0), (-0.001, 0.001)])
def test_sliders_have_30_to_75_steps(ends):
    assert 29.9 <= (ends[1] - ends[0]) / step_of(*ends) <= 75.1


def test_truncation_moves_rows_and_residual():
    face = Face(torch.ones(1, 2, 4), torch.full((1, 3, 8, 8), 2.0))
    moved = truncated(face, torch.zeros(4), 0.25)
    assert torch.equal(moved.w_plus, torch.full((1, 2, 4), 0.25)) and torch.equal(moved.residual, torch.full((1, 3, 8, 8), 0.5))
    assert truncated(Face(face.w_plus), torch.zeros(4), 0.25).residual is None


def test_studio_inverts_once_and_draws_every_view(studio, photo):
    first = studio.draw(photo, "alpha_style", Wish(Look(alpha=1.0)))
    prepared = studio.prepare(photo, "alpha_style")
    assert first.size == (256, 128) and studio.prepare(photo, "alpha_style") is prepared
    assert studio.draw(photo, "alpha_style", Wish(Look(alpha=1.0), view="face")).size == (128, 128)
    whole = np.asarray(studio.draw(photo, "alpha_style", Wish(Look(alpha=1.0), view="whole photo")), int)
    assert whole.shape == (512, 512, 3) and (whole[300:] == astronaut()[300:]).all()
    assert np.abs(np.asarray(first, int) - np.asarray(studio.draw(photo, "alpha_style", Wish(Look(alpha=0.0))), int)).mean() > 0.5
    average = [np.asarray(studio.draw(photo, "alpha_style", Wish(Look(alpha=0.0), truncation=0.0, view="face")), int)]
    assert np.abs(average[0] - np.asarray(first, int)[:, 128:]).mean() > 1
    assert studio.random_faces("alpha_style", Wish(Look(alpha=0.5), truncation=0.7), seed=1, count=2).size[0] >= 256


def test_bad_styles_and_photos_are_one_line(studio, tmp_path):
    from checkpoints import CheckpointError

    Image.new("RGB", (200, 200), "green").save(tmp_path / "green.png")
    for style, path, words in (("evil", tmp_path / "green.png", "evil.pt"), ("../x", tmp_path / "green.png", "no such style"),
                               ("alpha_style", tmp_path / "green.png", "no face found")):
        with pytest.raises((UserError, CheckpointError)) as error:
            studio.draw(path, style, Wish())
        assert words in str(error.value) and "\n" not in str(error.value)
    assert not Path("/tmp/app_ran_code").exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 65, "a.pt", "ä", "-x", "alpha_style"])
def test_bad_names_are_refused(styles, monkeypatch, name):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    with pytest.raises(UserError):
        check_name(name, overwrite=False)
    if name == "alpha_style":
        assert check_name(name, overwrite=True) == name


def test_one_training_at_a_time_and_both_images(tmp_path):
    trainer = Trainer(tmp_path)
    with pytest.raises(UserError, match="both images"):
        next(trainer.train(None, "x", "name", steps=1, align=False, overwrite=False))
    trainer.lock.acquire()
    with pytest.raises(UserError, match="under way"):
        next(trainer.train("x", "y", "name", steps=1, align=False, overwrite=False))
    assert not trainer.cancel()


def test_failed_training_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "weights"))
    (tmp_path / "bad.png").write_text("no image")
    steps = list(Trainer(tmp_path / "runs").train(str(tmp_path / "bad.png"), str(tmp_path / "bad.png"), "mine", steps=1,
                                                 align=False, overwrite=False))
    assert steps[-1].failed and "bad.png" in steps[-1].line and not list((tmp_path / "weights").glob("*.safetensors"))


def test_cache_keeps_the_last_few():
    cache = Cache(2)
    for key in ("a", "b", "a", "c"):
        cache.take(key, lambda key=key: key.upper())
    assert list(cache) == ["a", "c"]


@pytest.fixture(scope="module")
def page(styles, tmp_path_factory):
    """The address of a running page, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("page") / "log.txt"
    with pytest.MonkeyPatch.context() as patch:  # pictures of styles that are there need not be drawn
        patch.setenv("CHECKPOINTS_DIR", str(styles))
        thumbs = Thumbnails(log.parent / "runs" / "thumbnails")
        for number, style in enumerate(thumbs.missing()):
            if style != "evil":
                save_image(thumbs._file(style), Image.new("RGB", (96, 96), (20 * number % 256, 90, 120)))
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--outdir", str(log.parent / "runs"), "--max-upload-mb", "2"],
            cwd=ROOT, env={**os.environ, "CHECKPOINTS_DIR": str(styles)}, stdout=file, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=2).read()
            break
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.3)
    yield address
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def status(address):
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_files_outside_are_not_served(page):
    starter = ROOT / "checkpoints" / "starter" / "generator.safetensors"
    for path in ("/etc/passwd", str(starter), str(ROOT / "README.md"), "../../../../etc/passwd", "..%2f..%2fetc/passwd",
                 str(ROOT / "outputs" / ".." / "README.md"), "checkpoints/starter/generator.safetensors", "app.py"):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/"):
            code, body = status(page + route + path)
            assert code in (403, 404, 405, 422) and b"root:" not in body, (route, path, code)


def test_large_uploads_are_refused(page):
    boundary = "x" * 20
    body = (f"--{boundary}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a.png\"\r\n"
            "Content-Type: image/png\r\n\r\n").encode() + bytes(3 * 2**20) + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(page + "/gradio_api/upload", body,
                                     {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as error:
        urllib.request.urlopen(request, timeout=20).read()
    assert getattr(error.value, "code", 413) == 413


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (requirements-app.txt)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
                 "--window-size=1280,1000", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                 f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def until(condition, *, seconds=60.0, what="the page"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {what}")


def find(browser, selector, *, seconds=90.0):
    from selenium.webdriver.common.by import By

    return until(lambda: next((e for e in browser.find_elements(By.CSS_SELECTOR, selector)), None), seconds=seconds,
                 what=selector)


def picture(browser, holder, *, other=None, seconds=90.0):
    """Return the pixels of the image in an element, once it is there and its address is another than ``other``."""
    from selenium.webdriver.common.by import By

    def address():
        found = browser.find_elements(By.CSS_SELECTOR, f"{holder} img")
        source = found[0].get_attribute("src") if found else None
        return source if source and source != other and "base64" not in source else None

    source = until(address, seconds=seconds, what=f"an image in {holder}")
    with urllib.request.urlopen(source, timeout=20) as answer:
        (pixels,) = [np.asarray(Image.open(answer).convert("RGB"), int)]
    return source, pixels


def shot(browser, name):
    if SHOTS:
        time.sleep(0.8)
        browser.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def open_tab(browser, name):
    from selenium.webdriver.common.by import By

    until(lambda: next((b for b in browser.find_elements(By.CSS_SELECTOR, "button[role=tab]") if b.text == name), None),
          what=name).click()


@needs_browser
def test_browser_restyles_a_photo_and_moves_a_slider(page, browser, photo):
    import json

    browser.get(page)
    find(browser, "#photo input[type=file]").send_keys(str(photo))
    first, before = picture(browser, "#restyled")
    assert before.shape == (512, 1024, 3) and before.std() > 10
    slider = find(browser, "#photo_alpha input[type=number]")
    browser.execute_script("arguments[0].value = '-0.5'; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
                           "arguments[0].dispatchEvent(new Event('change', {bubbles: true}));"
                           "arguments[0].dispatchEvent(new Event('blur', {bubbles: true}));", slider)
    _, after = picture(browser, "#restyled", other=first)
    assert np.abs(after - before)[:, :128].max() <= 1, "the photo must stay"
    assert np.abs(after - before)[:, 128:].mean() > 1, "the restyled face must change"
    shot(browser, "photo")
    hosts = {json.loads(entry["message"])["message"].get("params", {}).get("request", {}).get("url", "")
             for entry in browser.get_log("performance")}
    foreign = [url for url in hosts if url.startswith("http") and not url.startswith(page)]
    assert not foreign, foreign


@needs_browser
def test_browser_draws_random_faces(page, browser):
    open_tab(browser, "Random faces")
    find(browser, "#draw_random").click()
    _, pixels = picture(browser, "#random")
    assert pixels.shape[1] > 600 and pixels.std() > 10
    shot(browser, "random")


@needs_browser
def test_browser_trains_and_cancels(page, browser, styles):
    open_tab(browser, "Train")
    folder = ROOT / "data" / "style_images_aligned"
    find(browser, "#source input[type=file]").send_keys(str(folder / "source_sample.png"))
    find(browser, "#target input[type=file]").send_keys(str(folder / "target_sample.png"))
    until(lambda: browser.execute_script("return document.querySelectorAll('#source img, #target img').length") >= 2)
    text = "return document.querySelector('#status textarea').value"

    def train(name):
        field = find(browser, "#name textarea, #name input")
        field.clear()
        field.send_keys(name)
        browser.execute_script("document.activeElement.blur()")
        find(browser, "#train").click()

    train("../escape")
    until(lambda: "letters, digits" in browser.find_element("css selector", "body").text, what="the refusal of a name")
    train("from_page")
    until(lambda: "Inverting" in browser.execute_script(text) or "Step" in browser.execute_script(text), seconds=90)
    shot(browser, "train")
    time.sleep(float(os.environ.get("APP_TRAIN_SECONDS", "0")))
    shot(browser, "train_later")
    find(browser, "#cancel").click()
    until(lambda: "Cancelled" in browser.execute_script(text), seconds=60, what="the end of the training")
    assert not list(styles.glob("from_page*")) and not list(styles.glob("*.part")) and not list(styles.glob(".*"))

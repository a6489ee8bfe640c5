"""The page in a real browser: every kind of widget is dragged and seen to change the picture; clips, webcam, formats, people.

Pictures of what was seen go to the folder that APP_SCREENSHOTS names.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut
from test_app import browser, find, needs_browser, open_tab, page, photo, picture, shot, styles, until  # noqa: F401
from test_video import make_clip

from data.images import read_image
from pipeline.cli import UserError
from styles.registry import controls_of
from web import thumbs
from web.layout import NO_STYLE, recipe
from web.thumbs import Thumbnails
from web.uploads import Previews, plain

STYLE = "cartoon"


def drag(browser, holder, share):
    """Drag the slider in ``holder`` to a share of its length with the mouse."""
    from selenium.webdriver import ActionChains

    slider = find(browser, f"{holder} input[type=range]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    time.sleep(0.4)
    assert slider.is_enabled() and slider.is_displayed(), holder
    width = slider.size["width"]
    place = round((share - 0.5) * (width - 16))
    ActionChains(browser).move_to_element_with_offset(slider, place, 0).click_and_hold().move_by_offset(2, 0).release().perform()


def changes(browser, holder, action, *, seconds=120.0):
    """Do something, wait until the picture in ``holder`` has other pixels, and return them."""
    _, before = picture(browser, holder)
    action()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _, after = picture(browser, holder)
        if after.shape != before.shape or np.abs(after - before).max() > 4:
            return after
        time.sleep(0.3)
    raise AssertionError(f"{holder} did not change")


def choose(browser, label, value):
    """Choose from a list by typing."""
    from selenium.webdriver.common.keys import Keys

    field = find(browser, f"input[aria-label='{label}']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.click()
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(value, Keys.ENTER)


def click(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)


def unfold(browser, text):
    for button in browser.find_elements("css selector", "button.label-wrap"):
        if text in button.text and button.is_displayed() and "open" not in button.get_attribute("class").split():
            click(browser, button)
            time.sleep(0.5)


def pictures(browser, holder):
    """Return the buttons of the small pictures in the first gallery that is seen."""
    return [button for button in browser.find_elements("css selector", f"{holder} button:has(img)") if button.is_displayed()]


def whole_names(browser, holder):
    """Return the names below small pictures, once there are any; each is a picture, nothing of a name is cut off or out of view,
    and a name goes on in the next line after an underscore alone."""
    until(lambda: pictures(browser, holder), what=f"pictures in {holder}")
    cut = ("let b = arguments[0], c = b.querySelector('.caption-label'), r = b.parentElement.getBoundingClientRect();"
           "return [c.innerText.trim(), c.scrollWidth <= c.clientWidth + 1 && c.scrollHeight <= c.clientHeight + 1"
           " && b.getBoundingClientRect().right <= r.right + 1 && r.right <= innerWidth,"
           "b.querySelector('img').naturalWidth, c.clientHeight / parseFloat(getComputedStyle(c).lineHeight)]")
    found = [browser.execute_script(cut, button) for button in pictures(browser, holder)]
    assert all(whole and width > 0 and lines < 2 + name.count("_") for name, whole, width, lines in found), found
    return [name.replace("\u200b", "") for name, *_ in found]


@needs_browser
def test_every_kind_of_widget_of_a_photo_changes_it(page, browser, photo):  # noqa: F811
    browser.get(page)
    find(browser, "#photo_alpha input[type=range]")
    find(browser, "#photo input[type=file]").send_keys(str(photo))
    picture(browser, "#restyled")
    time.sleep(3)
    names = [element.get_attribute("id") for element in browser.find_elements("css selector", "[id^=photo_]")
             if element.find_elements("css selector", "input[type=range]") and element.is_displayed()]
    assert "photo_alpha" in names and "photo_truncation" in names
    for name in names:
        changes(browser, "#restyled", lambda name=name: drag(browser, f"#{name}", 0.1 if name == "photo_truncation" else 0.9))
        # The result stays in view beside whatever is moved.
        top, bottom = browser.execute_script("let r = document.querySelector('#restyled').getBoundingClientRect();"
                                             "return [r.top, r.bottom]")
        assert bottom > 60 and top < 700, name
    shot(browser, "photo_1280")
    unfold(browser, "More")
    changes(browser, "#restyled", lambda: drag(browser, "#photo_alpha_eyes", 0.05))
    faces = changes(browser, "#restyled", lambda: click(browser, find(browser, "#view input[value='with inversion']")))
    assert faces.shape[1] == 3 * faces.shape[0]
    whole = changes(browser, "#restyled", lambda: click(browser, find(browser, "#view input[value='whole photo']")))
    assert whole.shape[:2] == (512, 512)
    unfold(browser, "Mix with")
    changes(browser, "#restyled", lambda: choose(browser, "Second style", "vangogh"))
    changes(browser, "#restyled", lambda: drag(browser, "#share", 0.95))


@pytest.mark.nightly
@needs_browser
def test_sliders_of_random_faces(page, browser):  # noqa: F811
    browser.get(page)
    open_tab(browser, "Random faces")
    drag(browser, "#faces", 0.05)
    draw = lambda: click(browser, find(browser, "#draw_random"))  # noqa: E731
    draw()
    picture(browser, "#random")
    for holder in ("#random_truncation", "#random_alpha", "#faces"):
        def act(holder=holder):
            drag(browser, holder, 0.2)
            time.sleep(0.5)
            draw()

        changes(browser, "#random", act)
    shot(browser, "random_1280")


@needs_browser
@pytest.mark.parametrize("kind", ["deep.png", "a.avif", "a.heic", "a.tif", "a.jfif"])
def test_uploads_are_read_as_they_are(page, browser, tmp_path, kind):  # noqa: F811
    pixels, path = astronaut()[:260, 90:350], tmp_path / kind
    if kind == "deep.png":
        Image.fromarray(pixels.mean(axis=2).astype(np.uint16) * 257).save(path)
    else:
        if kind == "a.heic":
            pytest.importorskip("pillow_heif", reason="the optional reader of HEIC is not installed")
        Image.fromarray(pixels).save(path, {"a.jfif": "JPEG", "a.heic": "HEIF"}.get(kind))
    browser.get(page)
    find(browser, "#photo_alpha")
    find(browser, "#photo input[type=file]").send_keys(str(path))
    _, pixels = picture(browser, "#restyled")
    assert pixels.shape[1] == 2 * pixels.shape[0] and pixels[:, :pixels.shape[0]].std() > 20


@needs_browser
def test_messages_name_no_folder_and_no_option(page, browser, tmp_path):  # noqa: F811
    Image.new("RGB", (200, 200), "green").save(tmp_path / "green.png")
    browser.get(page)
    find(browser, "#photo_alpha")
    find(browser, "#photo input[type=file]").send_keys(str(tmp_path / "green.png"))
    text = until(lambda: " ".join(e.text for e in browser.find_elements("css selector", ".toast-body")), what="the message")
    assert "no face found" in text and "/" not in text and "--" not in text


@needs_browser
def test_which_faces_are_found_is_a_widget(page, browser, photo):  # noqa: F811
    """A face that is smaller than the slider says is left out, in words for the page; the next value takes it again."""
    browser.get(page)
    find(browser, "#photo_alpha")
    find(browser, "#photo input[type=file]").send_keys(str(photo))
    picture(browser, "#restyled")
    unfold(browser, "Which faces")
    assert len(browser.find_elements("css selector", "#finder input[type=radio]")) == 2
    drag(browser, "#min_face", 0.95)
    text = until(lambda: " ".join(e.text for e in browser.find_elements("css selector", ".toast-body")), what="the message")
    assert "is left out, it is small" in text and "--" not in text
    drag(browser, "#min_face", 0.05)
    changes(browser, "#restyled", lambda: drag(browser, "#photo_alpha", 0.9))


@needs_browser
def test_pictures_of_styles_choose_them(page, browser):  # noqa: F811
    """There is one for each style but the damaged one, with its whole name; a click on it chooses the style."""
    browser.get(page)
    find(browser, "#photo_alpha")
    names = whole_names(browser, ".styles")
    assert {"alpha_style", "cartoon", "ink", "exemplars"} <= set(names) and "evil" not in names
    click(browser, pictures(browser, ".styles")[names.index("ink")])
    until(lambda: browser.execute_script("return document.querySelector('input[aria-label=Style]').value") == "ink",
          what="the choice of a style")


@needs_browser
def test_exemplars_have_pictures_with_whole_names(page, browser):  # noqa: F811
    browser.get(page)
    find(browser, "#photo_alpha")
    choose(browser, "Style", "exemplars")
    find(browser, "#photo_exemplar_pictures img")
    names = whole_names(browser, "#photo_exemplar_pictures")
    control = next(control for control in controls_of("exemplars") if control.name == "exemplar")
    assert names == [name for name in control.choices if name != "random"] and max(map(len, names)) > 12
    shot(browser, "exemplars_1280")
    click(browser, pictures(browser, "#photo_exemplar_pictures")[1])
    until(lambda: names[1] in str(browser.execute_script(
        "let e = document.querySelector('#photo_exemplar input:checked, #photo_exemplar input'); return e.value")),
        what="the choice of an exemplar")


@needs_browser
def test_a_clip_is_drawn(page, browser, tmp_path):  # noqa: F811
    make_clip(tmp_path / "clip.ts", frames=4, face=True, size=(320, 320))
    browser.get(page)
    open_tab(browser, "Clip")
    find(browser, "#clip input[type=file]").send_keys(str(tmp_path / "clip.ts"))
    time.sleep(2)
    click(browser, find(browser, "#draw_clip"))
    text = "return document.querySelector('#clip_status textarea').value"
    until(lambda: "Done: 4 frames" in browser.execute_script(text), seconds=150, what="the clip")
    until(lambda: browser.find_elements("css selector", "#clip_result video"), what="the video")
    assert until(lambda: browser.execute_script("return document.querySelector('#clip_result video').videoWidth"),
                 what="a video that plays") == 320
    shot(browser, "clip_1280")


@needs_browser
def test_the_webcam_comes_back_with_its_rate(page, browser):  # noqa: F811
    browser.get(page)
    open_tab(browser, "Webcam")
    # Found and clicked at once, for the page makes the buttons anew.
    press = ("let b = [...document.querySelectorAll('#camera button')].find(b => b.innerText.includes(arguments[0]));"
             "if (b) b.click(); return !!b")
    for word in ("Access", "Record"):
        until(lambda word=word: browser.execute_script(press, word), what=f"the camera's button {word}")
    _, pixels = picture(browser, "#live")
    text = until(lambda: browser.execute_script("return document.querySelector('#live_rate textarea').value"), what="the rate")
    assert "frames a second" in text and pixels.std() > 5
    shot(browser, "webcam_1280")


@needs_browser
def test_two_people_at_once(page, browser, photo, tmp_path):  # noqa: F811
    """Each window gets the picture of its own photo."""
    Image.fromarray(np.ascontiguousarray(astronaut()[:, ::-1])).save(tmp_path / "mirrored.png")
    windows, seen = [browser.current_window_handle], []
    browser.switch_to.new_window("window")
    windows.append(browser.current_window_handle)
    try:
        for window, path in zip(windows, (photo, tmp_path / "mirrored.png"), strict=True):
            browser.switch_to.window(window)
            browser.get(page)
            find(browser, "#photo_alpha")
            find(browser, "#photo input[type=file]").send_keys(str(path))
        for window in windows:
            browser.switch_to.window(window)
            seen.append(picture(browser, "#restyled")[1][:, :512])
        assert np.abs(seen[0] - seen[1][:, ::-1]).mean() < 15 < np.abs(seen[0] - seen[1]).mean()
    finally:
        browser.close()
        browser.switch_to.window(windows[0])


@needs_browser
def test_a_phone_keeps_the_result_in_view(page, browser, photo):  # noqa: F811
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False})
    try:
        browser.get(page)
        find(browser, "#photo_alpha")
        find(browser, "#photo input[type=file]").send_keys(str(photo))
        picture(browser, "#restyled")
        changes(browser, "#restyled", lambda: drag(browser, "#photo_alpha", 0.1))
        box = browser.execute_script("let r = document.querySelector('#restyled').getBoundingClientRect();"
                                     "return [r.top, r.bottom, r.left, r.right]")
        # Nothing of what is scrolled away below it, labels above all, is seen on it.
        covered = browser.execute_script(
            "let r = document.querySelector('#restyled').getBoundingClientRect(), own = document.querySelector('#restyled');"
            "let bad = []; for (let x = r.left + 8; x < r.right; x += 12)"
            "for (let y = Math.max(r.top, 0) + 4; y < r.bottom; y += 8) { let e = document.elementFromPoint(x, y);"
            "if (e && !own.contains(e)) bad.push(e.textContent.slice(0, 20)) } return bad")
        assert not covered
        assert box[1] > 60 and box[0] < 400 and box[2] >= 0 and box[3] <= 390
        shot(browser, "photo_390")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_browser
def test_nothing_is_covered_or_out_of_view(page, browser):  # noqa: F811
    """On every tab, on a desk and on a phone: no label over a prompt for uploads, and nothing wider than the window."""
    covered = ("return [...document.querySelectorAll('button .icon-wrap')].filter(e => e.offsetParent).filter(e => {"
               "e.scrollIntoView({block: 'center'}); let r = e.getBoundingClientRect(), b = e.closest('button');"
               "return [r.top + 4, r.bottom - 4].some(y => !b.contains(document.elementFromPoint(r.left + r.width / 2, y)))})"
               ".map(e => e.parentElement.innerText)")
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    folded = ("let t = [...document.querySelectorAll('.overflow-dropdown button')].find(t => t.innerText.trim() == arguments[0]);"
              "if (t) t.click(); else document.querySelector('.overflow-menu button').click(); return !!t")
    browser.get(page)
    find(browser, "#photo_alpha")
    try:
        for width in (1280, 390):
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False})
            for name in ("Clip", "Webcam", "Random faces", "Expression", "Train", "Photo"):
                shown = [tab for tab in browser.find_elements("css selector", "button[role=tab]") if tab.text == name]
                if shown and shown[0].is_displayed():
                    click(browser, shown[0])
                else:
                    until(lambda name=name: browser.execute_script(folded, name), what=name)
                time.sleep(0.5)
                assert browser.execute_script("return innerWidth") == width and browser.execute_script(wide) <= 2, name
                assert not (found := browser.execute_script(covered)), (name, found)
                shot(browser, f"{name.split()[0].lower()}_{width}_first")
            whole_names(browser, ".styles")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(("text", "shown"), [
    ("/tmp/gradio/ab12/a.png: no face found; use a photo with a face of at least 80 px that looks at the camera, or --align "
     "false if it is aligned already", "a.png: no face found; use a photo with a face of at least 80 px that looks at the "
     "camera"),
    ("/tmp/x y.png: is damaged (bad); get it again", "x y.png: is damaged (bad); get it again"),
    ("t.png: no face found; the style would be made of what is not one (--force trains with it)",
     "t.png: no face found; the style would be made of what is not one"),
    ("C:\\Users\\me\\a.jpg: is empty", "a.jpg: is empty"), ("no such style 'a/b'", "no such style 'a/b'"),
])
def test_words_for_the_page(text, shown):
    assert plain(text) == shown


def test_previews_are_of_what_browsers_cannot_show(tmp_path):
    Image.new("RGB", (20, 10), (200, 0, 0)).save(tmp_path / "a.tif")
    previews = Previews()
    shown = previews.of(str(tmp_path / "a.tif"))
    assert shown.endswith(".png") and Image.open(shown).size == (20, 10)
    assert previews.original(shown) == str(tmp_path / "a.tif") and previews.of(shown) == shown
    assert previews.of("x.jpg") == "x.jpg" == previews.original("x.jpg") and previews.of(None) is None
    (tmp_path / "b.tif").write_bytes(b"x")
    with pytest.raises(UserError):
        previews.of(str(tmp_path / "b.tif"))


def test_recipes_of_mixtures():
    assert recipe("a", NO_STYLE, 0.3) == "a" == recipe("a", "a", 0.3) and recipe("a", "b", 0.25) == "a:0.75,b:0.25"


def test_thumbnails_are_drawn_once_and_damaged_styles_left_out(styles, tmp_path, monkeypatch):  # noqa: F811
    """A style's own picture is made of the bundled face; what is drawn is kept, a file that changed is drawn again."""
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    monkeypatch.setattr(thumbs, "style_names", lambda: ["alpha_style", "evil"])
    drawn, made = Thumbnails._drawn, []
    monkeypatch.setattr(Thumbnails, "_drawn", lambda self, style: made.append(style) or drawn(self, style))

    def settled():
        thumbnails = Thumbnails(tmp_path)
        thumbnails.start()
        until(lambda: not thumbnails.missing(), what="the pictures")
        return thumbnails.ready()

    ((path, name),) = settled()
    assert name == "alpha_style" and sorted(made) == ["alpha_style", "evil"]
    picture, face = (np.asarray(read_image(each).resize((96, 96)), int) for each in (path, thumbs.FACE))
    assert Image.open(path).size == (96, 96) and picture.std() > 20 and np.abs(picture - face).mean() > 3
    assert settled() == [(path, name)] and made.count("alpha_style") == 1
    (styles / "alpha_style.safetensors").touch()
    assert settled()[0][0] != path and made.count("alpha_style") == 2

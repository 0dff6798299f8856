"""The page of `minigan export --web` in a headless Chromium.

It needs node, Chromium, and the npm packages playwright-core and onnxruntime-web, in $MINIGAN_NODE_MODULES or the
repository's node_modules; the tests install nothing, and skip where something is missing.
"""

import base64
import functools
import hashlib
import http.server
import shutil
import threading

import numpy as np
import pytest
from web_pages import (
    CLASSES,
    DIRECTIONS,
    LATENT,
    MODULES,
    ORT_WEB,
    Browser,
    Handler,
    Page,
    images,
    large_images,
    native,
    points,
)

from minigan.export.web import CDN, RUNTIME
from minigan.gan.pictures import slerp

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def browser():
    node = shutil.which("node")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    found = {"node": node, "chromium": chromium}
    found |= {str(MODULES / name): (MODULES / name).is_dir() for name in ("playwright-core", "onnxruntime-web")}
    if missing := [name for name, there in found.items() if not there]:
        pytest.skip(f"the web page was NOT tested in a browser: missing {', '.join(missing)} (MINIGAN_NODE_MODULES)")
    browser = Browser(node, chromium)
    yield browser
    browser.close()


@pytest.fixture
def host(tmp_path):
    """The address at which tmp_path/host is served."""
    (tmp_path / "host").mkdir()
    handler = functools.partial(Handler, directory=tmp_path / "host")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def open_page(browser, host, tmp_path):
    return functools.partial(Page, browser, host, tmp_path)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_first_picture_is_the_native_one(open_page):
    page = open_page(images()).load()
    for index in (0, 1, 23):
        z, values = page.sample(index)
        close(values, native(page.model, z=z))
    assert np.ptp(values) > 0.2
    pixels = page.get(
        "Array.from(document.querySelector('#grid canvas').getContext('2d').getImageData(0, 0, 16, 16).data)"
    )
    pixels = np.array(pixels).reshape(16, 16, 4)
    expected = np.rint(page.sample(0)[1][0].transpose(1, 2, 0) * 127.5 + 127.5)
    assert np.abs(pixels[..., :3] - expected).max() <= 1
    assert (pixels[..., 3] == 255).all()
    assert "24 samples of seed 1" in page("textContent", "#status")
    page.quiet()


def test_latents_are_normal_and_those_of_the_seed(open_page):
    page = open_page(images(), address="#seed=77").load()
    z = np.array(page.get("minigan.samples.flatMap(s => Array.from(s.z))"))
    assert page.get("document.querySelector('#seed').value") == "77"
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.15
    first = page.sample(0)[0]
    page.after("click", "#new-seed")
    assert np.abs(page.sample(0)[0] - first).max() > 0.1
    assert page("evaluate", "location.hash") == f"#seed={page.get('minigan.state.seed')}"
    page.after("fill", "#seed", "77")
    page.after("press", "#seed", "Enter")
    np.testing.assert_array_equal(page.sample(0)[0], first)
    page.after("evaluate", "location.hash = '#seed=5'")
    page("until", "minigan.state.seed === 5")
    page.quiet()


def test_sliders_move_along_the_directions(open_page):
    page = open_page(images()).load()
    page.after("click", "#grid label:nth-of-type(5)")
    before, shown = page.view(), page.screen("#view")
    close(before[0], page.sample(4)[0])
    page.slide("#sliders label:nth-child(2) input", 1.5)
    z, values = page.view()
    close(z, before[0] + 1.5 * DIRECTIONS[1])
    close(values, native(page.model, z=z))
    assert page.screen("#view") != shown
    assert page.screen("#view") == page.screen("#grid label:nth-of-type(5) canvas")
    assert page.get("document.querySelector('#sliders label:nth-child(2) output').textContent") == "1.5"
    page.after("click", "#reset")
    close(page.view()[0], before[0])
    assert page.screen("#view") == shown
    page.quiet()


def test_walk_between_two_samples(open_page):
    page = open_page(images(), reducedMotion="reduce").load()
    page.after("click", "#grid label:nth-of-type(3)")
    page.after("click", "#start")
    assert page.get("document.querySelector('#play').disabled")  # from a sample to itself there is no way
    page.after("click", "#grid label:nth-of-type(9)")
    (a, _), (b, _) = page.sample(2), page.sample(8)
    page.slide("#way", 0.25)
    z, values = page.view()
    close(z, slerp(a, b, 0.25))
    close(values, native(page.model, z=z))
    page.slide("#way", 0)
    close(page.view()[0], a)
    page("click", "#play")
    page("until", "document.querySelector('#play').textContent === 'Pause' && minigan.state.way > 0.1")
    page.after("click", "#play")
    way = page.get("minigan.state.way")
    assert way in {i / 8 for i in range(1, 8)}  # less motion: in few steps
    assert page("textContent", "#play") == "Play"
    page.quiet()


def test_classes_and_psi(open_page):
    page = open_page(images(classes=True, psi=True), address="#seed=3&class=2&psi=0.5").load()
    z, values = page.sample(6)
    one = np.array([2])
    close(values, native(page.model, z=z, labels=one, psi=np.array(0.5, np.float32)))
    assert page("inputValue", "#class") == "2"
    shown = page.screen("#grid canvas"), page.screen("#view")
    page.slide("#psi", 0)
    assert page.screen("#grid canvas") != shown[0]
    assert page.screen("#view") != shown[1]
    close(page.sample(6)[1], page.sample(7)[1])  # psi 0: every latent is the mean
    page.after("selectOption", "#class", "3")
    assert page.get("location.hash") == "#seed=3&class=3&psi=0"
    page.after("selectOption", "#class", "")
    assert page.get("minigan.samples.map(s => s.label)") == [i % CLASSES for i in range(24)]
    z, values = page.sample(7)
    close(values, native(page.model, z=z, labels=np.array([3]), psi=np.array(0, np.float32)))
    assert page.get("location.hash") == "#seed=3&psi=0"
    page.slide("#psi", 1)
    for way, one in ((0.4, 0), (0.6, 1)):  # from a sample of class 0 to one of class 1
        page.slide("#way", way)
        z, values = page.view()
        close(values, native(page.model, z=z, labels=np.array([one]), psi=np.array(1, np.float32)))
    assert "class 3" in page("getAttribute", "#grid label:nth-of-type(8) input", "aria-label")
    page.quiet()


def test_bytes_and_grey(open_page):
    page = open_page(images(uint8=True, channels=1)).load()
    z, values = page.sample(2)
    assert values.shape == (1, 16, 16, 1)
    assert np.abs(values - native(page.model, z=z).astype(int)).max() <= 1
    pixels = page.get(
        "Array.from(document.querySelectorAll('#grid canvas')[2].getContext('2d').getImageData(0, 0, 16, 16).data)"
    )
    np.testing.assert_array_equal(np.array(pixels).reshape(16, 16, 4)[..., :3], values[0].repeat(3, -1))
    page.quiet()


def test_points(open_page):
    page = open_page(points()).load()
    zs = np.array(page.get("minigan.samples.map(s => Array.from(s.z))"), np.float32)
    assert zs.shape == (2000, LATENT)
    assert -1 <= zs.min() < -0.9 < 0.9 < zs.max() < 1  # uniform
    close(page.get("minigan.samples.map(s => Array.from(s.values))"), native(page.model, z=zs))
    shown = page.screen("#plane")
    values = native(page.model, z=zs)
    low, high = values.min(0), values.max(0)
    rightmost = int(values[:, 0].argmax())
    x, y = 0.5 + (values[rightmost] - (low + high) / 2) / (1.2 * max(high - low)) * [1, -1]  # share of the picture
    side = page.get("document.querySelector('#plane').clientWidth")
    page.after("click", "#plane", {"position": {"x": float(x) * side + 1, "y": float(y) * side + 1}})  # 1: border
    assert page.get("minigan.state.chosen") == rightmost
    assert page("inputValue", "#point") == str(rightmost + 1)
    assert page.screen("#plane") != shown
    picture = page.png("#save-samples")[1]
    assert picture.shape == (720, 720, 3)
    assert picture[int(y * 720), int(x * 720)].tolist() == [0x1F, 0x5F, 0xD0]  # its mark
    page.slide("#sliders input", 3)
    assert np.abs(page.view()[0]).max() <= 1  # stays where latents are drawn from
    page.quiet()


def test_png_files(open_page):
    page = open_page(images(), address="#seed=9").load()
    name, sheet = page.png("#save-samples")
    assert name == "little-seed-9-samples.png"
    assert sheet.shape == (4 * 18 + 2, 6 * 18 + 2, 3)
    expected = np.rint(page.sample(7)[1][0].transpose(1, 2, 0) * 127.5 + 127.5)
    assert np.abs(sheet[20:36, 20:36] - expected).max() <= 1  # the second of the second row
    assert page.png("#save-view")[1].shape == (16, 16, 3)


def test_narrow_screen_keyboard_and_names(open_page):
    page = open_page(images(classes=True, psi=True), viewport={"width": 360, "height": 740}, hasTouch=True).load()
    assert page.get("document.documentElement.scrollWidth") <= 360
    reached = []
    for _ in range(40):
        page("keyboard.press", "Tab")
        reached.append(page.get("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
        if reached[-1] is None:  # the body: past the last
            break
    controls = ["seed", "new-seed", "class", "save-samples", "psi", "Sample 2, class 1"]
    controls += ["start", "save-view", "play", "way"]
    assert reached[: len(controls)] == controls
    assert reached[len(controls) :] == [*(f"Direction {i}" for i in range(1, 9)), "reset", None]
    page("focus", "#grid input:checked")
    page.after("keyboard.press", "ArrowRight")
    assert page.get("minigan.state.chosen") == 2
    page("focus", "#way")
    page.after("keyboard.press", "ArrowLeft")
    assert page.get("minigan.state.way") == 0.99
    unnamed = """[...document.querySelectorAll("button, input, select, [role=img]")].filter(
        (e) => !e.closest("[hidden]") && !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim()))"""
    assert page.get(f"{unnamed}.map(e => e.outerHTML)") == []
    page.quiet()


def test_external_data_in_the_browser(open_page):
    page = open_page(large_images(), external=True).load()
    z, values = page.sample(1)
    close(values, native(page.model, z=z))
    page.quiet()


def test_threads_where_the_host_allows_them(open_page):
    page = open_page(images(), name="shared/page").load()
    assert page.get("crossOriginIsolated && minigan.generator.ort.env.wasm.numThreads > 1")
    z, values = page.sample(0)
    close(values, native(page.model, z=z))
    page.quiet()


def test_linked_runtime_is_checked(open_page):
    page = open_page(images(), ort_web=None)
    page("answer", CDN, str(ORT_WEB / "dist"))
    z, values = page.load().sample(0)
    close(values, native(page.model, z=z))
    linked = [url for url in page("seen")["requests"] if not url.startswith((page.host, "blob:", "data:"))]
    assert sorted(linked) == sorted(f"{CDN}/npm/onnxruntime-web@1.30.0/dist/{name}" for name in RUNTIME)
    page("open", {})
    page("answer", CDN, "", {"body": "export const env = {}", "path": None})
    page("goto", page.address)
    page("waitForSelector", "#problem:not([hidden])")
    assert "not the file it should be" in page("textContent", "#problem")


def test_linked_hashes_are_those_of_the_npm_package(browser):
    for name, integrity in RUNTIME.items():
        digest = hashlib.sha384((ORT_WEB / "dist" / name).read_bytes()).digest()
        assert integrity == f"sha384-{base64.b64encode(digest).decode()}", name


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("generator.onnx", "generator.onnx could not be loaded: 404"),
        ("model.json", "model.json could not"),
        ("app.js", "app.js"),
        ("draw.js", "could not be loaded"),
        ("ort.wasm.min.mjs", "ort.wasm.min.mjs could not"),
    ],
)
def test_missing_file_is_named(open_page, tmp_path, missing, said):
    page = open_page(images())
    (tmp_path / "host" / "page" / missing).unlink()
    page("goto", page.address)
    page("waitForSelector", "#problem:not([hidden])")
    assert said in page("textContent", "#problem")


def test_damaged_model_and_disk(open_page, tmp_path):
    page = open_page(images())
    (tmp_path / "host" / "page" / "generator.onnx").write_bytes(b"no model")
    page("goto", page.address)
    page("waitForSelector", "#problem:not([hidden])")
    assert "could not be started" in page("textContent", "#problem")
    page("goto", (tmp_path / "host" / "page" / "index.html").as_uri())
    assert "python -m http.server" in page("textContent", "#problem")

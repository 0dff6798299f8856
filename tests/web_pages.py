"""What the tests of the web page stand on: small generators, a headless Chromium, a static host, and a page in them."""

import http.server
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minigan.export.graph import Graph, Node, Value
from minigan.export.web import write_page

MODULES = Path(os.environ.get("MINIGAN_NODE_MODULES", Path(__file__).parent.parent / "node_modules"))
ORT_WEB = MODULES / "onnxruntime-web"
LATENT, CLASSES = 12, 4
FLOAT = np.dtype("float32")

# Small generators ---------------------------------------------------------------------------------------


def chain(inputs, output, steps, constants, metadata):
    """A graph that takes z through (op, further inputs, attributes) one after another."""
    nodes, value = [], "z"
    for place, (op, others, attributes) in enumerate(steps):
        nodes.append(Node(op, f"/{place}/{op}", [value, *others], [f"/{place}/{op}"], attributes))
        value = f"/{place}/{op}"
    nodes[-1].outputs = [output.name]
    metadata = {"latent_distribution": "normal", **metadata}
    return Graph([Value("z", FLOAT, ("batch", LATENT)), *inputs], [output], nodes, constants, metadata)


def images(classes=False, psi=False, uint8=False, channels=3):
    """12 numbers to a picture of 16×16, like DCGAN's; with classes, one of which is added to z, and psi times z."""
    rng = np.random.default_rng(3)

    def weight(*shape):
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    inputs, steps = [], []
    constants = {
        "1.weight": weight(LATENT, 8, 4, 4),
        "3.weight": weight(8, 8, 4, 4),
        "5.weight": weight(8, channels, 4, 4),
    }
    constants["/shape"] = np.array([0, LATENT, 1, 1])
    if psi:
        inputs.append(Value("psi", FLOAT, ()))
        steps.append(("Mul", ["psi"], {}))
    if classes:
        inputs.append(Value("labels", np.dtype("int64"), ("batch",)))
        constants["embedding.weight"] = weight(CLASSES, LATENT) * 10
        steps.append(("Add", ["/embedding"], {}))
    double = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    steps += [("Reshape", ["/shape"], {}), ("ConvTranspose", ["1.weight"], {}), ("Relu", [], {})]
    steps += [
        ("ConvTranspose", ["3.weight"], double),
        ("Relu", [], {}),
        ("ConvTranspose", ["5.weight"], double),
        ("Tanh", [], {}),
    ]
    output = Value("samples", FLOAT, ("batch", channels, 16, 16))
    if uint8:
        constants["/half"] = np.array(127.5, np.float32)
        steps += [("Mul", ["/half"], {}), ("Add", ["/half"], {}), ("Round", [], {})]
        steps += [("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Cast", [], {"to": 2})]
        output = Value("samples", np.dtype("uint8"), ("batch", 16, 16, channels))
    metadata = {"recipe": "little", "step": "1200"} | ({"classes": str(CLASSES)} if classes else {})
    graph = chain(inputs, output, steps, constants, metadata)
    if classes:
        graph.nodes.insert(0, Node("Gather", "/embedding", ["embedding.weight", "labels"], ["/embedding"]))
    return graph


def large_images():
    """The same with a weight that goes into a file of its own."""
    graph = images()
    graph.constants["1.weight"] = np.resize(graph.constants["1.weight"], (LATENT, 8, 60, 60))
    graph.outputs = [Value("samples", FLOAT, ("batch", 3, 240, 240))]
    return graph


def points():
    rng = np.random.default_rng(4)
    constants = {"w": rng.standard_normal((LATENT, 16), np.float32), "v": rng.standard_normal((16, 2), np.float32)}
    steps = [("MatMul", ["w"], {}), ("Tanh", [], {}), ("MatMul", ["v"], {})]
    output = Value("samples", FLOAT, ("batch", 2))
    return chain([], output, steps, constants, {"recipe": "ring", "latent_distribution": "uniform"})


def native(path, **feeds):
    """What ONNX Runtime gives here."""
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


# The browser ----------------------------------------------------------------------------------------------


class Browser:
    """A headless Chromium, of which each method of playwright's page is called by name."""

    def __init__(self, node, chromium):
        self.process = subprocess.Popen(
            [node, str(Path(__file__).parent / "browser.mjs"), str(MODULES), chromium],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, method, *arguments):
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the browser ended"}')
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self):
        self.process.communicate(timeout=20)  # its end of input is its end


class Handler(http.server.SimpleHTTPRequestHandler):
    """A static host; under /shared/ it lets the page have threads."""

    def end_headers(self):
        if self.path.startswith("/shared/"):
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *arguments):
        pass


READY = "document.querySelector('main').getAttribute('aria-busy') === 'false' && !!globalThis.minigan?.view"
DIRECTIONS = np.linalg.qr(np.random.default_rng(1).standard_normal((LATENT, LATENT)))[0][:8].astype(np.float32)


class Page:
    """The page of a graph, open in the browser; what it drew, as numbers."""

    def __init__(
        self, browser, host, folder, graph, ort_web=ORT_WEB, name="page", address="", external=None, **options
    ):
        self.browser, self.host, self.model = browser, host, folder / "model.onnx"
        graph.save(self.model, external)
        (folder / "host" / name).parent.mkdir(exist_ok=True)
        write_page(self.model, folder / "host" / name, ort_web, DIRECTIONS)
        browser("open", options)
        self.address = f"{host}/{name}/{address}"

    def load(self):
        self("goto", self.address)
        self("until", READY)
        return self

    def __call__(self, method, *arguments):
        return self.browser(method, *arguments)

    def get(self, code):
        return self("evaluate", code)

    def after(self, method, *arguments):
        """Do something, and wait until all is drawn."""
        self(method, *arguments)
        self("until", READY)

    def slide(self, selector, value):
        """Set a slider as a hand would."""
        self.after("fill", selector, str(value))

    def sample(self, index=0):
        return self._values(f"minigan.samples[{index}]")

    def view(self):
        return self._values("minigan.view")

    def png(self, button):
        """The name and the picture of the file that a button saves."""
        saved = self("download", button)
        with Image.open(saved["path"]) as picture:
            return saved["name"], np.asarray(picture.convert("RGB"))

    def _values(self, what):
        z, dims, values = self.get(f"[Array.from({what}.z), {what}.dims, Array.from({what}.values)]")
        return np.array([z], np.float32), np.array([values]).reshape(1, *dims)

    def screen(self, selector):
        """What is on a canvas."""
        return self.get(f"document.querySelector({selector!r}).toDataURL()")

    def quiet(self):
        """Neither a word on the console nor a request to another host."""
        seen = self("seen")
        assert seen["console"] == []
        assert seen["requests"]
        assert all(url.startswith((self.host, "blob:", "data:")) for url in seen["requests"]), seen["requests"]

"""Small generators in ONNX files, with what they compute written out in NumPy beside them."""

import numpy as np

import minigan as mg
from minigan.export.graph import BATCH, Graph, Node, Value
from minigan.gan.tricks import latents

LATENT, CLASSES = 6, 3
FLOAT, WHOLE, BYTE = (np.dtype(name) for name in ("float32", "int64", "uint8"))


def graph(output="float", labels=False, psi=False, shape=(3, 4, 5), **metadata):
    """tanh(psi·z·w + table[labels]), as images of `shape`, as points, or as uint8 images with channels last."""
    rng = np.random.default_rng(1)
    size = int(np.prod(shape))
    constants = {
        "w": rng.standard_normal((LATENT, size)).astype(np.float32),
        "table": rng.standard_normal((CLASSES, size)).astype(np.float32),
        "/shape": np.array([0, *shape]),
        "/half": np.float32(127.5).reshape(()),
    }
    nodes, x = [], "z"

    def add(op, *others, **attributes):
        nonlocal x
        nodes.append(Node(op, f"/{op}", [x, *others], [f"/{op}"], attributes))
        x = f"/{op}"

    if psi:
        add("Mul", "psi")
    add("MatMul", "w")
    if labels:
        nodes.append(Node("Gather", "/Gather", ["table", "labels"], ["/Gather"], {"axis": 0}))
        add("Add", "/Gather")
    add("Tanh")
    add("Reshape", "/shape")
    if output == "uint8":
        nodes.append(Node("Mul", "/scaled", [x, "/half"], ["/scaled"]))
        nodes.append(Node("Add", "/moved", ["/scaled", "/half"], ["/moved"]))
        x = "/moved"
        add("Round")
        add("Transpose", perm=[0, 2, 3, 1])
        add("Cast", to=2)
        shape = (*shape[1:], shape[0])
    nodes[-1].outputs = ["samples"]
    inputs = [Value("z", FLOAT, (BATCH, LATENT))]
    inputs += [Value("labels", WHOLE, (BATCH,))] * labels + [Value("psi", FLOAT, ())] * psi
    if labels:
        metadata["classes"] = str(CLASSES)
    model = Graph(inputs, [Value("samples", BYTE if output == "uint8" else FLOAT, (BATCH, *shape))], nodes, constants)
    model.metadata = metadata
    model.prune()
    return model


def expected(model, n, seed=0, labels=None, psi=1.0):
    """What the samples of the seed must be: all latents drawn at once, as `Trainer.sample` does."""
    stream = mg.Generator(name="samples").manual_seed(seed)
    distribution = model.metadata.get("latent_distribution", "normal")
    z = latents(n, LATENT, distribution, generator=stream, device="cpu").numpy()
    x = (np.float32(psi) * z) @ model.constants["w"]
    if "table" in model.constants:
        x = x + model.constants["table"][np.arange(n) % CLASSES if labels is None else labels]
    x = np.tanh(x).reshape(n, *model.constants["/shape"][1:])
    if model.outputs[0].dtype == BYTE:
        return np.rint(x * 127.5 + 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return x

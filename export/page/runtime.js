// The generator: onnxruntime-web and the model, loaded, and run on a few latents at a time.

const MOST_THREADS = 4; // where the host's headers allow threads to share memory
const KEPT = 100; // times of which the median is shown

/** Fetch a file; an error says which, and why. */
export async function load(address, integrity = "") {
  const response = await fetch(address, { integrity }).catch(() => {
    throw new Error(`${address} could not be loaded${integrity ? ", or is not the file it should be" : ""}`);
  });
  if (!response.ok) throw new Error(`${address} could not be loaded: ${response.status} ${response.statusText}`);
  return response;
}

/**
 * onnxruntime-web. All its files are fetched, and its scripts run as blobs: so hashes can be checked (an import could
 * not), and hosts that do not know .mjs or .wasm as what they are do not matter.
 */
async function openRuntime({ from, integrity }) {
  const file = (name) => load(new URL(from + name, document.baseURI), integrity[name]);
  const script = async (name) =>
    URL.createObjectURL(new Blob([await (await file(name)).arrayBuffer()], { type: "text/javascript" }));
  const [main, glue, wasm] = await Promise.all([
    script("ort.wasm.min.mjs"),
    script("ort-wasm-simd-threaded.mjs"),
    file("ort-wasm-simd-threaded.wasm").then((response) => response.arrayBuffer()),
  ]);
  const ort = await import(main);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = { mjs: glue };
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  return ort;
}

/** Load the runtime and the model that model.json describes. */
export async function openGenerator(model) {
  const bytes = async (name) => new Uint8Array(await (await load(name)).arrayBuffer());
  const [ort, graph, data] = await Promise.all([
    openRuntime(model.runtime),
    bytes("generator.onnx"),
    Promise.all(model.data.map(async (path) => ({ path, data: await bytes(path) }))),
  ]);
  const session = await ort.InferenceSession.create(graph, { externalData: data, executionProviders: ["wasm"] });
  return new Generator(ort, session);
}

class Generator {
  constructor(ort, session) {
    this.ort = ort;
    this.session = session;
    this.times = [];
  }

  /** What the latents give, one by one: arrays of values, which all have the shape `dims`. */
  async run(latents, labels, psi) {
    const { Tensor } = this.ort;
    const [count, size] = [latents.length, latents[0].length];
    const z = new Float32Array(count * size);
    latents.forEach((latent, i) => z.set(latent, i * size));
    const feeds = { z: new Tensor("float32", z, [count, size]) };
    const names = this.session.inputNames;
    if (names.includes("labels")) feeds.labels = new Tensor("int64", BigInt64Array.from(labels, BigInt), [count]);
    if (names.includes("psi")) feeds.psi = new Tensor("float32", [psi], []);

    const began = performance.now();
    const output = (await this.session.run(feeds))[this.session.outputNames[0]];
    this.times = [...this.times, (performance.now() - began) / count].slice(-KEPT);
    const dims = output.dims.slice(1);
    const step = dims.reduce((product, n) => product * n, 1);
    return { dims, values: latents.map((_, i) => output.data.slice(i * step, (i + 1) * step)) };
  }

  /** Milliseconds that a sample took: the median of the last runs. */
  get milliseconds() {
    return [...this.times].sort((a, b) => a - b)[this.times.length >> 1];
  }
}

// The page: what the visitor chose, the controls that change it, and the loop that draws what has changed.

import { drawImage, drawScatter, place, save, sheet, squareAbout } from "./draw.js";
import { latents, moved, slerp } from "./latents.js";
import { load, openGenerator } from "./runtime.js";

const COLUMNS = 6; // of the grid, as in style.css
const IMAGES = 4 * COLUMNS;
const POINTS = 2000;
const PATH = 32; // pieces of a walk's path through the plane
const WALK = 4000; // milliseconds
const STEPS = 8; // of a walk, for visitors who asked for less motion
const REACH = 3; // standard deviations that a slider moves a latent, to either side
const BREATH = 12; // milliseconds of drawing after which the browser gets its turn

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const state = { seed: 1, label: "", psi: 1, chosen: 1, start: 0, way: 1, playing: false };
const samples = []; // {drawn, steps, z, label, dims, values}; of images also {canvas, radio}
const stale = { samples: new Set(), view: false, status: false }; // what the drawing loop is still to bring up to date
let model, generator, view, square, drawing = false;

// Drawing ----------------------------------------------------------------------------------------------------

/** Draw until nothing is stale: the view first, for it is what a hand on a slider waits for. */
async function draw() {
  if (drawing) return;
  drawing = true;
  $("page").setAttribute("aria-busy", "true");
  let began = performance.now();
  try {
    while (stale.view || stale.samples.size) {
      await (stale.view ? drawView() : drawSamples());
      if (performance.now() - began > BREATH) {
        await new Promise((resolve) => setTimeout(resolve));
        began = performance.now();
      }
    }
    if (stale.status) tell();
  } catch (error) {
    problem(`The generator failed: ${error.message}`);
  } finally {
    drawing = false;
    $("page").setAttribute("aria-busy", "false");
  }
}

async function drawSamples() {
  const next = [...stale.samples].slice(0, model.points ? POINTS : 1);
  next.forEach((index) => stale.samples.delete(index));
  const some = next.map((index) => samples[index]);
  const { dims, values } = await generator.run(some.map((s) => s.z), some.map((s) => s.label), state.psi);
  some.forEach((sample, i) => Object.assign(sample, { dims, values: values[i] }));
  if (model.points) stale.view = true; // it is the same picture
  else some.forEach((sample) => drawImage(sample.canvas, sample, model.range));
}

async function drawView() {
  stale.view = false;
  const [from, to] = [samples[state.start], samples[state.chosen]];
  const ways = model.points ? Array.from({ length: PATH + 1 }, (_, i) => i / PATH) : [];
  const zs = [state.way, ...ways].map((t) => slerp(from.z, to.z, t));
  const labels = [state.way, ...ways].map((t) => (t < 0.5 ? from : to).label);
  const { dims, values } = await generator.run(zs, labels, state.psi);
  view = { z: zs[0], dims, values: values[0] };
  if (model.points) drawPlane(values.slice(1));
  else drawImage($("view"), view, model.range);
}

function drawPlane(path) {
  if (!samples.at(-1).values) return; // the samples have not been drawn yet
  const points = samples.map((sample) => sample.values);
  square ??= squareAbout(points);
  const marks = [{ point: path[0], letter: "A" }, { point: view.values, letter: "", full: true }];
  drawScatter($("plane"), square, points, state.chosen === state.start ? [] : path, marks);
}

/** Draw one sample again, or all. */
function redraw(index) {
  if (index === undefined) samples.forEach((_, i) => stale.samples.add(i));
  else stale.samples.add(index);
  stale.status ||= index === undefined;
  stale.view = true;
  draw();
}

// What is chosen ---------------------------------------------------------------------------------------------

/** Draw new latents from the seed; what was chosen, and where walks start, stay at their places. */
function seed(value) {
  state.seed = value;
  const drawn = latents(value, samples.length, model.latent, model.distribution);
  samples.forEach((sample, i) => {
    Object.assign(sample, { drawn: drawn[i], z: drawn[i], steps: model.directions.map(() => 0), values: undefined });
  });
  square = undefined;
  choose(state.chosen);
  redraw();
}

function label(value) {
  state.label = value;
  samples.forEach((sample, i) => (sample.label = value === "" ? i % (model.classes ?? 1) : Number(value)));
  samples.forEach((_, i) => name(i));
}

function choose(index) {
  state.chosen = index;
  setPlaying(false);
  samples[index].steps.forEach((step, i) => setSlider($("sliders").children[i], step));
  if (model.points) $("point").value = index + 1;
  else samples[index].radio.checked = true;
  goTo(1);
}

function start(index) {
  const before = state.start;
  state.start = index;
  name(before);
  name(index);
  goTo(state.way);
}

function goTo(way) {
  state.way = way;
  setSlider($("way").parentElement, way, `${Math.round(100 * way)} %`);
  describe();
  stale.view = true;
  draw();
}

function move(direction, step) {
  const sample = samples[state.chosen];
  sample.steps[direction] = step;
  sample.z = moved(sample.drawn, sample.steps.map((s) => s * deviation()), model.directions, model.distribution);
  setPlaying(false);
  goTo(1);
  redraw(state.chosen);
}

/** The standard deviation of a latent's numbers. */
const deviation = () => (model.distribution === "uniform" ? Math.sqrt(1 / 3) : 1);

// What is said -----------------------------------------------------------------------------------------------

const kind = () => (model.points ? "point" : "sample");
const called = (index) => `${kind()} ${index + 1}` + (model.classes ? `, class ${samples[index].label}` : "");
const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** Name a sample of the grid for those who do not see it. */
function name(index) {
  const { radio } = samples[index];
  radio?.setAttribute("aria-label", capital(called(index)) + (index === state.start ? ", where walks start" : ""));
  radio?.parentElement.classList.toggle("start", index === state.start);
}

function describe() {
  const [from, to] = [`${kind()} ${state.start + 1}`, `${kind()} ${state.chosen + 1}`];
  const where = `${Math.round(100 * state.way)} % of the way from ${from} to ${to}`;
  const shown = state.way === 1 ? called(state.chosen) : where;
  $("one-title").textContent = capital(called(state.chosen));
  $("one-note").textContent = state.way === 1 ? "" : where;
  $("walk-note").textContent = from === to ? "Choose another to walk to." : `From ${from} (A) to ${to}.`;
  $("view").setAttribute("aria-label", `Generated picture: ${shown}`);
  $("plane").setAttribute("aria-label", `Generated points, with one marked: ${shown}`);
  for (const id of ["play", "way", "start"]) $(id).disabled = from === to;
}

function tell() {
  stale.status = false;
  const many = `${samples.length.toLocaleString("en")} ${kind()}s`;
  $("status").textContent = `${many} of seed ${state.seed} · ${number.format(generator.milliseconds)} ms each`;
}

/** Show a slider's value in it, and beside it. */
function setSlider(row, value, text = number.format(value)) {
  const slider = row.querySelector("input");
  slider.value = value;
  slider.setAttribute("aria-valuetext", text);
  row.querySelector("output").textContent = text;
}

// Controls ---------------------------------------------------------------------------------------------------

/** The walk from A to the chosen sample, once; pressed again, it stops where it is. */
function play() {
  setPlaying(!state.playing);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const began = performance.now() - (state.way < 1 ? state.way * WALK : 0);
  const frame = (now) => {
    if (!state.playing) return;
    const way = Math.min(1, Math.max(0, (now - began) / WALK));
    const next = calm ? Math.floor(way * STEPS) / STEPS : way;
    if (next !== state.way) goTo(next);
    if (way < 1) requestAnimationFrame(frame);
    else setPlaying(false);
  };
  requestAnimationFrame(frame);
}

function setPlaying(playing) {
  state.playing = playing;
  $("play").textContent = playing ? "Pause" : "Play";
}

/** What a link to this page's pictures carries. */
function writeAddress() {
  const parts = new URLSearchParams({ seed: state.seed });
  if (state.label !== "") parts.set("class", state.label);
  if (state.psi !== 1) parts.set("psi", state.psi);
  history.replaceState(null, "", `#${parts}`);
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const within = (name, high, otherwise) => {
    const text = parts.get(name);
    return text !== null && text >= 0 && text <= high ? Number(text) : otherwise;
  };
  state.psi = model.psi ? within("psi", 1, 1) : 1;
  setSlider($("psi-field"), state.psi);
  $("class").value = within("class", (model.classes ?? 0) - 1, "");
  label($("class").value);
  $("seed").value = Math.floor(within("seed", 2 ** 32 - 1, 1));
  seed($("seed").valueAsNumber);
}

function newSeed() {
  $("seed").value = Math.floor(Math.random() * 1e6); // short enough to be read out to somebody
  seed($("seed").valueAsNumber);
}

function reset() {
  samples[state.chosen].steps.fill(0);
  choose(state.chosen);
  move(0, 0);
}

function listen() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  const typed = (id, act) => on(id, "change", () => $(id).validity.valid && $(id).value && act($(id).valueAsNumber));
  on("new-seed", "click", () => (newSeed(), writeAddress()));
  typed("seed", (value) => (seed(value), writeAddress()));
  on("class", "change", () => (label($("class").value), describe(), redraw(), writeAddress()));
  on("psi", "input", () => {
    state.psi = $("psi").valueAsNumber;
    setSlider($("psi-field"), state.psi);
    redraw();
  });
  on("psi", "change", writeAddress); // not at every move of the hand: browsers ration changes of the address
  on("grid", "change", (event) => choose(Number(event.target.value)));
  typed("point", (value) => choose(value - 1));
  on("plane", "click", (event) => choose(nearest(event)));
  on("start", "click", () => start(state.chosen));
  on("way", "input", () => (setPlaying(false), goTo($("way").valueAsNumber)));
  on("play", "click", play);
  on("reset", "click", reset);
  on("save-samples", "click", () => save(model.points ? $("plane") : sheet(canvases(), COLUMNS), file("samples")));
  on("save-view", "click", () => save($("view"), file(`sample-${state.chosen + 1}`)));
  addEventListener("hashchange", readAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => goTo(state.way)); // a scatter's colours
}

const canvases = () => samples.map((sample) => sample.canvas);
const file = (what) => `${model.title}-seed-${state.seed}-${what}.png`.replace(/[^\w.-]+/g, "-");

/** The sample nearest to where the scatter picture was clicked. */
function nearest({ offsetX, offsetY }) {
  const plane = $("plane");
  const scale = plane.width / plane.clientWidth;
  const distances = samples.map(({ values }) => {
    const [x, y] = place(plane, square, values);
    return Math.hypot(x - offsetX * scale, y - offsetY * scale);
  });
  return distances.indexOf(Math.min(...distances));
}

// The page's parts that depend on the model ------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function buildSamples() {
  for (let i = 0; i < (model.points ? POINTS : IMAGES); i++) {
    const sample = { steps: [] };
    if (!model.points) {
      sample.canvas = element("canvas", { width: 1, height: 1 });
      sample.radio = element("input", { type: "radio", name: "sample", value: i, className: "unseen" });
      $("grid").append(element("label", {}, sample.radio, sample.canvas));
    }
    samples.push(sample);
  }
}

function buildControls() {
  model.directions.forEach((_, i) => {
    const slider = element("input", { type: "range", min: -REACH, max: REACH, step: 0.1 });
    slider.addEventListener("input", () => (setSlider(row, slider.valueAsNumber), move(i, slider.valueAsNumber)));
    const mark = element("span", { textContent: i + 1 });
    const row = element("label", { className: "slider" }, mark, slider, element("output"));
    slider.setAttribute("aria-label", `Direction ${i + 1}`);
    $("sliders").append(row);
  });
  for (let i = 0; i < (model.classes ?? 0); i++) $("class").append(new Option(i, i));
  $("point").max = POINTS;
  $("directions").hidden = model.directions.length === 0;
  $("class-field").hidden = !model.classes;
  $("psi-field").hidden = !model.psi;
  for (const id of ["plane", "point-field"]) $(id).hidden = !model.points;
  for (const id of ["grid", "view", "save-view"]) $(id).hidden = model.points;
}

function introduce() {
  document.title = $("title").textContent = model.title;
  const step = model.step ? [`trained for ${Number(model.step).toLocaleString("en")} steps`] : [];
  const [unit, bytes] = model.bytes < 1e6 ? ["kB", 1e3] : ["MB", 1e6];
  const size = `${number.format(model.bytes / bytes)} ${unit}`;
  const parts = [...step, `latents of ${model.latent} numbers`, `${size}, run in this browser`];
  $("about").textContent = parts.join(" · ");
  $("status").textContent = `Loading the generator, ${size}, and its runtime, 14 MB…`;
}

async function open() {
  model = await (await load("model.json")).json();
  introduce();
  buildSamples();
  buildControls();
  generator = await openGenerator(model);
  listen();
  readAddress();
  start(0);
}

open().catch((error) => problem(`The generator could not be started: ${error.message}`));

/** For the curious, and for tests: try minigan.samples[0] in the browser's console. */
globalThis.minigan = {
  state,
  samples,
  get generator() { return generator; },
  get view() { return view; },
};

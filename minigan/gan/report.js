// One step is shown everywhere at once: in the films, as a line on the charts, as numbers below them.
"use strict";
const page = JSON.parse(document.getElementById("page").textContent);
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const films = [...document.querySelectorAll(".film")].map((film) => ({
  frame: film.querySelector(".frame"),
  slider: film.querySelector("input"),
  output: film.querySelector("output"),
  thumbs: [...film.querySelectorAll(".strip img")],
  steps: film.dataset.steps.split(",").map(Number),
}));
const plots = [...document.querySelectorAll(".plot")];
const readout = document.querySelector(".readout");

/** The index of the last of these steps that is not after `step`; the first if all are. */
const at = (steps, step) => Math.max(0, steps.findLastIndex((one) => one <= step));

function show(step) {
  for (const film of films) {
    const index = at(film.steps, step);
    const label = whole.format(film.steps[index]);
    film.frame.src = film.thumbs[index].src;
    film.frame.alt = `Generated samples at step ${label}`;
    film.slider.value = index;
    film.slider.setAttribute("aria-valuetext", label);
    film.output.textContent = label;
    film.thumbs.forEach((thumb, other) => thumb.classList.toggle("now", other === index));
    const strip = film.thumbs[index].parentElement;
    strip.scrollLeft = film.thumbs[index].offsetLeft - strip.offsetLeft - strip.clientWidth / 2;
  }
  for (const plot of plots) {
    plot.querySelector("i").style.left = `${100 * (page.left + (page.width * step) / page.last)}%`;
  }
  if (readout) {
    const values = page.series.map(([name, steps, values]) => `${name} ${number.format(values[at(steps, step)])}`);
    readout.textContent = [`Step ${whole.format(step)}`, ...values].join(" · ");
  }
}

for (const film of films) {
  film.slider.addEventListener("input", () => show(film.steps[film.slider.value]));
  film.thumbs.forEach((thumb, index) => thumb.addEventListener("click", () => show(film.steps[index])));
}
for (const plot of plots) {
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - page.left) / page.width;
    show(page.last * Math.min(1, Math.max(0, share)));
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
}
show(page.last);

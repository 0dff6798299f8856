// What keeps the page from running at all is said here: a plain script, which every browser runs, even from a disk.
"use strict";

/** One line that says what is wrong, where the page's pictures would be. */
function problem(text) {
  const place = document.getElementById("problem");
  place.textContent = text;
  place.hidden = false;
  document.getElementById("page").hidden = true;
}

addEventListener("DOMContentLoaded", () => {
  if (location.protocol === "file:") {
    problem("A browser does not load a page's parts from the disk. In this folder, run: python -m http.server 8000, " +
      "and open http://localhost:8000");
  } else if (typeof WebAssembly !== "object" || !("noModule" in document.createElement("script"))) {
    problem("This browser lacks WebAssembly or JavaScript modules, which the generator runs on. A newer one has them.");
  }
});

// An error of a script's address does not bubble, so it is caught on its way down.
addEventListener("error", (event) => {
  if (location.protocol === "file:" || globalThis.minigan) return; // once app.js runs, it says what fails
  const address = event.target && event.target.src;
  if (address) problem("This file of the page, or one that it imports, could not be loaded: " + address);
  else if (event.message) problem("The page's scripts failed: " + event.message);
}, true);

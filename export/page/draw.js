// Samples on canvases: images pixel by pixel, points as a scatter picture; and canvases as PNG files.

const GAP = 2; // pixels between the images of a sheet
const GREY = "rgb(32 32 32)"; // behind them: sets them apart on black digits and on photographs

/** Draw one image: floats (C, H, W) with values in [low, high], or bytes (H, W, C); grey or RGB. */
export function drawImage(canvas, { dims, values }, [low, high]) {
  const bytes = values instanceof Uint8Array;
  const [height, width, channels] = bytes ? dims : [dims[1], dims[2], dims[0]];
  const [pixelStep, channelStep] = bytes ? [channels, 1] : [1, height * width];
  const scale = bytes ? 1 : 255 / (high - low);
  const offset = bytes ? 0 : low;
  const image = new ImageData(width, height); // its bytes round and clip what is stored
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let c = 0; c < 3; c++) {
      const value = values[pixel * pixelStep + (channels === 1 ? 0 : c) * channelStep];
      image.data[4 * pixel + c] = (value - offset) * scale;
    }
    image.data[4 * pixel + 3] = 255;
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The square {x, y, half} that holds all points, with a margin. */
export function squareAbout(points) {
  const along = (axis) => points.map((point) => point[axis]).filter(Number.isFinite).sort((a, b) => a - b);
  const [xs, ys] = [along(0), along(1)];
  const middle = (values) => ((values[0] ?? 0) + (values.at(-1) ?? 0)) / 2;
  const width = (values) => (values.at(-1) ?? 0) - (values[0] ?? 0);
  return { x: middle(xs), y: middle(ys), half: 0.6 * Math.max(width(xs), width(ys), 1e-6) };
}

/** Where on the canvas a point of the plane is. */
export function place(canvas, square, [x, y]) {
  const share = (value, middle) => (value - middle + square.half) / (2 * square.half);
  return [share(x, square.x) * canvas.width, (1 - share(y, square.y)) * canvas.height];
}

/** Draw points, the path of a walk through them, and marks (a point and a letter). */
export function drawScatter(canvas, square, points, path, marks) {
  const context = canvas.getContext("2d");
  const colour = (name) => getComputedStyle(canvas).getPropertyValue(name);
  const at = (point) => place(canvas, square, point);
  const disc = (point, radius) => {
    context.beginPath();
    context.arc(...at(point), radius, 0, 2 * Math.PI);
  };
  context.fillStyle = colour("--card");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = colour("--dot");
  for (const point of points) {
    disc(point, 2.6);
    context.fill();
  }
  context.strokeStyle = context.fillStyle = colour("--accent");
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.beginPath();
  path.forEach((point) => context.lineTo(...at(point)));
  context.stroke();
  context.font = "600 24px system-ui, sans-serif";
  for (const { point, letter, full } of marks) {
    disc(point, 9);
    if (full) context.fill();
    context.stroke();
    const [x, y] = at(point);
    context.fillText(letter, x + 14, y - 10);
  }
}

/** One canvas of many, row by row. */
export function sheet(canvases, columns) {
  const whole = document.createElement("canvas");
  const [width, height] = [canvases[0].width + GAP, canvases[0].height + GAP];
  whole.width = columns * width + GAP;
  whole.height = Math.ceil(canvases.length / columns) * height + GAP;
  const context = whole.getContext("2d");
  context.fillStyle = GREY;
  context.fillRect(0, 0, whole.width, whole.height);
  canvases.forEach((one, i) => {
    context.drawImage(one, (i % columns) * width + GAP, Math.floor(i / columns) * height + GAP);
  });
  return whole;
}

/** Hand a canvas to the visitor as a PNG file. */
export function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // after the browser has begun to read it
  });
}

"use strict";
// A map is drawn once, a pixel a sample and address, and then shown through a movable window.
const data = JSON.parse(document.getElementById("data").textContent);
const COLUMNS = 1500;

function colorOf(owner, x, y) {
  if (owner === data.special.free) return [255, 255, 255];
  if (owner === data.special.shared) return [0, 0, 0];
  if (owner === data.special.unused) return (x + y) % 8 < 4 ? [158, 158, 158] : [219, 219, 219];
  return data.palette[owner % data.palette.length];
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int32Array(await new Response(stream).arrayBuffer());
}

// The last sample at or before a second.
function sampleAt(time) {
  let low = 0, high = data.times.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (data.times[middle] <= time) low = middle; else high = middle - 1;
  }
  return low;
}

function pictureOf(owners, rows) {
  const picture = new OffscreenCanvas(COLUMNS, rows);
  const pixels = new ImageData(COLUMNS, rows);
  const first = data.times[0], span = data.end - first || 1;
  for (let x = 0; x < COLUMNS; x++) {
    const sample = sampleAt(first + span * (x + 0.5) / COLUMNS);
    for (let y = 0; y < rows; y++) {
      const [r, g, b] = colorOf(owners[sample * rows + y], x, y);
      pixels.data.set([r, g, b, 255], 4 * ((rows - 1 - y) * COLUMNS + x));
    }
  }
  picture.getContext("2d").putImageData(pixels, 0, 0);
  return picture;
}

class View {
  constructor(canvas, cache, owners) {
    this.canvas = canvas;
    this.cache = cache;
    this.owners = owners;
    this.picture = pictureOf(owners, cache.rows);
    this.words = canvas.nextElementSibling;
    this.all();
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 0.8 : 1.25, ...this.place(event));
    }, { passive: false });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) this.move(-event.movementX / canvas.clientWidth, -event.movementY / canvas.clientHeight);
      this.tell(...this.place(event));
    });
    canvas.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // The window: left and top edge and size, as shares of the picture.
  all() { this.window = { x: 0, y: 0, w: 1, h: 1 }; this.draw(); }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  zoom(factor, x, y) {
    const now = this.window;
    const w = Math.min(1, Math.max(10 / COLUMNS, now.w * factor));
    const h = Math.min(1, Math.max(8 / this.cache.rows, now.h * factor));
    this.window = { x: now.x + (now.w - w) * x, y: now.y + (now.h - h) * y, w, h };
    this.move(0, 0);
  }

  move(x, y) {
    const now = this.window;
    now.x = Math.min(1 - now.w, Math.max(0, now.x + x * now.w));
    now.y = Math.min(1 - now.h, Math.max(0, now.y + y * now.h));
    this.draw();
  }

  press(event) {
    const keys = {
      "+": () => this.zoom(0.8, 0.5, 0.5), "-": () => this.zoom(1.25, 0.5, 0.5), "0": () => this.all(),
      ArrowLeft: () => this.move(-0.1, 0), ArrowRight: () => this.move(0.1, 0),
      ArrowUp: () => this.move(0, -0.1), ArrowDown: () => this.move(0, 0.1),
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  }

  draw() {
    const { canvas, picture, window: part } = this;
    canvas.width = Math.max(1, canvas.clientWidth * devicePixelRatio);
    canvas.height = Math.max(1, canvas.clientHeight * devicePixelRatio);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(
      picture, part.x * picture.width, part.y * picture.height, part.w * picture.width, part.h * picture.height,
      0, 0, canvas.width, canvas.height);
    const time = (share) => (data.times[0] + share * (data.end - data.times[0])).toPrecision(6);
    const cell = (share) => Math.round((1 - share) * this.cache.cells).toLocaleString("en");
    this.range = `${time(part.x)} to ${time(part.x + part.w)} s, cells ${cell(part.y + part.h)} to ${cell(part.y)}`;
    this.words.textContent = this.range;
  }

  tell(x, y) {
    const part = this.window, { rows, cells } = this.cache;
    const time = data.times[0] + (part.x + x * part.w) * (data.end - data.times[0]);
    const row = Math.min(rows - 1, Math.max(0, Math.floor((1 - part.y - y * part.h) * rows)));
    const owner = this.owners[sampleAt(time) * rows + row];
    const { free, shared, unused } = data.special;
    const what = owner === free ? "free" : owner === shared ? "shared by several sequences"
      : owner === unused ? "set aside or dead" : `sequence ${owner}`;
    const cell = Math.floor((row + 0.5) * cells / rows).toLocaleString("en");
    this.words.textContent = `${this.range}. At ${time.toPrecision(6)} s, cell ${cell}: ${what}.`;
  }
}

for (const canvas of document.querySelectorAll("canvas.map")) {
  const cache = data.caches[canvas.dataset.cache];
  unpacked(cache.owners).then((owners) => {
    new View(canvas, cache, owners);
    canvas.dataset.ready = "yes";
  });
}

// Drawing a picture with what was found in it. Nothing here knows the page: all that decides is in `look`:
// {threshold, hidden (labels), opacity, boxes, masks, names, active (place of an object, or label; null)}.
import {eachPixel, holds} from '/masks.js';

const LONGEST_NAME = 40;

// Places of the objects that are shown, the surest first.
export function shownObjects(picture, look) {
  const {scores, labels} = picture.answer;
  return scores.flatMap((score, place) => score >= look.threshold && !look.hidden.has(labels[place]) ? [place] : []);
}

// Layers of the colours of masks or labels at the view's size; made anew only where what they show changes.
export class Layers {
  constructor() { this.made = new Map(); }

  // `key` tells whether the layer in `slot` is still right; `paint` fills it with RGBA pixels, one number each.
  get(slot, key, view, paint) {
    const old = this.made.get(slot);
    if (old && old.key === key && old.view === view) return old.canvas;
    const canvas = old?.canvas ?? document.createElement('canvas');
    canvas.width = view.width; canvas.height = view.height;
    const context = canvas.getContext('2d'), image = context.createImageData(view.width, view.height);
    paint(new Uint32Array(image.data.buffer));
    context.putImageData(image, 0, 0);
    this.made.set(slot, {key, view, canvas});
    return canvas;
  }
}

const little = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;
const packed = ([r, g, b]) => (little ? 0xff000000 | b << 16 | g << 8 | r : r << 24 | g << 16 | b << 8 | 0xff) >>> 0;
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

// Draw everything so that one pixel of the view takes `zoom` pixels of the canvas; `unit` is the width of a thin line.
export function draw(context, picture, colours, look, layers, zoom, unit) {
  const {view} = picture, width = view.width * zoom, height = view.height * zoom;
  context.imageSmoothingEnabled = zoom < 3;
  context.imageSmoothingQuality = 'high';
  context.globalAlpha = 1;
  context.drawImage(picture.bitmap, 0, 0, width, height);
  const lay = (layer, alpha) => {
    context.globalAlpha = alpha;
    context.imageSmoothingEnabled = zoom < 1;
    context.drawImage(layer, 0, 0, width, height);
    context.globalAlpha = 1;
  };
  if (picture.labels) drawLabels(picture, colours, look, layers, lay);
  else drawObjects(context, picture, colours, look, layers, lay, zoom, unit);
}

function drawLabels(picture, colours, look, layers, lay) {
  const {labels, view} = picture, alone = look.active, hidden = [...look.hidden].sort().join();
  const paint = (only) => (pixels) => {
    const table = colours.map((colour, label) =>
      look.hidden.has(label) || (only !== null && only !== label) ? 0 : packed(colour));
    for (let i = 0; i < labels.length; i++) pixels[i] = table[labels[i]];
  };
  lay(layers.get('labels', hidden, view, paint(null)), alone === null ? look.opacity : look.opacity * 0.4);
  if (alone !== null && !look.hidden.has(alone))
    lay(layers.get('alone', `${alone}`, view, paint(alone)), Math.max(look.opacity, 0.65));
}

function drawObjects(context, picture, colours, look, layers, lay, zoom, unit) {
  const shown = shownObjects(picture, look), active = shown.includes(look.active) ? look.active : null;
  const {boxes, labels, scores, names, size} = picture.answer, scale = zoom * picture.view.width / size.width;
  const colour = (place) => colours[labels[place]];
  if (picture.spans && look.masks) {
    const fill = (places) => (pixels) => places.toReversed().forEach((place) => {
      const value = packed(colour(place)), wide = picture.view.width;
      eachPixel(picture.spans[place], (x, y) => { pixels[y * wide + x] = value; });
    });
    const edge = (places) => (pixels) => places.toReversed().forEach((place) => {
      const value = packed(colour(place));
      for (const at of picture.edges[place]) pixels[at] = value;
    });
    const key = shown.join();
    lay(layers.get('fill', key, picture.view, fill(shown)), active === null ? look.opacity : look.opacity * 0.4);
    lay(layers.get('edge', key, picture.view, edge(shown)), active === null ? Math.min(1, look.opacity * 2) : 0.4);
    if (active !== null) {
      lay(layers.get('one', `${active}`, picture.view, fill([active])), Math.max(look.opacity, 0.6));
      lay(layers.get('one-edge', `${active}`, picture.view, edge([active])), 1);
    }
  }
  const inOrder = shown.toReversed().filter((place) => place !== active), taken = [];
  if (active !== null) inOrder.push(active);
  for (const place of inOrder) {
    const [x1, y1, x2, y2] = boxes[place].map((value) => value * scale);
    context.globalAlpha = active === null || place === active ? 1 : 0.45;
    if (look.boxes || place === active) {
      const line = place === active ? 3.5 * unit : 2 * unit;
      context.lineWidth = line + 1.5 * unit;  // a dark rim: seen on any ground
      context.strokeStyle = 'rgb(0 0 0 / .55)';
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
      context.lineWidth = line;
      context.strokeStyle = css(colour(place));
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  }
  // The active one and the surest have the first choice of a place, and are drawn last.
  const named = inOrder.toReversed().filter((place) => look.names || place === active).map((place) => [place, nameTag(
    context, `${short(names[place])} ${scores[place].toFixed(2)}`, boxes[place].map((value) => value * scale),
    colour(place), unit, taken)]);
  for (const [place, drawTag] of named.toReversed()) {
    context.globalAlpha = active === null || place === active ? 1 : 0.45;
    drawTag();
  }
  context.globalAlpha = 1;
}

const short = (name) => name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;

// What draws a name where none of the `taken` places is covered, if there is such a place at the corners of the box.
function nameTag(context, text, [x1, y1, x2, y2], colour, unit, taken) {
  const size = 12.5 * unit, pad = 3 * unit;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = 'middle';
  const wide = context.measureText(text).width + 2 * pad, high = size + 2 * pad;
  const places = [[x1 - unit, y1 - high], [x1 - unit, y1], [x2 - wide, y1 - high], [x1 - unit, y2], [x1 - unit, y2 - high],
    [x2 - wide, y2]].map(([x, y]) => [
    Math.max(0, Math.min(x, context.canvas.width - wide)), Math.max(0, Math.min(y, context.canvas.height - high))]);
  const free = ([x, y]) => !taken.some(([a, b, c, d]) => x < c && x + wide > a && y < d && y + high > b);
  const [left, top] = places.find(free) ?? places[0];
  taken.push([left, top, left + wide, top + high]);
  const [r, g, b] = colour.map((value) => value / 255 <= 0.04 ? value / 3295 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const ink = 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? '#000' : '#fff';  // the one of more contrast
  return () => {
    context.fillStyle = css(colour);
    context.fillRect(left, top, wide, high);
    context.fillStyle = ink;
    context.fillText(text, left + pad, top + high / 2);
  };
}

// What lies at a point of the view: a label, or the place of the smallest object that is shown there; null: nothing.
export function at(picture, look, x, y) {
  const {view, answer} = picture, column = Math.floor(x), row = Math.floor(y);
  if (column < 0 || row < 0 || column >= view.width || row >= view.height) return null;
  if (picture.labels) return picture.labels[row * view.width + column];
  const scale = view.width / answer.size.width;
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  const hits = shownObjects(picture, look).filter((place) => {
    const [x1, y1, x2, y2] = answer.boxes[place].map((value) => value * scale);
    return x >= x1 && x <= x2 && y >= y1 && y <= y2;
  }).sort((one, other) => area(answer.boxes[one]) - area(answer.boxes[other]));
  const inMask = picture.spans && look.masks ? hits.find((place) => holds(picture.spans[place], column, row)) : undefined;
  return inMask ?? hits[0] ?? null;
}

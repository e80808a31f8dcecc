// Masks and label maps as the server sends them, brought to the size at which the page draws ("view").

// COCO's compressed run lengths: numbers of 5 bits a character, from the third on differences to the number two before.
// https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/common/maskApi.c (rleFrString)
export function runLengths(text) {
  const runs = [];
  for (let place = 0; place < text.length;) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(place++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

// A mask of height x width pixels as upright spans [column, first row, row after the last, ...] of the view.
export function spansOf(mask, view) {
  const [height, width] = mask.size;
  const columns = samples(width, view.width), rows = samples(height, view.height);
  const shown = new Int32Array(width).fill(-1);  // which column of the view shows a column of the mask
  columns.forEach((column, place) => { shown[column] = place; });
  const firstRow = firstAtOrAfter(rows, height);
  const spans = [];
  let place = 0, inside = false;
  for (const run of runLengths(mask.counts)) {
    if (inside && run > 0) {
      const end = place + run, last = Math.floor((end - 1) / height);
      for (let column = Math.floor(place / height); column <= last; column++) {
        if (shown[column] < 0) continue;
        const top = firstRow[Math.max(0, place - column * height)];
        const bottom = firstRow[Math.min(height, end - column * height)];
        if (bottom > top) spans.push(shown[column], top, bottom);
      }
    }
    place += run;
    inside = !inside;
  }
  return Int32Array.from(spans);
}

// Which of `large` places the middles of `small` lie in.
function samples(large, small) {
  return Int32Array.from({length: small}, (_, place) => Math.floor((place + 0.5) * large / small));
}

// For each row of the mask, and for the end: the first row of the view that shows it or a later one.
function firstAtOrAfter(rows, height) {
  const first = new Int32Array(height + 1).fill(rows.length);
  for (let place = rows.length - 1; place >= 0; place--) first[rows[place]] = place;
  for (let row = height - 1; row >= 0; row--) first[row] = Math.min(first[row], first[row + 1]);
  return first;
}

// Pixels of the mask that have a neighbour outside, as indices of the view.
export function edgesOf(spans, view) {
  if (!spans.length) return new Int32Array(0);
  let left = view.width, right = 0, top = view.height, bottom = 0;
  for (let i = 0; i < spans.length; i += 3) {
    left = Math.min(left, spans[i]); right = Math.max(right, spans[i] + 1);
    top = Math.min(top, spans[i + 1]); bottom = Math.max(bottom, spans[i + 2]);
  }
  const wide = right - left + 2, inside = new Uint8Array(wide * (bottom - top + 2)), edges = [];
  eachPixel(spans, (x, y) => { inside[(y - top + 1) * wide + x - left + 1] = 1; });
  eachPixel(spans, (x, y) => {
    const at = (y - top + 1) * wide + x - left + 1;
    if (!(inside[at - 1] && inside[at + 1] && inside[at - wide] && inside[at + wide])) edges.push(y * view.width + x);
  });
  return Int32Array.from(edges);
}

export function eachPixel(spans, visit) {
  for (let i = 0; i < spans.length; i += 3)
    for (let y = spans[i + 1]; y < spans[i + 2]; y++) visit(spans[i], y);
}

export function holds(spans, x, y) {
  for (let i = 0; i < spans.length; i += 3)
    if (spans[i] === x && y >= spans[i + 1] && y < spans[i + 2]) return true;
  return false;
}

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// The labels of the view, row after row.
export async function labelsOf(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream('deflate'));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  return Uint16Array.from({length: bytes.length / 2}, (_, place) => bytes[2 * place] | bytes[2 * place + 1] << 8);
}

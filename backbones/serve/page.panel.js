// The lists beside the picture: classes with their switches, objects. Names are set as text, never as HTML.
import {css, shownObjects} from '/drawing.js';

const MANY = 12;  // classes from which there is a search

function node(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function swatch(colour) {
  const made = node('span', {className: 'swatch'});
  made.style.backgroundColor = css(colour);
  return made;
}

export const percent = (part) => {
  const value = 100 * part;
  return value > 0 && value < 0.1 ? '< 0.1 %' : `${value.toFixed(1)} %`;
};

// [{label, name, value}] of the classes that were found: by count above the threshold, or by share of the pixels.
export function foundClasses(picture, look) {
  const {answer} = picture;
  if (picture.labels) {
    const all = answer.size.width * answer.size.height;
    return answer.pixels
      .flatMap((pixels, label) => pixels ? [{label, name: answer.classes[label], number: pixels, value: percent(pixels / all)}] : [])
      .sort((one, other) => other.number - one.number);
  }
  const counts = new Map();
  answer.labels.forEach((label, place) => {
    counts.set(label, (counts.get(label) ?? 0) + (answer.scores[place] >= look.threshold));
  });
  return [...counts].map(([label, number]) => ({label, name: answer.classes[label], number, value: `${number}`}))
    .sort((one, other) => other.number - one.number || one.label - other.label);
}

// Draw the list of classes; `changed(label, shown)` and `pointed(label or null)` are told what the user does.
export function drawClasses(list, search, picture, colours, look, changed, pointed) {
  const found = foundClasses(picture, look), wanted = search.value.trim().toLowerCase();
  search.hidden = found.length <= MANY;
  const shown = search.hidden ? found : found.filter(({name}) => name.toLowerCase().includes(wanted));
  const focused = list.contains(document.activeElement) ? document.activeElement.value : null;
  list.replaceChildren(...shown.map(({label, name, value}) => {
    const box = node('input', {type: 'checkbox', checked: !look.hidden.has(label), value: `${label}`});
    const row = node('label', {className: 'row'}, box, swatch(colours[label]),
      node('span', {className: 'name', textContent: name}), node('span', {className: 'value', textContent: value}));
    row.dataset.label = label;
    box.addEventListener('change', () => changed(label, box.checked));
    if (picture.labels) {
      row.addEventListener('pointerenter', () => pointed(label));
      row.addEventListener('pointerleave', () => pointed(null));
      box.addEventListener('focus', () => { if (box.matches(':focus-visible')) pointed(label); });
      box.addEventListener('blur', () => pointed(null));
    }
    return node('li', {}, row);
  }));
  if (!shown.length)
    list.append(node('li', {className: 'nothing', textContent: found.length ? 'No class of this name' : 'No class found'}));
  if (focused !== null) list.querySelector(`input[value="${focused}"]`)?.focus();
}

// Draw the list of objects; `pointed(place or null)`.
export function drawObjects(list, count, picture, colours, look, pointed) {
  const {scores, labels, names, boxes} = picture.answer, shown = shownObjects(picture, look);
  const above = scores.filter((score) => score >= look.threshold).length;
  count.textContent = above === shown.length ? `(${shown.length})` : `(${shown.length} of ${above})`;
  list.replaceChildren(...shown.map((place) => {
    const [x1, y1, x2, y2] = boxes[place];
    const row = node('button', {type: 'button', className: 'row'}, swatch(colours[labels[place]]),
      node('span', {className: 'name', textContent: names[place]}),
      node('span', {className: 'value', textContent: scores[place].toFixed(2)}));
    row.dataset.place = place;
    row.title = `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} pixels`;
    row.addEventListener('pointerenter', () => pointed(place));
    row.addEventListener('pointerleave', () => pointed(null));
    row.addEventListener('focus', () => pointed(place));
    row.addEventListener('blur', () => pointed(null));
    return node('li', {}, row);
  }));
  if (!shown.length) {
    const text = !scores.length ? 'Nothing found' : above ? 'All classes that were found are switched off'
      : `Nothing from this score on; the best has ${scores[0].toFixed(2)}`;
    list.append(node('li', {className: 'nothing', textContent: text}));
  }
}

// Arrow keys, Home and End go from row to row.
export function walkByArrows(list) {
  list.addEventListener('keydown', (event) => {
    const rows = [...list.querySelectorAll('button, input')], here = rows.indexOf(document.activeElement);
    const to = {ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: rows.length - 1}[event.key];
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    rows[to].focus();
  });
}

export { node };

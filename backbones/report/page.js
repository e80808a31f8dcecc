'use strict';
(() => {
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const root = document.documentElement;
const darkWanted = matchMedia('(prefers-color-scheme: dark)');
const PRINT_WIDTH = 680;
let printing = false;

// --- charts: drawn when they come near, and all of them before printing ---

const COLOURS = {
  light: ['#0072b2', '#d55e00', '#009e73', '#b0558f', '#a87400', '#2f8fc7', '#6a51a3', '#8c564b', '#5b6770', '#c21f30',
    '#3a7d0a', '#004d78'],
  dark: ['#58a6ff', '#ff9a4d', '#3fd0a0', '#e090bf', '#e3b341', '#8fd0ff', '#b69cff', '#d8a48f', '#aab4be', '#ff7b72',
    '#9bd66a', '#4fa3d1']};
const isDark = () => !printing && (root.dataset.theme ? root.dataset.theme === 'dark' : darkWanted.matches);
const drawn = new Map();

function themed(layout, width, height) {
  const style = getComputedStyle(root), value = name => style.getPropertyValue(name).trim();
  const colours = printing
    ? {text: '#1b1f24', line: '#d1d9e0', ground: '#fff', faint: '#59636e'}
    : {text: value('--text'), line: value('--line'), ground: value('--ground'), faint: value('--faint')};
  const narrow = width < 480;
  const result = structuredClone(layout || {});
  Object.assign(result, {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', colorway: COLOURS[isDark() ? 'dark' : 'light'],
    autosize: true, dragmode: narrow ? false : layout.dragmode ?? 'zoom',
    font: {family: 'system-ui, sans-serif', size: 12, ...layout.font, color: colours.text},
    margin: {l: 8, r: 8, t: 8, b: 8, ...layout.margin},
    hoverlabel: {bgcolor: colours.ground, bordercolor: colours.line, font: {color: colours.text}, namelength: -1,
      align: 'left', ...layout.hoverlabel},
    legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', ...layout.legend, font: {color: colours.text}}});
  if (!('width' in layout)) delete result.width;
  if (printing) Object.assign(result, { // without a height, plotly takes its own, and the place cuts off the axis
    autosize: false, width: Math.min(PRINT_WIDTH, Math.max(width, 300)), height});
  for (const key of new Set([...Object.keys(result).filter(key => /^[xy]axis\d*$/.test(key)), 'xaxis', 'yaxis'])) {
    const axis = result[key] || {};
    if (typeof axis.title === 'string') axis.title = {text: axis.title};
    result[key] = {automargin: true, ...axis, gridcolor: colours.line, zerolinecolor: colours.faint,
      linecolor: colours.line, tickcolor: colours.line, fixedrange: narrow || axis.fixedrange || false};
  }
  delete result.title;
  for (const note of result.annotations || []) if (!note.font?.color) note.font = {...note.font, color: colours.text};
  return result;
}

function coloured(data) {
  const colours = COLOURS[isDark() ? 'dark' : 'light'];
  const text = getComputedStyle(root).getPropertyValue('--text').trim();
  return structuredClone(data).map(trace => {
    if (trace.meta && Number.isInteger(trace.meta.color)) {
      const colour = colours[trace.meta.color % colours.length];
      trace.line = {...trace.line, color: colour};
      trace.marker = {...trace.marker, color: colour};
    }
    if (trace.colorbar || trace.type === 'heatmap') trace.colorbar = {...trace.colorbar, tickfont: {color: text},
      title: typeof trace.colorbar?.title === 'string' ? {text: trace.colorbar.title} : trace.colorbar?.title};
    return trace;
  });
}

function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0, total = 0;
  return values.map(value => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return mean / total;
  });
}

function traces(state) {
  const data = coloured(state.figure.data);
  if (!state.controls) return data;
  const off = new Set(all('.choose', state.controls).filter(box => !box.checked).map(box => box.value));
  const weight = Number(one('.smooth', state.controls).value), result = [];
  for (const trace of data) {
    trace.visible = !off.has(trace.legendgroup);
    if (weight) {
      result.push({...trace, opacity: .28, line: {...trace.line, width: 1}, showlegend: false, hoverinfo: 'skip',
        hovertemplate: null});
      trace.y = smoothed(trace.y, weight);
    }
    result.push(trace);
  }
  return result;
}

function layoutOf(state) {
  const layout = structuredClone(state.figure.layout || {});
  if (state.controls) layout.yaxis = {...layout.yaxis, type: one('.log', state.controls).checked ? 'log' : 'linear'};
  if (state.controls) layout.showlegend = printing; // on the screen the boxes have the colours
  return themed(layout, state.place.clientWidth || PRINT_WIDTH, state.place.clientHeight || undefined);
}

function draw(place) {
  let state = drawn.get(place);
  if (!state) {
    const figure = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    state = {place, figure, controls: one('.controls', place.closest('figure'))};
    drawn.set(place, state);
    place.replaceChildren();
  }
  if (state.controls) {
    const colours = COLOURS[isDark() ? 'dark' : 'light'];
    all('.choose', state.controls).forEach((box, index) => { box.style.accentColor = colours[index % colours.length]; });
  }
  Plotly.react(place, traces(state), layoutOf(state), {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ['lasso2d', 'select2d', 'autoScale2d'],
    displayModeBar: place.clientWidth < 480 ? false : 'hover'});
}

const redraw = () => drawn.forEach((_, place) => draw(place));
const plots = all('.plot');
if (plots.length) {
  const near = new IntersectionObserver(entries => entries.forEach(entry => {
    if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
  }), {rootMargin: '500px 0px'});
  plots.forEach(place => near.observe(place));
}
all('.controls').forEach(controls => {
  const change = () => draw(one('.plot', controls.closest('figure')));
  one('.smooth', controls).addEventListener('input', event => {
    one('output', controls).textContent = event.target.value; change(); });
  all('.log, .choose', controls).forEach(box => box.addEventListener('change', change));
});

// --- theme ---

const themeButton = one('#theme');
function showTheme() {
  themeButton.textContent = isDark() ? 'Light' : 'Dark';
  themeButton.setAttribute('aria-pressed', isDark());
  themeButton.setAttribute('aria-label', `Use ${isDark() ? 'light' : 'dark'} colours`);
  redraw();
}
themeButton.addEventListener('click', () => { root.dataset.theme = isDark() ? 'light' : 'dark'; showTheme(); });
darkWanted.addEventListener('change', showTheme);
showTheme();

// --- printing ---

let opened = [], folded = [];
function beforePrint() {
  if (printing) return;
  printing = true;
  opened = all('details.numbers[open]');
  opened.forEach(fold => { fold.open = false; });
  folded = all('details.facts:not([open])');
  folded.forEach(fold => { fold.open = true; });
  plots.forEach(draw);
}
function afterPrint() {
  if (!printing) return;
  printing = false;
  opened.forEach(fold => { fold.open = true; });
  folded.forEach(fold => { fold.open = false; });
  redraw();
}
addEventListener('beforeprint', beforePrint);
addEventListener('afterprint', afterPrint);
matchMedia('print').addEventListener('change', event => event.matches ? beforePrint() : afterPrint());

// --- tables ---

all('table.sortable').forEach(table => {
  const body = one('tbody', table), heads = all('th', table);
  heads.forEach((head, place) => one('button', head).addEventListener('click', () => {
    const numbers = head.classList.contains('number');
    const now = head.getAttribute('aria-sort');
    const up = now ? now === 'descending' : !numbers;
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => {
      const cell = row.cells[place];
      return 'v' in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
    };
    const rows = [...body.rows].map(row => [key(row), row]);
    const words = new Intl.Collator('en', {numeric: true});
    rows.sort(([a], [b]) => {
      const [first, second] = [typeof a === 'number', typeof b === 'number'];
      if (first !== second && numbers) return first ? -1 : 1; // what is not defined comes last
      const order = first && second ? a - b : words.compare(String(a), String(b));
      return up ? order : -order;
    });
    const shown = Number(table.dataset.shown);
    rows.forEach(([, row], index) => { row.classList.toggle('more', index >= shown); });
    body.append(...rows.map(([, row]) => row));
  }));
});
all('button.all').forEach(button => button.addEventListener('click', () => {
  const table = one('table', button.previousElementSibling);
  const open = table.classList.toggle('open');
  button.dataset.text ??= button.textContent;
  button.textContent = open ? 'Show fewer rows' : button.dataset.text;
}));

// --- galleries ---

const galleries = new Map();
function setUp(place) {
  const cards = all('.card', place).map(card => ({card, open: one('.open', card), kinds: JSON.parse(card.dataset.kinds),
    classes: new Set(JSON.parse(card.dataset.classes)), good: 'good' in card.dataset}));
  const state = {place, cards, kind: '', name: '', select: one('select', place), buttons: all('.kinds button', place)};
  galleries.set(place.id, state);
  state.buttons.forEach(button => button.addEventListener('click', () => choose(state, button.dataset.kind, state.name)));
  state.select?.addEventListener('change', () => choose(state, state.kind, state.select.value));
  cards.forEach(entry => entry.open.addEventListener('click', () => enlarge(state, entry)));
  one('.cards', place).addEventListener('keydown', event => move(state, event));
  return state;
}
const fits = (entry, kind, name) => (!kind || (kind === 'good:' ? entry.good : entry.kinds.includes(kind)))
  && (!name || entry.classes.has(name));
const visible = state => state.cards.filter(entry => !entry.card.hidden);

function choose(state, kind, name, keep = true) {
  if (!state.buttons.some(button => button.dataset.kind === kind)) kind = '';
  if (!state.select || ![...state.select.options].some(option => option.value === name)) name = '';
  Object.assign(state, {kind, name});
  state.cards.forEach(entry => { entry.card.hidden = !fits(entry, kind, name); });
  state.buttons.forEach(button => {
    button.setAttribute('aria-pressed', button.dataset.kind === kind);
    one('span', button).textContent = state.cards.filter(entry => fits(entry, button.dataset.kind, name)).length;
  });
  if (state.select) {
    const counts = new Map();
    state.cards.filter(entry => fits(entry, kind, '')).forEach(entry => entry.classes.forEach(
      item => counts.set(item, (counts.get(item) || 0) + 1)));
    [...state.select.options].forEach(option => { if (option.value) option.textContent =
      `${option.value} (${counts.get(option.value) || 0})`; });
    state.select.value = name;
  }
  const shown = visible(state);
  state.cards.forEach(entry => { entry.open.tabIndex = -1; });
  if (shown.length) shown[0].open.tabIndex = 0;
  one('.count', state.place).textContent = `${shown.length} of ${state.cards.length} images shown`;
  one('.none', state.place).hidden = shown.length > 0;
  if (keep) {
    const words = new URLSearchParams();
    if (kind) words.set('kind', kind);
    if (name) words.set('class', name);
    const text = words.toString();
    history.replaceState(null, '', `#${state.place.id}${text ? `?${text}` : ''}`);
  }
}

function move(state, event) {
  const shown = visible(state), now = shown.findIndex(entry => entry.open === document.activeElement);
  if (now < 0) return;
  const columns = shown.filter(entry => Math.abs(entry.card.offsetTop - shown[0].card.offsetTop) < 4).length || 1;
  const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -now,
    End: shown.length - 1 - now};
  if (!(event.key in steps)) return;
  event.preventDefault();
  focusOn(shown, Math.min(shown.length - 1, Math.max(0, now + steps[event.key])));
}
function focusOn(shown, place) {
  shown.forEach(entry => { entry.open.tabIndex = -1; });
  shown[place].open.tabIndex = 0;
  shown[place].open.focus();
}

const dialog = one('#large');
let large = null;
function enlarge(state, entry) {
  large = {state, entry};
  const shown = visible(state), place = shown.indexOf(entry);
  one('h2', dialog).textContent = one('h4', entry.card).textContent;
  one('.place', dialog).textContent = `${place + 1} of ${shown.length}`;
  const copies = all('.pictures, .tags, ul', entry.card).map(node => node.cloneNode(true));
  copies.forEach(copy => all('img', copy).forEach(image => { image.loading = 'eager'; }));
  one('.shown', dialog).replaceChildren(...copies);
  one('.before', dialog).disabled = place <= 0;
  one('.next', dialog).disabled = place >= shown.length - 1;
  if (!dialog.open) dialog.showModal();
}
function step(by) {
  const shown = visible(large.state), place = shown.indexOf(large.entry) + by;
  if (shown[place]) enlarge(large.state, shown[place]);
}
one('.before', dialog).addEventListener('click', () => step(-1));
one('.next', dialog).addEventListener('click', () => step(1));
one('.close', dialog).addEventListener('click', () => dialog.close());
dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener('keydown', event => {
  const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (by) { event.preventDefault(); step(by); }
});
dialog.addEventListener('close', () => {
  const shown = visible(large.state);
  focusOn(shown, shown.indexOf(large.entry));
});

function followHash() {
  const [id, words] = location.hash.slice(1).split('?');
  const state = galleries.get(id);
  if (!state) return;
  const wanted = new URLSearchParams(words || '');
  choose(state, wanted.get('kind') || '', wanted.get('class') || '', false);
  if (words !== undefined) state.place.scrollIntoView();
}
all('.gallery').forEach(place => choose(setUp(place), '', '', false));
addEventListener('hashchange', followHash);
followHash();

// --- contents ---

const links = new Map(all('nav a').map(link => [link.hash.slice(1), link]));
const seen = new Set();
const reading = new IntersectionObserver(entries => {
  entries.forEach(entry => entry.isIntersecting ? seen.add(entry.target.id) : seen.delete(entry.target.id));
  const now = all('main > section').find(section => seen.has(section.id));
  links.forEach((link, id) => { if (now && id === now.id) link.setAttribute('aria-current', 'true');
    else link.removeAttribute('aria-current'); });
}, {rootMargin: '-10% 0px -60% 0px'});
all('main > section').forEach(section => reading.observe(section));
const contents = one('nav details');
if (innerWidth < 1024) contents.open = false;
})();

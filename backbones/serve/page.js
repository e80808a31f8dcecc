// The page: pictures come in, go to the server one after the other, and are looked at.
import {at, draw, Layers, shownObjects} from '/drawing.js';
import {bytesOf, edgesOf, labelsOf, spansOf} from '/masks.js';
import {drawClasses, drawObjects, foundClasses, node, percent, walkByArrows} from '/panel.js';

const KEPT = 30;  // pictures whose results are kept
const LARGEST_CANVAS = 8192;  // pixels a side; more than that some browsers do not draw
const $ = (id) => document.getElementById(id);
const canvas = $('canvas'), context = canvas.getContext('2d'), layers = new Layers();
const look = {threshold: 0.3, hidden: new Set(), opacity: 0.45, boxes: true, masks: true, names: true, active: null};
const state = {model: null, pictures: [], current: null, running: false, zoom: 'fit', due: false, number: 0};

// --- pictures come in ---------------------------------------------------------------------------------------

function add(files) {
  const come = [...files];
  if (!come.length) return;
  const added = come.map((file) => ({
    id: ++state.number, file, name: file.name || 'pasted picture', state: 'waiting', problem: ''}));
  state.pictures.push(...added);
  while (state.pictures.length > KEPT) {
    const old = state.pictures.findIndex((picture) => picture.state !== 'running');
    state.pictures.splice(old, 1)[0].bitmap?.close();
  }
  choose(added[0]);
  pump();
}

async function pump() {
  if (state.running || !state.model) return;
  const picture = state.pictures.find(({state}) => state === 'waiting');
  if (!picture) return;
  state.running = true;
  picture.state = 'running';
  refresh();
  try {
    await predict(picture);
    picture.state = 'done';
  } catch (error) {
    picture.state = 'failed';
    picture.problem = error.sentence ?? `The answer cannot be shown (${error.message}).`;
    picture.again = error.again ?? false;
  }
  state.running = false;
  if (picture === state.current) announce();
  refresh();
  pump();
}

const problem = (sentence, again = false) => Object.assign(new Error(sentence), {sentence, again});

async function predict(picture) {
  const {limits} = state.model, {file} = picture;
  if (file.size > limits.bytes)
    throw problem(`This file has ${(file.size / 1e6).toFixed(1)} MB; this server takes up to ${limits.bytes / 1e6} MB. Reduce the picture.`);
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw problem('This cannot be read: it is a folder, or was moved or changed. Drop the pictures themselves.');
  }
  const form = new FormData();
  form.append('image', file, 'picture');
  let response, content;
  try {
    response = await fetch(`/predict?view=1&score=${limits.score}`, {method: 'POST', body: form});
    content = await response.json();
  } catch {
    throw problem('The server does not answer. Is tools/serve.py still running?', true);
  }
  if (!response.ok) throw problem(`${sentence(content.error)}`, response.status === 503 || response.status === 408);
  await prepare(picture, content);
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

// What is drawn, from what the server sent.
async function prepare(picture, content) {
  const {view, ...answer} = content;
  picture.answer = answer;
  picture.view = {width: view.width, height: view.height};
  picture.bitmap = await createImageBitmap(new Blob([bytesOf(view.picture)], {type: view.type}));
  if (view.labels) picture.labels = await labelsOf(view.labels);
  if (answer.masks) {
    picture.spans = answer.masks.map((mask) => spansOf(mask, picture.view));
    picture.edges = picture.spans.map((spans) => edgesOf(spans, picture.view));
  }
}

function choose(picture) {
  state.current = picture;
  look.active = null;
  refresh();
  if (picture.state === 'done') announce();
}

// --- the page shows the state -------------------------------------------------------------------------------

function refresh() {
  const {current, pictures} = state, done = current?.state === 'done', failed = current?.state === 'failed';
  $('drop').classList.toggle('empty', !current);
  $('pictures').hidden = pictures.length < 2;
  $('pictures').replaceChildren(...pictures.map(tab));
  $('problem').hidden = !failed;
  if (failed) {
    const again = node('button', {type: 'button', textContent: 'Send again'});
    again.addEventListener('click', () => { current.state = 'waiting'; refresh(); pump(); });
    $('problem').replaceChildren(`${current.name}: ${current.problem}`, ...(current.again ? [again] : []));
  }
  $('work').hidden = !current || failed;
  $('busy').hidden = done;
  $('busy-text').textContent = current?.state === 'waiting' ? 'Waiting for the pictures before it' : 'Predicting';
  canvas.hidden = !done;
  document.querySelectorAll('.panel input, .panel button').forEach((control) => { control.disabled = !done; });
  if (!done) {
    $('facts').textContent = current?.name ?? '';
    $('hint').textContent = ' ';
    for (const id of ['classes', 'objects', 'count']) $(id).replaceChildren();
    return;
  }
  $('for-scores').hidden = $('toggles').hidden = $('for-objects').hidden = Boolean(current.labels);
  $('for-masks').hidden = !current.spans;
  $('for-opacity').hidden = !current.spans && !current.labels;
  const {size, seconds} = current.answer, part = current.view.width / size.width;
  $('facts').textContent = `${current.name}: ${size.width} × ${size.height} pixels, predicted in ${seconds.toFixed(2)} s`
    + (part < 1 ? `, drawn at ${current.view.width} × ${current.view.height}` : '');
  lists();
  redraw();
}

function tab(picture) {
  const marks = {waiting: '… ', running: '⏳ ', failed: '⚠ ', done: ''};
  const made = node('button', {type: 'button', textContent: marks[picture.state] + picture.name, title: picture.name});
  made.classList.toggle('failed', picture.state === 'failed');
  made.setAttribute('aria-pressed', picture === state.current);
  made.addEventListener('click', () => { choose(picture); [...$('pictures').querySelectorAll('button')][state.pictures.indexOf(picture)]?.focus(); });
  return node('li', {}, made);
}

function lists() {
  const {current, model} = state;
  drawClasses($('classes'), $('search'), current, model.colours, look, (label, shown) => {
    look.hidden[shown ? 'delete' : 'add'](label);
    changed();
  }, point);
  if (!current.labels) drawObjects($('objects'), $('count'), current, model.colours, look, point);
}

function changed() {
  if (state.current?.state !== 'done') return;
  look.active = null;
  lists();
  redraw();
}

function summary() {
  const {current} = state, classes = foundClasses(current, look).filter(({label, number}) => number && !look.hidden.has(label));
  const what = classes.slice(0, 8).map(({name, value}) => current.labels ? `${name} ${value}` : `${value} ${name}`).join(', ');
  if (current.labels) return `${current.name}: ${what}`;
  const count = shownObjects(current, look).length;
  return `${current.name}: ${count} ${count === 1 ? 'object' : 'objects'} from score ${look.threshold.toFixed(2)}${what ? `: ${what}` : ''}`;
}

function announce() {
  if (state.current?.state === 'done') $('status').textContent = summary();
}

function redraw() {
  if (state.due) return;
  state.due = true;
  requestAnimationFrame(() => {
    state.due = false;
    const {current} = state;
    if (current?.state !== 'done') return;
    const {view} = current, wide = cssWidth(current), dots = window.devicePixelRatio || 1;
    const zoom = Math.min(wide * dots, LARGEST_CANVAS * Math.min(1, view.width / view.height)) / view.width;
    canvas.width = Math.max(1, Math.round(view.width * zoom));
    canvas.height = Math.max(1, Math.round(view.height * zoom));
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${wide * view.height / view.width}px`;
    draw(context, current, state.model.colours, look, layers, zoom, Math.max(0.5, zoom * view.width / wide));
    canvas.setAttribute('aria-label', summary());
    canvas.dataset.drawn = `${current.id} ${look.threshold} ${look.active} ${[...look.hidden]}`;
  });
}

// Width of the canvas on the page, in CSS pixels.
function cssWidth({view, answer}) {
  if (state.zoom === 'full') return answer.size.width;
  const room = Math.max(50, $('frame').clientWidth), high = 0.78 * window.innerHeight;
  return Math.max(1, Math.min(room, high * view.width / view.height));
}

// An object or a class is pointed at.
function point(what) {
  const {current} = state;
  if (current?.state !== 'done' || look.active === what) return;
  look.active = what;
  $('hint').textContent = what === null ? ' ' : describe(current, what);
  document.querySelectorAll('#objects .row').forEach((row) => row.classList.toggle('active', row.dataset.place === `${what}`));
  document.querySelectorAll('#classes .row').forEach((row) =>
    row.classList.toggle('active', Boolean(current.labels) && row.dataset.label === `${what}`));
  redraw();
}

function describe({answer, labels}, what) {
  if (labels) return `${answer.classes[what]}, ${percent(answer.pixels[what] / (answer.size.width * answer.size.height))} of the picture`;
  const [x1, y1, x2, y2] = answer.boxes[what].map(Math.round);
  return `${answer.names[what]} ${answer.scores[what].toFixed(2)}, ${x2 - x1} × ${y2 - y1} pixels at ${x1}, ${y1}`;
}

// --- saving -------------------------------------------------------------------------------------------------

// The answer as the endpoint gives it, less what is not shown.
function shownAnswer(picture) {
  const {answer} = picture;
  if (picture.labels) return answer;
  const places = shownObjects(picture, look), of = (values) => values && places.map((place) => values[place]);
  return {...answer, score: look.threshold, boxes: of(answer.boxes), scores: of(answer.scores), labels: of(answer.labels),
    names: of(answer.names), masks: of(answer.masks)};
}

function save(blob, ending) {
  const link = node('a', {href: URL.createObjectURL(blob)});
  link.download = `${state.current.name.replace(/\.[^.]*$/, '').replace(/[^\p{L}\p{N} _.-]/gu, '_')}${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function saveJson() {
  save(new Blob([JSON.stringify(shownAnswer(state.current))], {type: 'application/json'}), '.json');
}

function savePicture() {
  const {current} = state, {view} = current, zoom = Math.max(1, Math.ceil(800 / Math.max(view.width, view.height)));
  const paper = document.createElement('canvas');
  paper.width = view.width * zoom;
  paper.height = view.height * zoom;
  draw(paper.getContext('2d'), current, state.model.colours, look, layers, zoom, Math.max(1, paper.width / 1000));
  paper.toBlob((blob) => save(blob, '-predicted.png'), 'image/png');
}

// --- what the user does -------------------------------------------------------------------------------------

function setThreshold(value) {
  const least = state.model?.limits.score ?? 0.05;
  if (!Number.isFinite(value)) return;
  look.threshold = Math.min(1, Math.max(least, value));
  $('score').value = look.threshold;
  if (document.activeElement !== $('score-number')) $('score-number').value = look.threshold.toFixed(2);
  changed();
}

function setZoom(zoom) {
  state.zoom = zoom;
  $('fit').setAttribute('aria-pressed', zoom === 'fit');
  $('full').setAttribute('aria-pressed', zoom === 'full');
  redraw();
}

function listen() {
  $('files').addEventListener('change', (event) => { add(event.target.files); event.target.value = ''; });
  for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
    window.addEventListener(kind, (event) => {
      event.preventDefault();
      $('drop').classList.toggle('over', kind === 'dragenter' || kind === 'dragover');
      if (kind === 'drop') add(event.dataTransfer.files);
    });
  }
  window.addEventListener('paste', (event) => add(event.clipboardData?.files ?? []));
  window.addEventListener('resize', redraw);
  $('score').addEventListener('input', (event) => setThreshold(event.target.valueAsNumber));
  $('score-number').addEventListener('input', (event) => setThreshold(event.target.valueAsNumber));
  $('score-number').addEventListener('blur', () => { $('score-number').value = look.threshold.toFixed(2); });
  for (const id of ['score', 'score-number']) $(id).addEventListener('change', announce);
  $('opacity').addEventListener('input', (event) => {
    look.opacity = event.target.valueAsNumber / 100;
    $('opacity-number').textContent = `${event.target.value} %`;
    redraw();
  });
  for (const id of ['boxes', 'masks', 'names'])
    $(id).addEventListener('change', (event) => { look[id] = event.target.checked; redraw(); });
  const found = () => foundClasses(state.current, look).map(({label}) => label);
  $('all').addEventListener('click', () => { look.hidden.clear(); changed(); announce(); });
  $('none').addEventListener('click', () => { found().forEach((label) => look.hidden.add(label)); changed(); announce(); });
  $('search').addEventListener('input', lists);
  $('fit').addEventListener('click', () => setZoom('fit'));
  $('full').addEventListener('click', () => setZoom('full'));
  $('save-json').addEventListener('click', saveJson);
  $('save-png').addEventListener('click', savePicture);
  walkByArrows($('classes'));
  walkByArrows($('objects'));
  const follow = (event) => {
    const {current} = state, frame = canvas.getBoundingClientRect();
    if (current?.state !== 'done') return;
    const scale = current.view.width / frame.width;
    point(at(current, look, (event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale));
  };
  canvas.addEventListener('pointermove', follow);
  canvas.addEventListener('pointerdown', follow);
  canvas.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') point(null); });
}

async function start() {
  $('drop').classList.add('empty');
  listen();
  try {
    state.model = await (await fetch('/model')).json();
  } catch {
    $('problem').textContent = 'The server does not answer. Start tools/serve.py again and reload this page.';
    $('problem').hidden = false;
    return;
  }
  const {task, classes, checkpoint, device, limits} = state.model;
  const title = `${task.charAt(0).toUpperCase()}${task.slice(1)}`;
  $('title').textContent = document.title = title;
  $('model').textContent = `${checkpoint} on ${device}, ${classes.length} classes`;
  $('model').title = classes.join(', ');
  $('allowed').textContent = `${limits.formats.join(', ')}, up to ${limits.bytes / 1e6} MB; they stay on the machine of the server`;
  $('files').accept = limits.formats.map((format) => `image/${format.toLowerCase()}`).join();
  for (const id of ['score', 'score-number']) $(id).min = limits.score;
  pump();
}

start();

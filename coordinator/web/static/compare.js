// Several runs over each other: results, curves along one axis, and the options in which they differ.

import { Chart, join } from './chart.js';
import { $, ask, el, follow, foot, link, notes, pill, put, svg } from './page.js';
import { count, dash, figure, percent, span } from './format.js';

const names = new URLSearchParams(location.search).getAll('run').slice(0, 6);
const dashes = [undefined, [8, 4], [2, 3], [10, 3, 2, 3], [4, 4], [14, 4]];
const all = new Map(); // snapshots by name

const charts = {
  accuracy: new Chart($('charts'), { title: 'Validation top-1, %', series: [], value: v => v.toFixed(1), empty: 'No validation yet' }),
  validation: new Chart($('charts'), { title: 'Validation loss', series: [], empty: 'No validation yet' }),
  loss: new Chart($('charts'), { title: 'Training loss', series: [], empty: 'No epoch has ended yet' }),
  rate: new Chart($('charts'), { title: 'Images a second, mean of an epoch', series: [], from: [0, 0], empty: 'No epoch has ended yet' }),
};

const axis = () => document.querySelector('input[name=axis]:checked').value;

// place is where an epoch's or a validation's figures stand on the chosen axis.
function place(s, e) {
  switch (axis()) {
    case 'update': return e.update;
    case 'epoch': return e.epoch;
  }
  const i = s.steps.update.findIndex(u => u >= e.update);
  const t = s.steps.time[i < 0 ? s.steps.time.length - 1 : i];
  return t == null ? null : (t - new Date(s.began)) / 60000;
}

function table(s, list, value) {
  const points = list.map(e => [place(s, e), value(e)]).filter(p => p[0] != null).sort((a, b) => a[0] - b[0]);
  return [points.map(p => p[0]), points.map(p => p[1])];
}

function draw() {
  const shown = names.map(n => all.get(n)).filter(Boolean);
  const words = { epoch: v => `epoch ${count(v)}`, update: v => `update ${count(v)}`, time: v => `after ${span(60 * v)}` }[axis()];
  const tick = { epoch: count, update: count, time: v => `${figure(v)} min` }[axis()];
  for (const [chart, list, value] of [
    [charts.accuracy, 'validations', e => e.top1], [charts.validation, 'validations', e => e.loss], [charts.loss, 'epoch_list', e => e.loss], [charts.rate, 'epoch_list', e => e.images_per_second],
  ]) {
    const tables = [], series = [];
    shown.forEach(s => {
      const t = table(s, s[list], value);
      if (t[0].length === 0) return;
      tables.push(t);
      const i = names.indexOf(s.name);
      series.push({ label: s.name, colour: `run-${i + 1}`, dash: dashes[i], points: t[0].length < 60 });
    });
    chart.options.x = words;
    chart.options.tick = tick;
    chart.options.whole = axis() !== 'time';
    chart.set(tables.length > 0 ? join(tables) : [[]], series);
  }
  put($('results'), shown.map(result));
  differences(shown);
}

function swatch(i) {
  return svg('svg', { class: 'swatch', width: 28, height: 8, 'aria-hidden': 'true' },
    svg('line', { x1: 0, x2: 28, y1: 4, y2: 4, stroke: `var(--run-${i + 1})`, 'stroke-width': 3, 'stroke-dasharray': dashes[i]?.join(' ') }));
}

function result(s) {
  const mean = s.epoch_list.reduce((a, e) => ({ images: a.images + e.images_per_second * e.seconds, seconds: a.seconds + e.seconds }), { images: 0, seconds: 0 });
  return el('tr', {},
    el('th', { scope: 'row' }, swatch(names.indexOf(s.name)), el('a', { href: `/runs/${encodeURIComponent(s.name)}` }, s.name)),
    el('td', {}, pill(s.state)),
    el('td', { class: 'num' }, s.best ? percent(s.best.top1) : dash),
    el('td', { class: 'num' }, s.best ? percent(s.best.top5) : dash),
    el('td', { class: 'num' }, s.best ? count(s.best.epoch) : dash),
    el('td', { class: 'num' }, s.epochs ? `${s.epoch_list.length}/${s.epochs}` : dash),
    el('td', { class: 'num' }, mean.seconds > 0 ? figure(mean.images / mean.seconds) : dash),
    el('td', { class: 'num' }, s.began && s.newest ? span((new Date(s.newest) - new Date(s.began)) / 1000) : dash),
    el('td', { class: 'num' }, s.goodput?.step_seconds > 0 ? percent(100 * s.goodput.share, 1) : dash),
    el('td', { class: 'num' }, count(s.faults)));
}

function differences(shown) {
  const keys = [...new Set(shown.flatMap(s => s.config.map(c => c.name)))];
  const value = (s, k) => s.config.find(c => c.name === k)?.value;
  const rows = keys.filter(k => new Set(shown.map(s => value(s, k))).size > 1);
  put($('difference-head'), el('tr', {}, el('th', { scope: 'col' }, 'Option'), shown.map(s => el('th', { scope: 'col' }, swatch(names.indexOf(s.name)), s.name))));
  put($('differences'), rows.length > 0
    ? rows.map(k => el('tr', {}, el('th', { scope: 'row' }, k), shown.map(s => el('td', {}, value(s, k) || dash))))
    : el('tr', {}, el('td', { colspan: shown.length + 1 }, shown.length > 1 ? 'Nothing: all options are the same.' : dash)));
}

async function load(name) {
  try {
    all.set(name, await ask(`/api/runs/${encodeURIComponent(name)}`));
    troubles.delete(name);
  } catch (error) {
    troubles.set(name, { kind: 'bad', text: error.message });
  }
  notes([...troubles.values()]);
}
const troubles = new Map();

$('axis').addEventListener('change', () => {
  Object.values(charts).forEach(c => { c.data = null; }); // another axis: drawn anew
  draw();
});
if (names.length < 2) {
  notes([{ kind: 'warn', text: 'Select two or more runs in the list of all runs.' }]);
  link('', 'nothing to follow');
} else {
  await Promise.all(names.map(load));
  draw();
  // The list tells which run has new figures; only those are read again.
  const seen = new Map(names.map(n => [n, all.get(n)?.validation?.update]));
  follow(() => '/api/stream', {
    runs: async listing => {
      foot(listing.version, listing.folder);
      const changed = listing.runs.filter(r => names.includes(r.name) && (r.validation?.update !== seen.get(r.name) || r.state !== all.get(r.name)?.state));
      for (const r of changed) {
        await load(r.name);
        seen.set(r.name, r.validation?.update);
      }
      if (changed.length > 0) draw();
    },
  });
}

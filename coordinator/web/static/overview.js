// The list of runs: what goes on now, then all of them, to look at one or to compare several.

import { $, ask, el, follow, foot, meter, notes, pill, put, say, stateWords, svg, text } from './page.js';
import { count, dash, figure, moment, percent, span, times } from './format.js';

const selected = new Set();
let runs = [];

const active = r => ['running', 'draining', 'paused', 'queued'].includes(r.state);
const share = r => r.updates > 0 ? r.update / r.updates : 0;
const took = r => r.began && r.newest ? (new Date(active(r) && r.state === 'running' ? Date.now() : r.newest) - new Date(r.began)) / 1000 : null;
const address = r => `/runs/${encodeURIComponent(r.name)}`;

// left is how long a run still takes, as its last step said.
function left(r) {
  if (r.state !== 'running' || !r.step || !r.step_time) return null;
  return Math.max(r.step.eta_seconds - (Date.now() - new Date(r.step_time)) / 1000, 0);
}

function show(listing) {
  runs = listing.runs;
  foot(listing.version, listing.folder);
  text($('folder'), listing.folder);
  notes(listing.trouble ? [{ kind: 'warn', text: `The coordinator does not answer, so this is what the files tell: ${listing.trouble}` }] : []);
  const now = runs.filter(active);
  $('now').hidden = now.length === 0;
  put($('now-list'), now.map(card));
  for (const name of selected) if (!runs.some(r => r.name === name)) selected.delete(name);
  rows();
}

function card(r) {
  const done = 100 * share(r), rest = left(r);
  return el('li', {},
    el('div', { class: 'bar' }, el('a', { href: address(r) }, r.name), pill(r.state)),
    el('div', { class: 'track', role: 'progressbar', 'aria-label': `Progress of ${r.name}`, 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': Math.round(done) },
      svg('svg', { width: '100%', height: 10, 'aria-hidden': 'true' }, svg('rect', { class: 'done', height: 10, width: `${done}%` }))),
    el('p', { class: 'facts' },
      el('span', {}, r.epochs ? `epoch ${r.epoch} of ${r.epochs}` : 'waiting for its first step'),
      rest != null && el('span', {}, el('strong', {}, `${span(rest)} left`)),
      r.best && el('span', {}, `best top-1 ${percent(r.best.top1)}`),
      r.state === 'running' && el('span', {}, times(r.workers, 'worker'))),
    r.reason && r.state !== 'running' && el('p', { class: 'soft small' }, r.reason));
}

function rows() {
  const body = $('rows');
  if (runs.length === 0) {
    put(body, el('tr', {}, el('td', { colspan: 11, class: 'wrap' }, 'No run yet. Start one with ', el('code', {}, 'mp train DATA'), ' or ', el('code', {}, 'mp submit DATA'), ': it appears here.')));
  } else {
    const at = document.activeElement?.dataset?.run;
    body.replaceChildren(...runs.map(row));
    if (at) body.querySelector(`input[data-run="${CSS.escape(at)}"]`)?.focus({ preventScroll: true });
  }
  hint();
}

function row(r) {
  const box = el('input', { type: 'checkbox', 'aria-label': `Compare ${r.name}`, 'data-run': r.name });
  box.checked = selected.has(r.name);
  box.addEventListener('change', () => {
    if (box.checked) selected.add(r.name);
    else selected.delete(r.name);
    hint();
  });
  const problem = r.problems?.length > 0 && r.state === 'unknown' ? el('span', { class: 'soft small' }, ' ', r.problems[0]) : null;
  return el('tr', {},
    el('td', {}, box),
    el('th', { scope: 'row' }, el('a', { href: address(r) }, r.name), el('div', { class: 'soft small' }, [r.model, r.recipe && `recipe ${r.recipe}`].filter(Boolean).join(', ') || ' '), problem),
    el('td', {}, pill(r.state)),
    el('td', {}, el('span', { class: 'meter' }, meter(share(r)), r.updates ? percent(100 * share(r), 0) : dash)),
    el('td', { class: 'num' }, r.best ? percent(r.best.top1) : dash),
    el('td', { class: 'num' }, r.step ? figure(r.step.loss) : dash),
    el('td', { class: 'num' }, r.step ? figure(r.step.images_per_second) : dash),
    el('td', { class: 'num' }, r.workers ? count(r.workers) : dash),
    el('td', { class: 'num' }, count(r.faults)),
    el('td', {}, r.began ? moment(new Date(r.began)) : dash),
    el('td', { class: 'num' }, span(took(r))));
}

function hint() {
  const n = selected.size;
  $('compare-button').disabled = n < 2 || n > 6;
  text($('compare-button'), n < 2 ? 'Compare' : `Compare ${n}`);
  text($('compare-hint'), n < 2 ? 'Select two or more' : n > 6 ? 'Six at most: more lines cannot be told apart' : '');
}

$('compare').addEventListener('submit', e => {
  e.preventDefault();
  location.href = `/compare?${[...selected].map(n => `run=${encodeURIComponent(n)}`).join('&')}`;
});

let states = new Map();
function news(listing) {
  for (const r of listing.runs) {
    const was = states.get(r.name);
    if (was != null && was !== r.state) say(`${r.name}: ${stateWords[r.state] ?? r.state}`);
  }
  states = new Map(listing.runs.map(r => [r.name, r.state]));
  show(listing);
}

try {
  news(await ask('/api/runs'));
} catch (error) {
  notes([{ kind: 'bad', text: error.message }]);
}
follow(() => '/api/stream', { runs: news });
setInterval(() => put($('now-list'), runs.filter(active).map(card)), 1000);

// Who computes what, how fast, and for whom the ring waits.

import { ofStep, slow, slowest, slowShare, stepSeconds } from './answers.js';
import { $, el, meter, put, svg, text } from './page.js';
import { bytes, dash, figure, milliseconds, percent, span, times, worker } from './format.js';

export function showWorkers(run) {
  const a = slow(run);
  text($('slow'), run.crew.length === 0 ? '' : `${a.question} ${a.answer}: ${a.detail}.`);
  const step = stepSeconds(run), worst = slowest(run);
  const longest = Math.max(...run.crew.map(w => w.arrival_skew), 1e-9);
  put($('worker-rows'), run.crew.length === 0 ? el('tr', {}, el('td', { colspan: 11 }, run.state === 'running' || run.state === 'queued' ? 'No worker is in a view yet.' : 'No worker computes.'))
    : run.crew.map(w => row(w, step, worst, longest, run)));
  $('gpu-head').hidden = !told(run);
  text($('gpu'), run.crew.length === 0 ? '' : told(run)
    ? 'Memory is what is allocated on the GPU, or held by the process on a CPU. GPU use is of all processes on it: the share of the last moment in which it computed, and the memory that is taken.'
    : /^cpu/i.test(run.device ?? '') ? 'These workers compute on the CPU, so there is no GPU use. Memory is what a process holds.'
      : 'No driver says how busy a GPU is. Memory is what is allocated on the GPU, or held by the process on a CPU.');
}

// told says whether a driver says how a GPU of the run is used.
const told = run => run.crew.some(w => w.gpu);

// use is how a GPU is used, in words.
const use = g => (g.busy === undefined ? '' : `${percent(100 * g.busy, 0)}, `) + `${bytes(g.used_bytes)} of ${bytes(g.total_bytes)}`;

function row(w, step, worst, longest, run) {
  const { name, place } = worker(w.name);
  const share = step && w.reported ? w.arrival_skew / step : null;
  const isSlow = run.crew.length > 1 && worst?.worker === w.worker && share >= slowShare;
  const doing = [w.phase && w.phase !== 'unknown' ? w.phase.replaceAll('_', ' ') : '', w.state].filter(Boolean).join(', ');
  const known = words => w.reported ? words : dash;
  return el('tr', { class: isSlow ? 'slow' : null },
    el('th', { scope: 'row' }, name, isSlow && el('span', { class: 'soft small' }, ' slow'), el('div', { class: 'soft small' }, w.host || place || ' ')),
    el('td', {}, w.device || place.split(', ')[1] || dash),
    el('td', {}, doing || dash),
    el('td', {}, w.shards.length === 0 ? 'none' : w.shards.length > 8 ? times(w.shards.length, 'shard') : w.shards.join(', ')),
    el('td', { class: 'num' }, known(figure(w.images_per_second))),
    el('td', { class: 'num' }, known(milliseconds(w.shard_seconds))),
    el('td', {}, w.reported ? el('span', { class: 'meter' }, meter(w.arrival_skew / Math.max(longest, step ?? 0), { width: 110, slow: isSlow }),
      `${milliseconds(w.arrival_skew)}${ofStep(share)}`) : dash),
    el('td', {}, w.skews.length > 1 ? spark(w.skews) : dash),
    el('td', { class: 'num' }, known(`${milliseconds(w.reduce_seconds)}, ${percent(100 * w.reduce_hidden, 0)}`)),
    el('td', { class: 'num' }, known(bytes(w.memory_bytes))),
    told(run) && el('td', { class: 'num' }, w.gpu ? use(w.gpu) : dash));
}

// spark is the last waits as a line, from 0 to the longest.
function spark(values) {
  const top = Math.max(...values, 1e-9), width = 80, height = 22;
  const at = (v, i) => `${(i / (values.length - 1) * (width - 2) + 1).toFixed(1)} ${(height - 1 - v / top * (height - 2)).toFixed(1)}`;
  return svg('svg', { class: 'spark', width, height, role: 'img', 'aria-label': `of the last ${values.length} reports between ${span(Math.min(...values))} and ${span(top)}` },
    svg('path', { d: `M${values.map(at).join('L')}` }));
}

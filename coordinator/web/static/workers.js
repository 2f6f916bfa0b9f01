// Who computes what, how fast, and for whom the ring waits.

import { ofStep, slow, slowest, slowShare, stepSeconds } from './answers.js';
import { $, el, meter, put, svg, text } from './page.js';
import { bytes, dash, figure, milliseconds, percent, span, times, worker } from './format.js';

export function showWorkers(run) {
  const a = slow(run);
  text($('slow'), run.crew.length === 0 ? '' : `${a.question} ${a.answer}: ${a.detail}.`);
  const step = stepSeconds(run), worst = slowest(run);
  const longest = Math.max(...run.crew.map(w => w.arrival_skew), 1e-9);
  put($('worker-rows'), run.crew.length === 0 ? el('tr', {}, el('td', { colspan: 10 }, run.state === 'running' || run.state === 'queued' ? 'No worker is in a view yet.' : 'No worker computes.'))
    : run.crew.map(w => row(w, step, worst, longest, run)));
  const cpu = /^cpu/i.test(run.device ?? '');
  text($('gpu'), run.crew.length === 0 ? '' : cpu
    ? 'These workers compute on the CPU, so there is no GPU use. Memory is what a process holds.'
    : 'Workers do not measure how busy a GPU is. Memory is what is allocated on the GPU, or held by the process on a CPU.');
}

function row(w, step, worst, longest, run) {
  const { name, place } = worker(w.name);
  const share = step && w.reported ? w.arrival_skew / step : null;
  const isSlow = run.crew.length > 1 && worst?.worker === w.worker && share >= slowShare;
  const doing = [w.phase && w.phase !== 'unknown' ? w.phase.replaceAll('_', ' ') : '', w.state].filter(Boolean).join(', ');
  const told = words => w.reported ? words : dash;
  return el('tr', { class: isSlow ? 'slow' : null },
    el('th', { scope: 'row' }, name, isSlow && el('span', { class: 'soft small' }, ' slow'), el('div', { class: 'soft small' }, w.host || place || ' ')),
    el('td', {}, w.device || place.split(', ')[1] || dash),
    el('td', {}, doing || dash),
    el('td', {}, w.shards.length === 0 ? 'none' : w.shards.length > 8 ? times(w.shards.length, 'shard') : w.shards.join(', ')),
    el('td', { class: 'num' }, told(figure(w.images_per_second))),
    el('td', { class: 'num' }, told(milliseconds(w.shard_seconds))),
    el('td', {}, w.reported ? el('span', { class: 'meter' }, meter(w.arrival_skew / Math.max(longest, step ?? 0), { width: 110, slow: isSlow }),
      `${milliseconds(w.arrival_skew)}${ofStep(share)}`) : dash),
    el('td', {}, w.skews.length > 1 ? spark(w.skews) : dash),
    el('td', { class: 'num' }, told(`${milliseconds(w.reduce_seconds)}, ${percent(100 * w.reduce_hidden, 0)}`)),
    el('td', { class: 'num' }, told(bytes(w.memory_bytes))));
}

// spark is the last waits as a line, from 0 to the longest.
function spark(values) {
  const top = Math.max(...values, 1e-9), width = 80, height = 22;
  const at = (v, i) => `${(i / (values.length - 1) * (width - 2) + 1).toFixed(1)} ${(height - 1 - v / top * (height - 2)).toFixed(1)}`;
  return svg('svg', { class: 'spark', width, height, role: 'img', 'aria-label': `of the last ${values.length} reports between ${span(Math.min(...values))} and ${span(top)}` },
    svg('path', { d: `M${values.map(at).join('L')}` }));
}

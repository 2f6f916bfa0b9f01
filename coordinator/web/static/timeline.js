// What happened: who computed when, drawn, and every view, fault and story in words.

import { $, el, put, svg } from './page.js';
import { clockNear, count, moment, span, times, worker } from './format.js';

const listed = 12; // entries before somebody asks for all

export class Timeline {
  constructor() {
    this.all = false;
    $('story-choice').addEventListener('change', () => this.list());
    $('story-more').addEventListener('click', () => {
      this.all = true;
      this.list();
    });
    new ResizeObserver(() => this.run && this.lanes()).observe($('lanes'));
  }

  show(run) {
    this.run = run;
    this.lanes();
    this.list();
  }

  list() {
    const choice = document.querySelector('input[name=story]:checked').value;
    const entries = this.run.story.map(entry).filter(e => choice === 'all' || choice === 'views' && e.view || choice === 'faults' && e.level !== '');
    const shown = this.all ? entries : entries.slice(-listed);
    put($('story'), entries.length === 0 ? el('li', {}, el('span', { class: 'text' }, choice === 'faults' ? 'No fault and no warning.' : 'Nothing yet.')) : shown.reverse().map(e => el('li', { class: e.level || null },
      el('time', { datetime: e.time, title: new Date(e.time).toLocaleString() }, clockNear(new Date(e.time), new Date(this.run.newest))), el('span', { class: 'kind' }, e.kind),
      el('span', { class: 'text' }, e.text, e.advice && el('span', { class: 'advice' }, e.advice)))));
    $('story-more').hidden = this.all || entries.length <= listed;
    $('story-more').textContent = `Show all ${count(entries.length)}${this.run.forgotten ? `; ${count(this.run.forgotten)} older ones are in events.jsonl` : ''}`;
  }

  // lanes draws a lane a worker: where it computed, where it was idle, where it was lost; validations and checkpoints below.
  lanes() {
    const box = $('lanes');
    const views = this.run.story.filter(e => e.view && (e.view.members ?? []).length > 0);
    if (views.length === 0) {
      put(box);
      return;
    }
    const begin = new Date(views[0].time).getTime();
    const end = Math.max(new Date(this.run.state === 'running' ? Date.now() : this.run.newest).getTime(), begin + 1000);
    const { lanes, faults } = history(views, end);
    const names = [...lanes.keys()].sort(new Intl.Collator('en', { numeric: true }).compare).slice(0, 24);
    const width = Math.max(box.clientWidth - 28, 200), left = Math.min(150, width * 0.26), high = 24;
    const x = t => left + (t - begin) / (end - begin) * (width - left - 4);
    const marks = this.run.story.filter(e => e.story?.topic === 'checkpoint' && new Date(e.time) >= begin);
    const height = (names.length + 1) * high + 24, bottom = names.length * high;
    const parts = [];
    for (const v of this.run.validations) {
      const t = this.validated(v);
      if (t) parts.push(svg('rect', { class: 'band', x: x(Math.max(t - 1000 * v.seconds, begin)), y: 2, width: Math.max(x(Math.min(t, end)) - x(Math.max(t - 1000 * v.seconds, begin)), 1), height: bottom }));
    }
    names.forEach((name, i) => {
      const y = i * high;
      parts.push(svg('text', { class: 'name', x: 0, y: y + 16 }, worker(name).name));
      for (const s of lanes.get(name)) {
        const w = Math.max(x(s.to) - x(s.from) - 0.5, 1);
        parts.push(s.shards > 0 ? svg('rect', { class: 'span', x: x(s.from), y: y + 6, width: w, height: 12, rx: 1.5, 'fill-opacity': 0.35 + 0.65 * s.shards / s.most })
          : svg('rect', { class: 'idle', x: x(s.from) + 0.5, y: y + 9.5, width: Math.max(w - 1, 1), height: 5, rx: 1.5 }));
      }
    });
    for (const f of faults) {
      for (const name of f.lost) {
        const i = names.indexOf(name);
        if (i >= 0) parts.push(svg('path', { class: 'fault', d: `M${x(f.at) - 5} ${i * high + 7}l10 10m0 -10l-10 10` }));
      }
      parts.push(svg('line', { class: 'mark', x1: x(f.at), x2: x(f.at), y1: 0, y2: bottom }));
    }
    parts.push(svg('text', { x: 0, y: bottom + 16 }, 'checkpoints'));
    for (const m of marks) parts.push(svg('rect', { class: 'tick', x: x(new Date(m.time).getTime()) - 1, y: bottom + 6, width: 2.5, height: 11 }));
    parts.push(svg('line', { class: 'axis', x1: left, x2: width, y1: bottom + high, y2: bottom + high }));
    parts.push(svg('text', { x: left, y: height - 6 }, moment(new Date(begin))), svg('text', { x: width, y: height - 6, 'text-anchor': 'end' }, this.run.state === 'running' ? 'now' : moment(new Date(end))),
      svg('text', { x: (left + width) / 2, y: height - 6, 'text-anchor': 'middle' }, span((end - begin) / 1000)));
    const words = `${times(names.length, 'worker')} over ${span((end - begin) / 1000)}, ${times(views.length, 'view')}, ${times(faults.length, 'fault')}. The list below tells each.`;
    put(box, el('div', { class: 'lanes' }, svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': words }, parts)),
      el('p', { class: 'key', 'aria-hidden': 'true' }, el('span', {}, 'bar: computes, darker with more shards'), el('span', {}, 'outline: keeps up, without shards'), el('span', {}, '✕ lost'), el('span', {}, 'grey: validation'), lanes.size > names.length && `${lanes.size - names.length} more workers`));
  }

  // validated is when a validation ended: its event has no place in the story, but the step after it does.
  validated(v) {
    const s = this.run.steps, i = s.update.findIndex(u => u > v.update), before = s.update.findLastIndex(u => u <= v.update);
    if (before < 0) return null;
    const from = s.time[before] + 1000 * v.seconds;
    return i < 0 ? from : Math.min(from, s.time[i]);
  }
}

// history turns views into each worker's spans, by name: a worker that is started again is another one with the same name.
function history(views, end) {
  const lanes = new Map(), faults = [];
  let before = new Set();
  views.forEach((e, i) => {
    const from = new Date(e.time).getTime(), to = i + 1 < views.length ? new Date(views[i + 1].time).getTime() : end;
    const most = Math.max(...e.view.members.map(m => m.shards?.length ?? 0), 1);
    const now = new Set(e.view.members.map(m => m.name));
    for (const m of e.view.members) {
      if (!lanes.has(m.name)) lanes.set(m.name, []);
      const lane = lanes.get(m.name), last = lane[lane.length - 1], shards = m.shards?.length ?? 0;
      if (last && last.to === from && last.shards === shards && last.most === most) last.to = to;
      else lane.push({ from, to, shards, most });
    }
    if (e.view.warning && !e.view.recover_seconds) faults.push({ at: from, lost: [...before].filter(n => !now.has(n)) });
    before = now;
  });
  return { lanes, faults };
}

// entry is an event in words.
function entry(e) {
  const out = { time: e.time, level: '', advice: '' };
  if (e.view) {
    const v = e.view;
    Object.assign(out, { kind: `view ${v.number}`, view: true, advice: v.advice, level: v.warning && !v.recover_seconds ? 'bad' : '' });
    out.text = v.recover_seconds ? `The next step was done ${span(v.recover_seconds)} after the fault was noticed.`
      : `${(v.members ?? []).length > 0 ? `${times(v.members.length, 'worker')}: ` : ''}${v.reason}${v.detect_seconds ? ` (noticed after ${span(v.detect_seconds)})` : ''}`;
  } else if (e.fault) {
    Object.assign(out, { kind: 'warning', level: 'warn', text: e.fault.text, advice: e.fault.advice });
  } else if (e.leader) {
    Object.assign(out, { kind: 'leader', level: e.leader.previous ? 'warn' : '', text: `coordinator ${e.leader.id} leads${e.leader.previous ? ` after ${e.leader.previous}; nobody did for ${span(e.leader.seconds)}` : ''}` });
  } else if (e.start) {
    Object.assign(out, { kind: 'start', text: e.start.update > 0 ? `goes on after update ${count(e.start.update)} on ${e.start.device}` : `begins on ${e.start.device}, ${count(e.start.updates)} updates` });
  } else if (e.summary) {
    Object.assign(out, { kind: 'summary', text: `${e.summary.title}: best top-1 ${e.summary.best_top1.toFixed(2)} % in epoch ${e.summary.best_epoch}` });
  } else if (e.story) {
    Object.assign(out, { kind: e.story.topic, text: e.story.text, advice: e.story.advice, level: e.story.warning && e.story.topic !== 'leave' ? 'warn' : '' /* the view that follows tells of who left */ });
  }
  return out;
}

// The curves of one run, and the same as a table.

import { Chart, join, smooth } from './chart.js';
import { $, el, put, text } from './page.js';
import { count, dash, figure, percent, span } from './format.js';

export class Curves {
  constructor(box) {
    const percentAxis = { value: v => v.toFixed(1), gutter: 50 };
    this.loss = new Chart(box, { title: 'Loss', series: [
      { label: 'training, as reported', colour: 'train-faint', width: 1 },
      { label: 'smoothed', colour: 'train' },
      { label: 'validation', colour: 'val', dash: [8, 4], points: true }], empty: 'No step was reported yet' });
    this.accuracy = new Chart(box, { title: 'Accuracy, %', series: [], ...percentAxis, empty: 'No epoch has ended yet' });
    this.rate = new Chart(box, { title: 'Images a second', from: [0, 0], series: [
      { label: 'as reported', colour: 'train-faint', width: 1 }, { label: 'smoothed', colour: 'train' }], empty: 'No step was reported yet' });
    this.update = new Chart(box, { title: 'Length of the gradient', from: [0, 0], series: [
      { label: 'before clipping', colour: 'fourth', width: 1 }], empty: 'Not measured yet' });
    this.lr = new Chart(box, { title: 'Learning rate', from: [0, 0], series: [{ label: 'learning rate', colour: 'third' }], gutter: 66, empty: 'No step was reported yet' });
    this.wait = new Chart(box, { title: 'Waiting for images, % of the time', from: [0, 1], series: [{ label: 'waiting', colour: 'val', width: 1 }], ...percentAxis, empty: 'No step was reported yet' });
  }

  show(run) {
    const s = run.steps, v = run.validations, e = run.epoch_list;
    const perEpoch = run.step?.steps || e[0]?.update;
    const x = u => perEpoch ? `update ${count(u)}, epoch ${(u / perEpoch).toFixed(1)}` : `update ${count(u)}`;
    for (const chart of Object.values(this)) chart.options.x = x;
    text($('curves-note'), s.each > 1 ? `The run is long: each point is the mean of ${s.each} reported steps.` : '');

    const steps = [s.update, s.loss, smooth(s.loss)];
    const validated = [v.map(p => p.update), v.map(p => p.loss)];
    this.loss.set(s.update.length === 0 ? [[]] : v.length > 0 ? join([steps, validated]) : [...steps, s.update.map(() => null)]);

    const lines = [
      [e, 'top1', { label: 'training top-1', colour: 'train' }], [v, 'top1', { label: 'validation top-1', colour: 'val', dash: [8, 4] }],
      [e, 'top5', { label: 'training top-5', colour: 'third' }], [v, 'top5', { label: 'validation top-5', colour: 'fourth', dash: [8, 4] }],
      [v.filter(p => p.robust), p => p.robust.top1, { label: 'held out, attacked top-1', colour: 'run-5', dash: [2, 3] }],
      [v.filter(p => p.robust?.clean_top1 != null), p => p.robust.clean_top1, { label: 'held out, clean top-1', colour: 'run-6', dash: [2, 3] }],
    ].filter(l => l[0].length > 0);
    const value = (p, key) => typeof key === 'function' ? key(p) : p[key];
    this.accuracy.set(lines.length === 0 ? [[]] : join(lines.map(([list, key]) => [list.map(p => p.update), list.map(p => value(p, key))])),
      lines.map(([list, , line]) => ({ ...line, points: list.length < 60 })));

    this.rate.set([s.update, s.images_per_second, smooth(s.images_per_second)]);
    const norms = s.gradient_norm.some(n => n > 0);
    this.update.set(norms ? [s.update, s.gradient_norm] : [[]]);
    this.lr.set([s.update, s.learning_rate]);
    this.wait.set([s.update, s.data_wait.map(w => 100 * w)]);
    this.table(run);
  }

  table(run) {
    const robust = run.validations.some(v => v.robust);
    put($('epoch-head'), el('tr', {}, el('th', { scope: 'col', class: 'num' }, 'Epoch'), ['Loss', 'Top-1', 'Top-5', 'Images/s', 'Took', 'Validation loss', 'Top-1', 'Top-5', robust && 'Attacked top-1', 'Best']
      .filter(Boolean).map(h => el('th', { scope: 'col', class: 'num' }, h))));
    const updates = [...new Set([...run.epoch_list, ...run.validations].map(p => p.update))].sort((a, b) => a - b);
    put($('epoch-rows'), updates.length === 0 ? el('tr', {}, el('td', { colspan: 11 }, 'No epoch has ended yet.')) : updates.map(u => {
      const e = run.epoch_list.find(p => p.update === u), v = run.validations.find(p => p.update === u);
      const cell = words => el('td', { class: 'num' }, words);
      return el('tr', {}, el('th', { scope: 'row', class: 'num' }, count((e ?? v).epoch)),
        cell(e ? figure(e.loss) : dash), cell(e ? percent(e.top1) : dash), cell(e ? percent(e.top5) : dash), cell(e ? figure(e.images_per_second) : dash), cell(e ? span(e.seconds) : dash),
        cell(v ? figure(v.loss) : dash), cell(v ? percent(v.top1) : dash), cell(v ? percent(v.top5) : dash), robust && cell(v?.robust ? percent(v.robust.top1) : dash), cell(v?.best ? 'best so far' : ''));
    }));
  }
}

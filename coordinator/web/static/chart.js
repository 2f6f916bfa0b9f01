// One chart: uPlot in the page's colours, with the newest values in its legend, walked through with the arrow keys, told to
// screen readers in a sentence, and drawn anew when the colours change.

import uPlot from './vendor/uplot/uPlot.esm.js';
import { el, say, text } from './page.js';
import { count, dash, figure } from './format.js';

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Chart makes a figure in a box. options: title; series, a list of {label, colour, width, dash, points, faint}; value, how one
// is written; whole, that places are whole numbers; x, how a place on the axis is written in the legend; tick, how it is on the axis; from, the least range shown;
// empty, what stands where there is nothing.
export class Chart {
  constructor(box, options) {
    this.options = { value: figure, x: v => `update ${count(v)}`, tick: v => count(v), empty: 'Nothing yet', whole: true, ...options };
    this.title = el('h3', {}, options.title);
    this.plotBox = el('div', { class: 'plot', tabindex: '0', role: 'img' });
    this.none = el('p', { class: 'empty' }, this.options.empty);
    box.append(el('figure', { class: 'chart' }, this.title, this.plotBox, this.none));
    this.data = null;
    this.plotBox.addEventListener('keydown', e => this.walk(e));
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.plotBox); // draws, and so rests
    this.show();
  }

  size() {
    return { width: Math.max(this.plotBox.clientWidth, 120), height: 200 };
  }

  // set shows columns: places on the axis, then values of each series; null where there is none.
  set(data, series) {
    const others = !this.data || series && JSON.stringify(series) !== JSON.stringify(this.options.series);
    if (series) this.options.series = series;
    this.data = data[0].length > 0 ? data : null;
    if (others || !this.plot || !this.data) this.draw();
    else this.plot.setData(this.data);
    this.rest();
    this.describe();
  }

  // draw makes the plot anew.
  draw() {
    this.plot?.destroy();
    this.plot = null;
    this.show();
    if (!this.data) return;
    const o = this.options;
    const axis = { stroke: colour('soft'), grid: { stroke: colour('line'), width: 1 }, ticks: { show: false }, font: '12px system-ui, "DejaVu Sans", sans-serif' };
    this.plot = new uPlot({
      ...this.size(),
      series: [
        { label: 'Shown', value: (_, v) => v == null ? '' : o.x(v) },
        ...o.series.map(s => ({
          label: s.label,
          stroke: colour(s.colour),
          width: s.width ?? 2,
          dash: s.dash,
          spanGaps: true,
          points: { show: s.points ?? false, size: 6, fill: colour('card'), stroke: colour(s.colour), width: 2 },
          value: (_, v) => v == null ? dash : o.value(v),
        })),
      ],
      axes: [
        { ...axis, values: (_, all) => all.map(o.tick), space: 60, size: 32, ...(o.whole && { incrs: wholes }) },
        { ...axis, size: o.gutter ?? 56, values: (_, all, axisIndex, space, step) => ticks(all, step) },
      ],
      scales: { x: { time: false }, y: { range: (u, low, high) => range(low, high, o.from) } },
      cursor: { y: false, drag: { x: true, y: false }, points: { size: 7 } },
      legend: { live: true },
      hooks: { setCursor: [u => { if (u.cursor.idx == null) this.rest(); }], draw: [() => queueMicrotask(() => this.rest())] },
    }, this.data, this.plotBox);
    this.rest();
    this.describe();
  }

  show() {
    this.plotBox.hidden = !this.data;
    this.none.hidden = !!this.data;
  }

  // rest puts each series' newest value into the legend while nobody points anywhere.
  rest() {
    if (!this.plot || !this.data || this.plot.cursor.idx != null && this.plot.cursor.left >= 0) return;
    const rows = this.plotBox.querySelectorAll('.u-legend .u-series .u-value');
    const last = this.newest();
    rows.forEach((row, i) => text(row, i === 0 ? 'newest' : last[i - 1] == null ? dash : this.options.value(last[i - 1])));
  }

  newest() {
    return this.data.slice(1).map(column => {
      for (let i = column.length - 1; i >= 0; i--) if (column[i] != null) return column[i];
      return null;
    });
  }

  describe() {
    if (!this.data) return;
    const last = this.newest();
    const words = this.options.series.map((s, i) => last[i] == null ? null : `${s.label} ${this.options.value(last[i])}`).filter(Boolean);
    const x = this.data[0];
    this.plotBox.setAttribute('aria-label', `${this.options.title}, ${this.options.x(x[0])} to ${this.options.x(x[x.length - 1])}. Newest: ${words.join(', ')}. Arrow keys walk through the values.`);
  }

  walk(e) {
    if (!this.plot || !['ArrowLeft', 'ArrowRight', 'Home', 'End', 'Escape'].includes(e.key)) return;
    e.preventDefault();
    const x = this.data[0], end = x.length - 1;
    if (e.key === 'Escape') {
      this.plot.setCursor({ left: -10, top: -10 });
      this.rest();
      return;
    }
    const step = e.shiftKey ? Math.max(1, Math.round(x.length / 20)) : 1;
    const now = this.plot.cursor.left >= 0 && this.plot.cursor.idx != null ? this.plot.cursor.idx : end + 1;
    const to = { ArrowLeft: now - step, ArrowRight: now + step, Home: 0, End: end }[e.key];
    const i = Math.max(0, Math.min(end, to));
    this.plot.setCursor({ left: this.plot.valToPos(x[i], 'x'), top: 10 });
    const words = this.options.series.map((s, k) => this.data[k + 1][i] == null ? null : `${s.label} ${this.options.value(this.data[k + 1][i])}`).filter(Boolean);
    say(`${this.options.x(x[i])}: ${words.join(', ')}`);
  }
}

// wholes are the distances between ticks where places are whole numbers.
const wholes = [0, 1, 2, 3, 4, 5, 6, 7, 8].flatMap(p => [1, 2, 5].map(n => n * 10 ** p));

// ticks writes the values of an axis with as many digits as tell them apart.
function ticks(all, step) {
  let digits = 0;
  while (digits < 8 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits++;
  return all.map(v => v == null ? null : Math.abs(v) >= 1000 && digits === 0 ? count(v) : v.toFixed(digits));
}

// range leaves a little room; from widens it to what must be seen.
function range(low, high, from) {
  if (low == null) return [0, 1];
  if (from) [low, high] = [Math.min(low, from[0]), Math.max(high, from[1])];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [from && low === from[0] ? low : low - room, high + room];
}

// join lays tables of [places, values...] over each other on one axis.
export const join = tables => uPlot.join(tables.filter(t => t[0].length > 0));

// smooth is an exponential mean of a column: the line that an eye would draw.
export function smooth(column) {
  const keep = Math.min(0.97, 1 - 12 / (column.length + 12));
  let mean = null, weight = 0;
  return column.map(v => {
    if (v == null) return null;
    mean = (mean ?? 0) * keep + v * (1 - keep);
    weight = weight * keep + (1 - keep);
    return mean / weight;
  });
}

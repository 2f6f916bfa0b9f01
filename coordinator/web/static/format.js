// How numbers, spans and times are written on every page.

export const dash = '–';

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export const count = n => whole.format(n);

export const percent = (v, digits = 2) => v == null ? dash : `${v.toFixed(digits)} %`;

// figure writes a number with about four digits.
export function figure(v) {
  if (v == null || Number.isNaN(v)) return dash;
  const a = Math.abs(v);
  if (a === 0) return '0';
  if (a >= 1000) return count(v);
  if (a >= 100) return v.toFixed(0);
  if (a >= 10) return v.toFixed(1);
  if (a >= 0.01) return v.toFixed(a >= 1 ? 3 : 4);
  return v.toExponential(2);
}

// span writes seconds with their two largest units.
export function span(s) {
  if (s == null || !Number.isFinite(s)) return dash;
  if (s > 0 && s < 9.95) return s < 0.095 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(1)} s`;
  s = Math.round(Math.max(s, 0));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

export const milliseconds = s => s == null ? dash : s >= 9.95 ? span(s) : `${figure3(s * 1000)} ms`;

function figure3(v) {
  if (v === 0) return '0';
  if (v >= 100) return count(v);
  return v >= 10 ? v.toFixed(0) : v.toFixed(v >= 1 ? 1 : 2);
}

export function bytes(n) {
  if (!n) return dash;
  return n < 2 ** 30 ? `${Math.round(n / 2 ** 20)} MiB` : `${(n / 2 ** 30).toFixed(1)} GiB`;
}

const clockOnly = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const clockShort = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const withDay = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });

const today = t => t.toDateString() === new Date().toDateString();

export const clock = t => (today(t) ? clockOnly : withDay).format(t);

// clockNear leaves the day out where it is another time's.
export const clockNear = (t, other) => (t.toDateString() === other.toDateString() ? clockOnly : withDay).format(t);
export const moment = t => (today(t) ? clockShort : withDay).format(t);

// worker splits a worker's name from the place that stands behind it in brackets.
export function worker(name) {
  const m = /^(.*?) \((.*)\)$/.exec(name);
  return m ? { name: m[1], place: m[2] } : { name, place: '' };
}

export const times = (n, one, many) => n === 1 ? `1 ${one}` : `${count(n)} ${many ?? one + 's'}`;

// The four answers that somebody wants in five seconds: is it learning, is it well, when is it done, who is slow.

import { el } from './page.js';
import { count, figure, milliseconds, moment, percent, span, times, worker } from './format.js';

export const answers = (run, work) => [learning(run), health(run, work), end(run), slow(run)].map(a =>
  el('div', { class: `answer ${a.kind ?? ''}` }, el('h3', {}, a.question), el('p', { class: 'big' }, a.answer), el('p', { class: 'soft small' }, a.detail)));

// trend compares the newest tenth of the reported losses with the tenth before: a change counts beyond two standard errors.
export function trend(loss) {
  const known = loss.filter(v => v != null);
  const n = Math.max(5, Math.floor(known.length / 10));
  if (known.length < 2 * n) return null;
  const of = part => {
    const mean = part.reduce((a, v) => a + v, 0) / part.length;
    return { mean, error: part.reduce((a, v) => a + (v - mean) ** 2, 0) / part.length / (part.length - 1) };
  };
  const now = of(known.slice(-n)), then = of(known.slice(-2 * n, -n));
  const change = now.mean - then.mean, doubt = 2 * Math.sqrt(now.error + then.error);
  return { change, points: n, word: Math.abs(change) <= doubt ? 'level' : change < 0 ? 'falls' : 'rises' };
}

function learning(run) {
  const question = 'Is it learning?';
  const best = run.best && `best top-1 ${percent(run.best.top1)} in epoch ${run.best.epoch}${run.best.robust ? `, ${percent(run.best.robust.top1)} attacked` : ''}`;
  if (run.steps.loss.length === 0) return { question, answer: 'Not yet', detail: 'no step was reported' };
  const loss = run.steps.loss[run.steps.loss.length - 1];
  if (loss == null) return { question, answer: 'No: it diverged', kind: 'bad', detail: 'the loss is no number: lower --lr, or give --clip-grad' };
  if (run.state === 'done') return { question, answer: run.best ? percent(run.best.top1) : 'No validation', kind: 'good', detail: best ?? '' };
  const t = trend(run.steps.loss);
  const detail = [`loss ${figure(loss)}`, best].filter(Boolean).join('; ');
  switch (t?.word) {
    case 'falls': return { question, answer: 'Yes, loss falls', kind: 'good', detail };
    case 'rises': return { question, answer: 'Loss rises', kind: 'warn', detail };
    case 'level': return { question, answer: 'Loss is level', detail };
  }
  return { question, answer: `Loss ${figure(loss)}`, detail: best ?? 'too early to say' };
}

// quietFor is how long a training run may say nothing before that is worth a word.
const quietFor = 45;

function health(run, work) {
  const question = 'Is it well?';
  const faults = run.story.filter(e => e.view?.warning && !e.view.recover_seconds);
  const last = faults[faults.length - 1];
  const ago = t => (Date.now() - new Date(t)) / 1000;
  const story = last ? `${times(run.faults, 'fault')} so far, the last ${run.state === 'running' ? `${span(ago(last.time))} ago` : `at ${moment(new Date(last.time))}`}: ${last.view.reason}` : 'no fault so far';
  switch (run.state) {
    case 'failed': return { question, answer: 'It failed', kind: 'bad', detail: run.reason || story };
    case 'cancelled': return { question, answer: 'Cancelled', kind: 'bad', detail: run.reason || story };
    case 'stopped': return { question, answer: 'It stopped', kind: 'warn', detail: 'nothing was written for long; go on with mp train --resume' };
    case 'paused': case 'draining': return { question, answer: run.state === 'paused' ? 'It rests' : 'It saves', kind: 'warn', detail: run.reason || story };
    case 'queued': case 'unknown': return { question, answer: 'It waits', detail: run.reason || 'not begun' };
    case 'done': return { question, answer: 'It is done', kind: 'good', detail: story };
  }
  const quiet = ago(run.newest);
  if (quiet > quietFor && !work) return { question, answer: `Silent for ${span(quiet)}`, kind: 'warn', detail: story };
  const recovered = last && run.story.some(e => e.view?.recover_seconds && e.view.number >= last.view.number);
  if (last && !recovered && ago(last.time) < 60) return { question, answer: 'Recovering', kind: 'warn', detail: last.view.reason };
  const goodput = run.goodput?.step_seconds > 0 ? `goodput ${percent(100 * run.goodput.share, 0)}; ` : '';
  return { question, answer: `Yes, ${times(run.workers, 'worker')}`, kind: 'good', detail: goodput + story };
}

function end(run) {
  const question = 'When is it done?';
  const took = run.began && run.newest ? (new Date(run.newest) - new Date(run.began)) / 1000 : null;
  const speed = run.step ? `${figure(run.step.images_per_second)} images/s` : '';
  if (run.state === 'done') return { question, answer: 'Done', kind: 'good', detail: `after ${span(took)}, at ${moment(new Date(run.newest))}` };
  if (run.state !== 'running' || !run.step) {
    const words = { paused: 'When it goes on', draining: 'When it goes on', failed: 'Not', cancelled: 'Not', stopped: 'When it goes on' };
    return { question, answer: words[run.state] ?? 'Not known yet', detail: run.updates ? run.update < run.updates ? `${times(run.updates - run.update, 'update')} to go` : 'all updates are done' : '' };
  }
  const left = remaining(run);
  if (run.update >= run.updates) return { question, answer: 'In a moment', detail: 'all updates are done; validating and saving' };
  return { question, answer: `In ${span(left)}`, detail: `about ${moment(new Date(Date.now() + 1000 * left))}; ${speed}` };
}

// remaining is what the newest step said, less the time since, but not less than the steps that are left take: a validation may
// be under way.
function remaining(run) {
  const since = (Date.now() - new Date(run.step_time)) / 1000;
  return Math.max(run.step.eta_seconds - since, (run.updates - run.update) * (stepSeconds(run) ?? 0), 0);
}

// stepSeconds is how long a step takes: as measured undisturbed or, before that, at the newest speed.
export function stepSeconds(run) {
  if (run.goodput?.step_seconds > 0) return run.goodput.step_seconds;
  const batch = +run.config.find(c => c.name === 'batch-size')?.value;
  return run.step?.images_per_second > 0 && batch > 0 ? batch / run.step.images_per_second : null;
}

// slowShare is the share of a step from which on a wait for somebody is worth a word.
export const slowShare = 0.15;

// ofStep says how much of a step a wait is.
export const ofStep = share => share == null ? '' : share >= 1 ? ', as long as a whole one' : `, ${percent(100 * share, 0)} of one`;

// slowest is for whom the ring waits longest.
export function slowest(run) {
  const told = run.crew.filter(w => w.reported);
  if (told.length === 0) return null;
  const w = told.reduce((a, b) => b.arrival_skew > a.arrival_skew ? b : a);
  const step = stepSeconds(run);
  return { ...w, share: step ? w.arrival_skew / step : null, told: told.length };
}

export function slow(run) {
  const question = run.state === 'running' ? 'Who is slow?' : 'Who was slow?';
  const w = slowest(run);
  if (!w) return { question, answer: 'Not known yet', detail: 'no worker has reported' };
  if (run.crew.length === 1) return { question, answer: 'One worker', detail: 'nobody waits for anybody' };
  const wait = `the ring waits ${milliseconds(w.arrival_skew)} a step for it${ofStep(w.share)}`;
  if (w.share >= slowShare) return { question, answer: worker(w.name).name, kind: 'warn', detail: wait };
  return { question, answer: 'Nobody', kind: 'good', detail: `longest for ${worker(w.name).name}: ${wait}` };
}

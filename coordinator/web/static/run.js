// One run: its snapshot first, then its stream line by line. What is shown is what run.js keeps in `run`; pieces of the page are
// drawn anew at most a few times a second.

import { Curves } from './curves.js';
import { answers } from './answers.js';
import { Timeline } from './timeline.js';
import { controls } from './steer.js';
import { showPictures } from './pictures.js';
import { showCheckpoints, showConfig, showGoodput, showLedger } from './records.js';
import { showWorkers } from './workers.js';
import { $, ask, follow, foot, notes, put, say, stateWords, text } from './page.js';
import { count, dash, percent, times } from './format.js';

const name = decodeURIComponent(location.pathname.split('/')[2] ?? '');
const address = `/api/runs/${encodeURIComponent(name)}`;

let run = null; // the snapshot, kept up to date
let work = null; // what is under way: {title, done, total}
const curves = new Curves($('charts'));
const timeline = new Timeline();

document.title = `${name} · mp`;
text($('name'), name);

// Pieces of the page that wait to be drawn.
const due = new Set();
let drawing = 0;
function redraw(...pieces) {
  pieces.forEach(p => due.add(p));
  drawing ||= setTimeout(() => {
    drawing = 0;
    const now = [...due];
    due.clear();
    now.forEach(p => p());
  }, 200);
}

function drawState() {
  const state = stateWords[run.state] ?? run.state;
  text($('state'), state);
  $('state').className = `pill ${run.state}`;
  document.title = `${run.updates ? `${percent(100 * run.update / run.updates, 0)} ` : ''}${state} · ${name} · mp`;
  const setting = key => run.config.find(c => c.name === key)?.value;
  text($('subtitle'), [run.model ?? setting('model'), run.recipe && `recipe ${run.recipe}`, setting('epochs') && times(+setting('epochs'), 'epoch'), setting('batch-size') && `batch ${setting('batch-size')}`,
    setting('adversarial') && setting('adversarial') !== 'none' && `against ${setting('adversarial')}`, run.device].filter(Boolean).join(' · '));
  const share = run.updates ? 100 * run.update / run.updates : 0;
  $('done').setAttribute('width', `${share}%`);
  $('track').setAttribute('aria-valuenow', share.toFixed(0));
  const s = run.step;
  text($('progress-text'), s ? `Epoch ${s.epoch} of ${s.epochs}, step ${count(s.step)} of ${count(s.steps)} · ${percent(share, share < 10 ? 1 : 0)} · update ${count(run.update)} of ${count(run.updates)}`
    : run.updates ? `Update ${count(run.update)} of ${count(run.updates)}` : 'No step was reported yet');
  const validating = run.state === 'running' && work && work.title !== 'train';
  text($('work'), validating ? `${work.title}: ${count(work.done)} of ${count(work.total)}` : '');
  const list = [];
  if (run.state === 'failed' || run.state === 'cancelled') list.push({ kind: 'bad', text: `The run is ${run.state}${run.reason ? `: ${run.reason}` : ''}.` });
  else if (run.state !== 'running' && run.state !== 'done' && run.reason) list.push({ text: `${state[0].toUpperCase()}${state.slice(1)}: ${run.reason}.` });
  if (run.trouble) list.push({ kind: 'warn', text: `The coordinator does not answer; what follows is what the files tell. ${run.trouble}` });
  for (const p of run.problems ?? []) list.push({ kind: run.state === 'queued' || run.state === 'unknown' ? '' : 'warn', text: p });
  notes(list);
  controls(run);
}

const drawShort = () => put($('answers'), answers(run, work));
const drawCurves = () => curves.show(run);
const drawWorkers = () => showWorkers(run);
const drawTimeline = () => timeline.show(run);
const drawRecords = () => { showGoodput(run); showLedger(run); showCheckpoints(run); };
const drawPictures = () => showPictures(run, address);
const everything = [drawState, drawShort, drawCurves, drawWorkers, drawTimeline, drawRecords, drawPictures, () => showConfig(run)];

// load reads the snapshot.
async function load() {
  run = await ask(address);
  foot(run.version);
  everything.forEach(f => f());
}

// put adds what an update brought; a run that went back repeats updates, and the newest counts.
function replace(list, value) {
  const i = list.findIndex(v => v.update >= value.update);
  if (i < 0) list.push(value);
  else list.splice(i, list[i].update === value.update ? 1 : 0, value);
}

const columns = { loss: 'loss', top1: 'top1', top5: 'top5', images_per_second: 'images_per_second', learning_rate: 'learning_rate', gradient_norm: 'gradient_norm', data_wait: 'data_wait' };

function step(s, time) {
  const c = run.steps;
  let i = c.update.length;
  while (i > 0 && c.update[i - 1] >= s.update) i--;
  const same = c.update[i] === s.update ? 1 : 0;
  c.update.splice(i, same, s.update);
  c.time.splice(i, same, new Date(time).getTime());
  for (const [column, field] of Object.entries(columns)) c[column].splice(i, same, s[field]);
  if (c.update.length > 9000) load(); // the server thins them out
}

// line takes a line of the run's files.
function line(e) {
  switch (e.kind) {
    case 'step':
      step(e.step, e.time);
      redraw(drawCurves);
      break;
    case 'epoch':
      replace(run.epoch_list, e.epoch);
      redraw(drawCurves);
      break;
    case 'validation':
      work = null;
      replace(run.validations, e.validation);
      say(`Epoch ${e.validation.epoch} of ${e.validation.epochs} validated: top-1 ${percent(e.validation.top1)}${e.validation.best ? ', the best so far' : ''}`);
      redraw(drawCurves, drawTimeline);
      break;
    case 'picture':
      run.pictures.push(e.picture);
      redraw(drawPictures);
      break;
    case 'start': case 'view': case 'fault': case 'leader': case 'story': case 'summary':
      if (e.start?.job) run.config = Object.entries(e.start.job).map(([k, v]) => ({ name: k, value: String(v) }));
      run.story.push(e);
      if (e.view?.warning) say(e.view.reason);
      redraw(drawTimeline, () => showConfig(run));
  }
}

try {
  await load();
  let loaded = Promise.resolve();
  const stream = follow(id => `${address}/stream?from=${id || run.cursor}`, {
    line,
    state: s => {
      if (s.state !== run.state) say(`The run is ${stateWords[s.state] ?? s.state}`);
      for (const key of ['best', 'step', 'goodput', 'reason', 'trouble', 'problems', 'job']) delete run[key]; // left out where there is none
      Object.assign(run, s);
      redraw(drawState, drawShort, drawWorkers, drawRecords);
    },
    progress: p => {
      work = p;
      redraw(drawState, drawShort);
    },
    reset: () => {
      loaded = loaded.then(load).then(() => stream.restart(run.cursor));
    },
    trouble: t => notes([{ kind: 'bad', text: t.error }]),
  });
  setInterval(() => { drawShort(); drawState(); }, 1000); // times go on
} catch (error) {
  notes([{ kind: 'bad', text: `${error.message}.` }]);
  text($('subtitle'), dash);
  text($('link'), 'not found');
}

// What is kept and counted: goodput, the sample ledger, checkpoints, the configuration.

import { $, el, put, text } from './page.js';
import { bytes, clock, count, dash, percent, span, times } from './format.js';

export function showGoodput(run) {
  const g = run.goodput;
  if (!g || g.wall_seconds <= 0) {
    put($('goodput'), el('p', { class: 'soft' }, 'Nothing to measure yet: it takes some reported steps.'));
    return;
  }
  const item = (name, value, more) => el('div', {}, el('dt', {}, name), el('dd', {}, value, more && el('small', {}, more)));
  put($('goodput'), el('dl', { class: 'figures' },
    item('Goodput', g.step_seconds > 0 ? percent(100 * g.share, 1) : dash, g.step_seconds > 0 ? 'time that counted, of the time that passed' : 'too few undisturbed steps to tell'),
    item('Steps that count', count(g.committed_steps), g.step_seconds > 0 ? `${span(g.step_seconds)} each, undisturbed` : 'each update counts once'),
    item('Time', span(g.wall_seconds), 'without validation and pauses'),
    item('Faults', count(g.faults), g.faults === 0 ? 'none' : g.detect_median > 0 ? `noticed after ${span(g.detect_median)}, 99 % within ${span(g.detect_p99)}` : 'noticed at once'),
    item('Back to work', g.recover_median > 0 ? span(g.recover_median) : dash, g.recover_median > 0 ? `from the notice to the next step; 99 % within ${span(g.recover_p99)}` : 'no fault was recovered from')));
}

export function showLedger(run) {
  const l = run.ledger, whole = l.filter(e => e.whole), proven = l.filter(e => e.proven);
  $('ledger-box').hidden = l.length === 0;
  text($('ledger-note'), l.length > 0 ? `${count(proven.length)} of ${times(whole.length, 'whole epoch')} proven: every image was used once, none was left out or repeated${l[0].held_out > 0 ? `; ${count(l[0].held_out)} are held out of training and never used` : ''}.`
    : run.cluster === 'knows' ? 'No step is committed yet.' : 'The ledger is kept by the coordinator that ran the job, not in the run’s directory; the one behind this page does not know the job.');
  put($('ledger-rows'), l.map(e => el('tr', {},
    el('th', { scope: 'row', class: 'num' }, count(e.epoch)),
    ...[e.images, e.expected_images, e.missing, e.repeated].map(n => el('td', { class: 'num' }, count(n))),
    el('td', {}, el('code', {}, e.hash)), el('td', {}, e.expected_hash ? el('code', {}, e.expected_hash) : dash),
    el('td', {}, e.proven ? (e.held_out > 0 ? 'every image once but those held out' : 'every image once') : e.whole ? el('strong', {}, 'NOT PROVEN') : 'under way'))));
}

export function showCheckpoints(run) {
  const list = run.checkpoints;
  const told = run.story.filter(e => e.story?.topic === 'checkpoint');
  const sum = run.sha256 && el('p', { class: 'soft' }, 'SHA-256 of the final weights: ', el('code', {}, run.sha256));
  if (list.length === 0) {
    put($('checkpoints'), told.length === 0 ? el('p', { class: 'soft' }, 'No checkpoint was told of yet.') : el('p', {}, `Told of ${times(told.length, 'checkpoint')}; the newest: ${told[told.length - 1].story.text}.`), sum);
    return;
  }
  put($('checkpoints'), el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-labelledby': 'checkpoints-title' }, el('table', { class: 'rows' },
    el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'Name'), el('th', { scope: 'col', class: 'num' }, 'Update'), el('th', { scope: 'col', class: 'num' }, 'Size'), el('th', { scope: 'col' }, 'Saved'), el('th', { scope: 'col' }, ''))),
    el('tbody', {}, list.map(c => el('tr', {}, el('th', { scope: 'row' }, c.name), el('td', { class: 'num' }, count(c.update)), el('td', { class: 'num' }, bytes(c.bytes)), el('td', {}, clock(new Date(c.time))),
      el('td', {}, [c.best && 'best', !c.whole && 'arriving'].filter(Boolean).join(', '))))))), sum);
}

export function showConfig(run) {
  put($('config'), run.config.length === 0 ? el('div', {}, el('dt', {}, 'Not known: there is no job.yaml')) : run.config.map(c => el('div', {}, el('dt', {}, c.name), el('dd', {}, c.value === '' ? dash : c.value))));
}

// Pause, resume, drain, cancel: each behind a question that says what it does.

import { $, ask, el, put, say, text } from './page.js';

const verbs = {
  pause: { word: 'Pause', title: 'Pause this job?', text: 'Its workers finish the step in hand and rest. Their state stays with them, so that it goes on at once.' },
  resume: { word: 'Resume', title: 'Go on with this job?', text: 'It goes on where it was.' },
  drain: { word: 'Drain', title: 'Drain this job?', text: 'Its workers finish the step in hand, save, and are free for the next job. It goes on from there when it is resumed.' },
  cancel: { word: 'Cancel', danger: true, title: 'Cancel this job for good?', text: 'It ends and cannot be resumed by the coordinator. Its checkpoints stay; a new run can begin from them.' },
};

const allowed = { running: ['pause', 'drain', 'cancel'], paused: ['resume', 'cancel'], draining: ['resume', 'cancel'], queued: ['pause', 'cancel'] };

let shown = '';

// controls offers what the job's state allows.
export function controls(run) {
  const list = run.job ? allowed[run.state] ?? [] : [];
  const key = `${run.job} ${list}`;
  if (key === shown) return;
  shown = key;
  put($('controls'), '');
  $('controls').replaceChildren(...list.map(v => {
    const button = el('button', { type: 'button', class: verbs[v].danger ? 'danger' : null }, verbs[v].word);
    button.addEventListener('click', () => steer(run.job, v, button));
    return button;
  }));
}

async function steer(job, verb, button) {
  const v = verbs[verb];
  text($('confirm-title'), v.title);
  text($('confirm-text'), `${job}: ${v.text}`);
  text($('confirm-yes'), v.word);
  $('confirm-yes').className = v.danger ? 'danger' : '';
  const dialog = $('confirm');
  dialog.returnValue = 'no';
  dialog.showModal();
  const answer = await new Promise(resolve => dialog.addEventListener('close', () => resolve(dialog.returnValue), { once: true }));
  if (answer !== 'yes') return;
  button.disabled = true;
  try {
    const j = await ask(`/api/jobs/${encodeURIComponent(job)}/${verb}`, { method: 'POST' });
    say(`${job} is ${j.state}`);
  } catch (error) {
    say(error.message);
    $('notes').prepend(el('p', { class: 'note bad', role: 'alert' }, error.message));
  } finally {
    button.disabled = false;
  }
}

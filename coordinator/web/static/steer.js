// Pause, resume, drain, cancel: each behind a question that says what it does.

import { $, ask, el, put, say } from './page.js';

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

// question asks whether to do a verb; the focus is on what does nothing. Each has a dialog of its own, so that no answer is taken
// for another question's.
function question(job, v) {
  return new Promise(resolve => {
    const no = el('button', { type: 'button', id: 'confirm-no', autofocus: true }, 'Leave it as it is');
    const yes = el('button', { type: 'button', id: 'confirm-yes', class: v.danger ? 'danger' : null }, v.word);
    const dialog = el('dialog', { id: 'confirm', 'aria-labelledby': 'confirm-title', 'aria-describedby': 'confirm-text' },
      el('h2', { id: 'confirm-title' }, v.title), el('p', { id: 'confirm-text' }, `${job}: ${v.text}`), el('div', { class: 'buttons' }, no, yes));
    const answer = given => {
      dialog.close(); // gives the focus back to the button
      dialog.remove();
      resolve(given);
    };
    no.addEventListener('click', () => answer(false));
    yes.addEventListener('click', () => answer(true));
    dialog.addEventListener('cancel', e => {
      e.preventDefault();
      answer(false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

async function steer(job, verb, button) {
  if (!await question(job, verbs[verb])) return;
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

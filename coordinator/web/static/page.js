// What every page needs: elements, questions to the server with a token where it asks for one, what a screen reader is told,
// and a stream that comes back by itself.

// el makes an element: attributes by name, text and other elements as children. Nothing is ever parsed as HTML.
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

// svg is el for drawings.
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

function fill(e, attributes, children) {
  for (const [k, v] of Object.entries(attributes)) {
    if (v === true) e.setAttribute(k, '');
    else if (v !== false && v != null) e.setAttribute(k, v);
  }
  e.append(...children.flat().filter(c => c != null && c !== false));
  return e;
}

export const $ = id => document.getElementById(id);

// put replaces what is in an element, if it is something else: focus, selections and screen readers stay in peace.
export function put(e, ...children) {
  const fresh = el('div', {}, ...children);
  if (fresh.innerHTML !== e.innerHTML) e.replaceChildren(...fresh.childNodes);
}

export function text(e, words) {
  if (e.textContent !== words) e.textContent = words;
}

// say tells a screen reader, when it has nothing else to say.
let saying;
export function say(words) {
  clearTimeout(saying);
  saying = setTimeout(() => text($('say'), words), 150);
}

// notes are what is wrong or worth knowing, above everything else.
export function notes(list) {
  put($('notes'), list.map(n => el('p', { class: `note ${n.kind ?? ''}` }, n.text)));
}

// ask gets or posts something. Errors carry the server's own sentence.
export async function ask(path, options = {}) {
  const answer = await fetch(path, { headers: { Accept: 'application/json' }, ...options });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    await login();
    return ask(path, options);
  }
  if (!answer.ok) throw Object.assign(new Error(body.error ?? `the server answers ${answer.status}`), { status: answer.status });
  return body;
}

// login asks for the cluster's token until it is the right one.
let asking;
function login() {
  asking ??= new Promise(resolve => {
    const word = el('input', { type: 'password', name: 'token', autocomplete: 'current-password', required: true });
    const wrong = el('p', { role: 'alert' });
    const form = el('form', {}, el('h2', {}, 'Token'), el('p', {}, 'This cluster has a secret: the --token that its coordinators were started with.'),
      el('label', {}, 'Token', word), wrong, el('div', { class: 'buttons' }, el('button', { type: 'submit' }, 'Open')));
    const dialog = el('dialog', { 'aria-label': 'Token' }, form);
    dialog.addEventListener('cancel', e => e.preventDefault());
    form.addEventListener('submit', async e => {
      e.preventDefault();
      try {
        const answer = await fetch('/api/login', { method: 'POST', body: new URLSearchParams({ token: word.value }) });
        if (!answer.ok) throw new Error((await answer.json()).error);
        dialog.close();
        dialog.remove();
        asking = undefined;
        resolve();
      } catch (error) {
        text(wrong, error.message);
        word.select();
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}

// link shows whether what is on the page is of now.
export function link(state, words) {
  $('link').className = `link ${state}`;
  text($('link'), words);
}

// follow listens to a stream and comes back after every break: where it was, by the id of the last event. address(id) is where;
// on names what to do by the event's name; back is called when the server answers again.
export function follow(address, on, back = () => {}) {
  let source, last = '', ended = false, retry;
  const lost = (words, kind = 'lost') => {
    source.close();
    link(kind, words);
    clearTimeout(retry);
    retry = setTimeout(again, 1500);
  };
  // again asks first: a stream cannot say that a token is wanted.
  const again = async () => {
    try {
      await ask('/api/runs');
      back();
      open();
    } catch {
      retry = setTimeout(again, 2500);
    }
  };
  const open = () => {
    ended = false;
    source = new EventSource(address(last));
    source.onopen = () => link('live', 'live');
    source.onerror = () => { if (!ended) lost('connection lost, trying again'); };
    source.addEventListener('end', () => {
      ended = true;
      lost('mp has ended: this is how it was', 'ended');
    });
    for (const [name, f] of Object.entries(on)) {
      source.addEventListener(name, e => {
        if (e.lastEventId) last = e.lastEventId;
        f(JSON.parse(e.data));
      });
    }
  };
  open();
  addEventListener('pagehide', () => source.close());
  return { restart(id) { last = id; source.close(); open(); } };
}

// meter is a small bar.
export function meter(share, { width = 90, slow = false } = {}) {
  const w = Math.max(0, Math.min(1, share || 0)) * (width - 2);
  return svg('svg', { width, height: 10, viewBox: `0 0 ${width} 10`, 'aria-hidden': 'true' },
    svg('rect', { class: 'ground', x: 0.5, y: 0.5, width: width - 1, height: 9, rx: 4.5 }),
    svg('rect', { class: slow ? 'value slow' : 'value', x: 1, y: 1, width: w, height: 8, rx: 4 }));
}

export const stateWords = {
  running: 'training', queued: 'queued', paused: 'paused', draining: 'saving', done: 'done', failed: 'failed', cancelled: 'cancelled',
  stopped: 'stopped', unknown: 'not begun', '': 'not begun',
};

export const pill = state => el('span', { class: `pill ${state}` }, stateWords[state] ?? state);

export const foot = (version, folder) => text($('foot'), `mp${version ? ` ${version}` : ''}${folder ? `, runs of ${folder}` : ''}. Everything on this page comes from the run's own files and its coordinator.`);

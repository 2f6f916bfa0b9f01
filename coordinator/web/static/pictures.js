// Pictures made during training, the newest of each kind, with a slider back in time.

import { $, el, put, text } from './page.js';
import { count } from './format.js';

const titles = {
  'Image/Org_Image': 'Training images, as augmented',
  'Image/Image_Atten': 'Attention: which pixels move the decision',
  'Image/Adv_Image': 'Adversarial pairs: as it is, and attacked',
};

const kinds = new Map(); // by tag: {list, at, image, caption, slider, label}

export function showPictures(run, address) {
  const box = $('pictures');
  if (run.pictures.length === 0) {
    const adversarial = run.config.find(c => c.name === 'adversarial')?.value;
    put(box, el('p', { class: 'soft' }, 'None yet: the worker that speaks first makes them in training.', adversarial === 'none' ? ' Adversarial pairs come with --adversarial only.' : ''));
    return;
  }
  const tags = [...new Set(run.pictures.map(p => p.tag))].sort((a, b) => order(a) - order(b) || a.localeCompare(b));
  if (kinds.size === 0) box.replaceChildren();
  for (const tag of tags) {
    let k = kinds.get(tag);
    if (!k) kinds.set(tag, k = figure(box, tag, address));
    const newest = k.at === k.list.length - 1;
    const list = new Map(run.pictures.filter(p => p.tag === tag).map(p => [p.file, p])); // made again after a resume: the newest counts
    k.list = [...list.values()].sort((a, b) => a.update - b.update);
    if (newest) k.at = k.list.length - 1;
    turn(k);
  }
}

function order(tag) {
  const i = Object.keys(titles).indexOf(tag);
  return i < 0 ? 99 : i;
}

function figure(box, tag, address) {
  const k = { list: [], at: -1, address };
  k.image = el('img', { alt: '' });
  k.open = el('a', {}, k.image);
  k.caption = el('figcaption', {});
  k.slider = el('input', { type: 'range', min: 0, step: 1 });
  k.when = el('span', {});
  k.label = el('label', {}, k.when, k.slider);
  k.slider.addEventListener('input', () => {
    k.at = +k.slider.value;
    turn(k);
  });
  box.append(el('figure', {}, el('h3', {}, titles[tag] ?? tag), k.open, k.caption, k.label));
  return k;
}

function turn(k) {
  const p = k.list[k.at];
  const source = `${k.address}/pictures/${encodeURIComponent(p.file.split('/').pop())}`;
  if (k.image.getAttribute('src') !== source) {
    k.image.src = source;
    k.open.href = source;
  }
  k.image.alt = p.caption || `Picture of update ${p.update}`;
  text(k.caption, p.caption);
  text(k.when, `Epoch ${count(p.epoch)}, update ${count(p.update)}; ${k.at + 1} of ${k.list.length}`);
  k.slider.max = k.list.length - 1;
  k.slider.value = k.at;
  k.slider.setAttribute('aria-valuetext', `update ${p.update}`);
  k.label.querySelector('input').hidden = k.list.length < 2;
}

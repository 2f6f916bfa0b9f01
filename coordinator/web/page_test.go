package web

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"mp/internal/browser"
	"mp/metrics"
)

// isLive waits until a page follows its stream.
func isLive(p *browser.Page) {
	p.Until("the page is live", "document.getElementById('link').textContent === 'live'")
}

// contrasts finds text whose contrast to its ground is below what WCAG AA asks for.
const contrasts = `(() => {
  const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m[3] ?? 1 }; };
  const light = rgb => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a > 0.99) return c.rgb; } return parse(getComputedStyle(document.body).backgroundColor).rgb; };
  const bad = [];
  for (const e of document.body.querySelectorAll('*')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.unseen, .skip, svg, button:disabled')) continue;
    const s = getComputedStyle(e), a = light(parse(s.color).rgb), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(s.fontSize) >= 24 || parseFloat(s.fontSize) >= 18.66 && +s.fontWeight >= 700;
    if (ratio < (large ? 3 : 4.5)) bad.push(ratio.toFixed(2) + ' ' + e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40));
  }
  return bad;
})()`

// unnamed finds what a screen reader could not name, and headings that leave a level out.
const unnamed = `(() => {
  const bad = [];
  for (const e of document.querySelectorAll('img')) if (!e.alt) bad.push('no alt: ' + e.outerHTML);
  for (const e of document.querySelectorAll('button, a')) if (e.checkVisibility() && !e.textContent.trim() && !e.getAttribute('aria-label') && !e.querySelector('img[alt]')) bad.push('no name: ' + e.outerHTML);
  for (const e of document.querySelectorAll('input, select')) if (!e.labels?.length && !e.getAttribute('aria-label')) bad.push('no label: ' + e.outerHTML);
  for (const e of document.querySelectorAll('section')) if (!document.getElementById(e.getAttribute('aria-labelledby'))) bad.push('a section without a heading: ' + e.id);
  let level = 1;
  for (const e of document.querySelectorAll('h1, h2, h3, h4')) { const l = +e.tagName[1]; if (l > level + 1) bad.push('heading of level ' + l + ' after ' + level + ': ' + e.textContent); level = l; }
  for (const what of ['header', 'main', 'footer', '[aria-live=polite]', '.skip', 'html[lang]']) if (!document.querySelector(what)) bad.push('no ' + what);
  return bad;
})()`

// fit checks what every page must be, in every look, and keeps a picture of each.
func fit(t *testing.T, p *browser.Page, name string) {
	t.Helper()
	for _, look := range []struct {
		word string
		look browser.Look
	}{{"desktop-light", browser.Desktop(false)}, {"desktop-dark", browser.Desktop(true)}, {"phone-light", browser.Phone(false)}, {"phone-dark", browser.Phone(true)}} {
		p.As(look.look)
		p.Until("it is drawn", "new Promise(f => requestAnimationFrame(() => requestAnimationFrame(() => f(true))))")
		for _, what := range browser.Eval[[]string](p, contrasts) {
			t.Errorf("%s, %s: contrast %s", name, look.word, what)
		}
		if wide := browser.Eval[int](p, "document.documentElement.scrollWidth - innerWidth"); wide > 0 {
			t.Errorf("%s, %s: %d points wider than the screen", name, look.word, wide)
		}
		p.Picture(name + "-" + look.word)
	}
	p.As(browser.Desktop(false))
	for _, what := range browser.Eval[[]string](p, unnamed) {
		t.Errorf("%s: %s", name, what)
	}
	for _, what := range p.Complaints() {
		t.Errorf("%s: the browser complains: %s", name, what)
	}
}

// pictured adds pictures made in training to a run.
func pictured(t *testing.T, dir string) {
	t.Helper()
	j, err := metrics.NewJSONL(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for update := 10; update <= 20; update += 10 {
		for i, tag := range []string{"Image/Org_Image", "Image/Image_Atten", "Image/Adv_Image"} {
			name := metrics.PictureFile(update, tag)
			img := image.NewRGBA(image.Rect(0, 0, 160, 80))
			for k := range 160 * 80 {
				img.Set(k%160, k/160, color.RGBA{uint8(k % 160), uint8(90 * i), uint8(12 * update), 255})
			}
			f, err := os.Create(filepath.Join(dir, filepath.FromSlash(name)))
			if err != nil {
				t.Fatal(err)
			}
			if err := png.Encode(f, img); err != nil {
				t.Fatal(err)
			}
			f.Close()
			j.Emit(metrics.Event{Time: begun().Add(time.Minute), Kind: metrics.KindPicture, Picture: &metrics.Picture{Tag: tag, Caption: fmt.Sprintf("of update %d", update), Epoch: update / 10, Update: update, File: name}})
		}
	}
}

func TestPagesAreFitForPeople(t *testing.T) {
	b := browser.Open(t)
	runs := t.TempDir()
	pictured(t, aRun(t, runs, "run"))
	aRun(t, runs, "other")
	write(t, filepath.Join(runs, "other", jobFile), "model: scenenet\n")
	if err := os.Mkdir(filepath.Join(runs, "fresh"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(runs, "fresh", jobFile), "model: scenenet\n")
	jobs := &fakeJobs{jobs: []Job{{ID: "job-2", State: "running", Directory: "fresh"}}}
	_, h := serve(t, Config{Runs: runs, Jobs: jobs, Version: "1.2.3"})

	p := browser.Visit(t, b, h.URL+"/", browser.Desktop(false))
	isLive(p)
	fit(t, p, "fixture-overview")
	p.Click("input[data-run=run]")
	p.Click("input[data-run=other]")
	p.Click("#compare-button")
	p.Until("the comparison is drawn", "document.querySelectorAll('#charts canvas').length === 4")
	isLive(p)
	fit(t, p, "fixture-compare")

	p = browser.Visit(t, b, h.URL+"/runs/run", browser.Desktop(false))
	isLive(p)
	p.Until("the pictures are there", "document.querySelectorAll('#pictures img').length === 3 && [...document.querySelectorAll('#pictures img')].every(i => i.naturalWidth > 0)")
	fit(t, p, "fixture-run")
	p = browser.Visit(t, b, h.URL+"/runs/fresh", browser.Desktop(false))
	isLive(p)
	fit(t, p, "fixture-fresh")
	p = browser.Visit(t, b, h.URL+"/runs/none", browser.Desktop(false))
	p.Until("it says that there is no such run", "document.getElementById('notes').innerText.includes('there is no such run')")
	p = browser.Visit(t, b, h.URL+"/nothing", browser.Desktop(false))
	p.Until("it says so", "document.querySelector('h1').innerText.includes('no such page')")
}

// A chart is walked through with the arrow keys, and says the very values of the file.
func TestPageIsUsedWithKeys(t *testing.T) {
	b := browser.Open(t)
	runs := t.TempDir()
	aRun(t, runs, "run")
	jobs := &fakeJobs{jobs: []Job{{ID: "job-1", State: "running", Directory: "run"}}}
	s, h := serve(t, Config{Runs: runs, Jobs: jobs})
	p := browser.Visit(t, b, h.URL+"/runs/run", browser.Desktop(false))
	isLive(p)
	p.Press(kb.Tab)
	if got := p.Text(":focus"); got != "Skip to content" {
		t.Errorf("the first tab stop is %q, want the way past the header", got)
	}
	if got := browser.Eval[string](p, "getComputedStyle(document.querySelector(':focus')).outlineStyle"); got == "none" {
		t.Error("what has the focus cannot be seen")
	}
	browser.Eval[any](p, "document.querySelector('.chart .plot').focus() ?? null")
	p.Press(kb.Home)
	p.Until("the first value is said", "document.getElementById('say').textContent.startsWith('update 1, epoch 0.1: training, as reported 2.950')")
	p.Press(kb.ArrowRight)
	p.Press(kb.ArrowRight)
	p.Until("the third value is said", "document.getElementById('say').textContent.startsWith('update 3, epoch 0.3: training, as reported 2.850')")
	if got := p.Text(".chart .u-legend"); !strings.Contains(got, "2.850") {
		t.Errorf("the legend says %q, want 2.850", got)
	}

	// The files know that the job has ended; until they do it can be paused, after a question that is answered with a no at first.
	if got := browser.Eval[int](p, "document.querySelectorAll('#controls button').length"); got != 0 {
		t.Errorf("a job that is done has %d controls", got)
	}
	if err := os.Truncate(filepath.Join(runs, "run", metrics.EventsFile), 0); err != nil {
		t.Fatal(err)
	}
	s.live.wake("run")
	p.Until("there are controls", "document.querySelectorAll('#controls button').length === 3")
	for _, answer := range []string{"#confirm-no", "#confirm-yes"} {
		browser.Eval[any](p, "document.querySelector('#controls button').focus() ?? null")
		p.Press(kb.Enter)
		p.Until("it asks", "document.getElementById('confirm')?.open")
		if got := p.Text("#confirm"); !strings.Contains(got, "Pause this job?") || !strings.Contains(got, "job-1") {
			t.Errorf("the question is %q", got)
		}
		if got := browser.Eval[string](p, "document.activeElement.id"); got != "confirm-no" {
			t.Errorf("the focus is on %s, want what does nothing", got)
		}
		p.Click(answer)
		p.Until("the question is gone", "!document.getElementById('confirm')")
	}
	p.Until("it says what came of it", "document.getElementById('say').textContent === 'job-1 is paused'")
	jobs.mu.Lock()
	defer jobs.mu.Unlock()
	if got := fmt.Sprint(jobs.steered); got != "[job-1 pause]" {
		t.Errorf("steered %s, want one pause", got)
	}
}

func TestPageAsksForTheToken(t *testing.T) {
	b := browser.Open(t)
	runs := t.TempDir()
	aRun(t, runs, "run")
	s, h := serve(t, Config{Runs: runs, Token: "open sesame"})
	p := browser.Visit(t, b, h.URL+"/", browser.Phone(true))
	p.Until("it asks", "document.querySelector('dialog input[type=password]')?.checkVisibility()")
	p.Picture("fixture-login-phone-dark")
	p.Press("open" + kb.Enter)
	p.Until("it refuses", "document.querySelector('dialog [role=alert]').textContent.includes('not the cluster')")
	s.login.mu.Lock()
	s.login.failed = time.Time{} // as if betweenTries had passed
	s.login.mu.Unlock()
	p.Press("open sesame" + kb.Enter)
	isLive(p)
	p.Until("the run is listed", "document.querySelector('#rows a')?.textContent === 'run'")
	if got := browser.Eval[string](p, "document.cookie"); got != "" {
		t.Errorf("scripts can read the cookie: %q", got)
	}
}

// life is a server at an address that can be had again.
type life struct {
	address string
	end     func()
}

func startServer(t *testing.T, runs, address string) life {
	t.Helper()
	s, err := New(Config{Runs: runs, LookEvery: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with end
	}()
	return life{l.Addr().String(), sync.OnceFunc(func() {
		s.Close()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		<-done
	})}
}

// A page whose server goes stays as it was, says so, and goes on where it was when the server is back.
func TestPageOutlivesItsServer(t *testing.T) {
	b := browser.Open(t)
	runs := t.TempDir()
	dir := aRun(t, runs, "run")
	first := startServer(t, runs, "127.0.0.1:0")
	p := browser.Visit(t, b, "http://"+first.address+"/runs/run", browser.Desktop(false))
	isLive(p)
	before := browser.Eval[int](p, "document.querySelectorAll('#story li').length")
	first.end()
	p.Until("it says that the server has gone", "document.getElementById('link').textContent.includes('has ended')")
	j, err := metrics.NewJSONL(dir)
	if err != nil {
		t.Fatal(err)
	}
	j.Emit(metrics.Event{Time: begun().Add(time.Hour), Kind: metrics.KindStory, Story: &metrics.Story{Topic: "job", Text: "said meanwhile"}})
	j.Close()
	if got := p.Text("#progress-text"); !strings.Contains(got, "update 20 of 20") {
		t.Errorf("meanwhile the page says %q", got)
	}
	second := startServer(t, runs, first.address)
	defer second.end()
	isLive(p)
	p.Until("it has what was said meanwhile", "document.getElementById('story').innerText.includes('said meanwhile')")
	if got := browser.Eval[int](p, "document.querySelectorAll('#story li').length"); got != before+1 {
		t.Errorf("the story has %d entries, want %d and one more", got, before)
	}
	if got := browser.Eval[string](p, "document.querySelector('.chart .plot').getAttribute('aria-label')"); !strings.Contains(got, "update 20") {
		t.Errorf("the curve after that: %q", got)
	}
}

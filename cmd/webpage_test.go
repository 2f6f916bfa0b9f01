package cmd

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp/kb"

	"mp/internal/browser"
	"mp/metrics"
)

// A run of three workers, one of which is killed, is watched in a browser, paused and resumed there; then the page says what
// the run's files say, also after the training program has gone and a coordinator serves the same page.
func TestPageOfARealRun(t *testing.T) {
	b := browser.Open(t)
	args, _ := shortRun(t)
	dir := t.TempDir()
	runs := filepath.Join(dir, "runs")
	again := trainIn(t, append(args, "--runs", runs, "--epochs", "2", "--name", "calm", "--workers", "1", "--http", "none")...)
	p, err := startProcess(processConfig{name: "mp train", program: os.Args[0], log: filepath.Join(dir, "train.log"),
		args: append(args, "--runs", runs, "--workers", "3", "--epochs", "8", "--print-freq", "1", "--http", "127.0.0.1:0", "--adversarial", "fgsm-rs", "--adv-watch-images", "16", "--name", "hurt")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.signal(syscall.SIGKILL); <-p.done })
	address := pageOf(t, p)
	overview := browser.Visit(t, b, address, browser.Desktop(false))
	overview.Until("the run is listed", "document.querySelector('#now-list a')")
	name := overview.Text("#now-list a")
	run := filepath.Join(runs, name)
	page := browser.Visit(t, b, address+"runs/"+name, browser.Desktop(false))
	live := "document.getElementById('link').textContent === 'live'"
	page.Until("it is live", live)
	page.Until("there are steps", "document.querySelector('#progress-text').innerText.startsWith('Epoch')")
	if all := childrenOf(p.pid); len(all) > 0 {
		_ = syscall.Kill(all[0], syscall.SIGKILL)
	}
	page.Until("the death is told", "document.querySelector('#story li.bad')?.innerText.includes('vanished')")
	page.Until("three work again", "document.querySelectorAll('#worker-rows tr').length === 3 && !document.getElementById('worker-rows').innerText.includes('joining')")
	steer := func(button int) {
		browser.Eval[any](page, fmt.Sprintf("document.querySelectorAll('#controls button')[%d].focus() ?? null", button))
		page.Press(kb.Enter)
		page.Until("it asks", "document.getElementById('confirm')?.open")
		page.Click("#confirm-yes")
	}
	steer(0)
	page.Until("it rests", "document.getElementById('state').innerText === 'paused'")
	picture := func(p *browser.Page, what string) {
		for word, look := range map[string]browser.Look{"desktop-light": browser.Desktop(false), "desktop-dark": browser.Desktop(true), "phone-light": browser.Phone(false), "phone-dark": browser.Phone(true)} {
			p.As(look)
			p.Until("it is drawn", "new Promise(f => requestAnimationFrame(() => requestAnimationFrame(() => f(true))))")
			p.Picture(what + "-" + word)
		}
		p.As(browser.Desktop(false))
	}
	picture(page, "paused")
	page.Until("it can go on", "document.querySelector('#controls button').innerText === 'Resume'")
	steer(0)
	page.Until("it goes on", "document.getElementById('state').innerText === 'training'")
	page.Until("an epoch is validated", "document.querySelector('#epoch-rows td:nth-child(7)')?.textContent.match(/[0-9]/)")
	picture(page, "training")
	picture(overview, "overview")
	<-p.done
	if p.code != exitDone {
		t.Fatalf("training ended with %d:\n%s", p.code, strings.Join(lastLines(p.log, 20), "\n"))
	}
	page.Until("it says that mp has ended", "document.getElementById('link').textContent.includes('mp has ended')")
	agrees(t, page, run)
	if got := page.Text("#state"); got != "done" {
		t.Errorf("at the end the state is %q", got)
	}
	if got := page.Text("#ledger-note"); !strings.HasPrefix(got, "8 of 8 whole epochs proven") {
		t.Errorf("ledger: %q", got)
	}
	picture(page, "done")

	// A coordinator that serves the same folder at the same place: the page goes on by itself, a fresh one says the same.
	t.Setenv("MP_TOKEN", "")
	c, err := startProcess(processConfig{name: "mp coordinator", program: os.Args[0], log: filepath.Join(dir, "coordinator.log"), args: []string{"coordinator",
		"--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "coordinator"), "--runs", runs, "--http", strings.Trim(strings.TrimPrefix(address, "http://"), "/")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.signal(syscall.SIGTERM); <-c.done })
	page.Until("it is live again", live)
	agrees(t, page, run)
	fresh := browser.Visit(t, b, address+"runs/"+name, browser.Desktop(false))
	fresh.Until("it is live", live)
	agrees(t, fresh, run)
	both := browser.Visit(t, b, address+"compare?run="+name+"&run="+filepath.Base(again.Directory), browser.Desktop(false))
	both.Until("it is drawn", "document.querySelectorAll('#charts canvas').length === 4")
	if got := both.Text("#differences"); !strings.Contains(got, "adversarial") || !strings.Contains(got, "fgsm-rs") || strings.Contains(got, "batch-size") {
		t.Errorf("differences: %q", got)
	}
	picture(both, "compare")
	for _, p := range []*browser.Page{overview, page, fresh, both} {
		for _, what := range p.Complaints() {
			if !strings.Contains(what, "net::ERR") { // while nobody served
				t.Errorf("the browser complains: %s", what)
			}
		}
	}
}

// pageOf is the address that `mp train` prints.
func pageOf(t *testing.T, p *process) string {
	t.Helper()
	address := ""
	until(t, "training prints the page's address", func() bool {
		select {
		case <-p.done:
			t.Fatalf("training ended: %s\n%s", p.cause, strings.Join(lastLines(p.log, 20), "\n"))
		default:
		}
		text, _ := os.ReadFile(p.log)
		if m := regexp.MustCompile(`(?m)^web page: (http://\S+)$`).FindSubmatch(text); m != nil {
			address = string(m[1])
		}
		return address != ""
	})
	return address
}

// agrees checks that a page says what the run's files say: every epoch, every event, and every point of the curve of the loss.
func agrees(t *testing.T, p *browser.Page, run string) {
	t.Helper()
	var steps []*metrics.Step
	want := map[int][]string{}
	row := func(epoch int) []string {
		if want[epoch] == nil {
			want[epoch] = make([]string, 6)
		}
		return want[epoch]
	}
	for _, e := range linesOf(t, filepath.Join(run, metrics.MetricsFile)) {
		switch {
		case e.Step != nil:
			steps = append(steps, e.Step)
		case e.Epoch != nil:
			copy(row(e.Epoch.Epoch), []string{figureOf(float64(e.Epoch.Loss)), fmt.Sprintf("%.2f %%", e.Epoch.Top1), fmt.Sprintf("%.2f %%", e.Epoch.Top5)})
		case e.Validation != nil:
			copy(row(e.Validation.Epoch)[3:], []string{figureOf(float64(e.Validation.Loss)), fmt.Sprintf("%.2f %%", e.Validation.Top1), fmt.Sprintf("%.2f %%", e.Validation.Top5)})
		}
	}
	rows := browser.Eval[[][]string](p, "[...document.querySelectorAll('#epoch-rows tr')].map(r => [...r.children].map(c => c.textContent))")
	if len(rows) != len(want) {
		t.Errorf("the page has %d epochs, the files %d", len(rows), len(want))
	}
	for _, got := range rows {
		epoch, _ := strconv.Atoi(got[0])
		if w := want[epoch]; w == nil || fmt.Sprint(w) != fmt.Sprint([]string{got[1], got[2], got[3], got[6], got[7], got[8]}) {
			t.Errorf("epoch %d: the page has %v, the files %v", epoch, got, w)
		}
	}
	browser.Eval[any](p, "document.querySelector('.chart .plot').focus() ?? null")
	walk := browser.Eval[[]string](p, `(async () => {
	  const plot = document.querySelector('.chart .plot'), all = [];
	  const press = key => plot.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
	  const read = () => [...plot.querySelectorAll('.u-legend .u-value')].slice(0, 2).map(e => e.textContent).join(' = ');
	  press('Home');
	  for (let last = ''; ; press('ArrowRight')) {
	    await new Promise(requestAnimationFrame);
	    if (read() === last) break;
	    all.push(last = read());
	  }
	  press('Escape');
	  return all;
	})()`)
	var curve []string
	for _, s := range steps {
		curve = append(curve, fmt.Sprintf("update %d, epoch %.1f = %s", s.Update, math.Floor(10*float64(s.Update)/float64(s.Steps)+0.5)/10, figureOf(float64(s.Loss))))
	}
	if fmt.Sprint(walk) != fmt.Sprint(curve) {
		t.Errorf("the curve of the loss:\n got %q\nwant %q", walk, curve)
	}
	events := 0
	for _, e := range linesOf(t, filepath.Join(run, metrics.EventsFile)) {
		if e.Kind != metrics.KindPicture {
			events++
		}
	}
	browser.Eval[any](p, "document.getElementById('story-more').click() ?? null")
	if got := browser.Eval[int](p, "document.querySelectorAll('#story li').length"); got != events {
		t.Errorf("the story has %d entries, the files have %d events", got, events)
	}
}

// figureOf is a number as the page writes it, from 0.01 to 10,000.
func figureOf(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		return thousands(uint64(math.Round(v)))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

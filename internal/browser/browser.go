// Package browser lets tests look at pages as people do: a headless Chromium of its own, with an empty profile, driven from Go.
// It must never be imported outside tests. Start reading at Open.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Look is how a page is looked at.
type Look struct {
	Width, Height int
	Dark          bool
	Phone         bool // touch, and as many pixels as a phone has
}

// Desktop and Phone are the two that pages are made for.
func Desktop(dark bool) Look { return Look{Width: 1280, Height: 900, Dark: dark} }

// Phone is a narrow screen with two pixels a point.
func Phone(dark bool) Look { return Look{Width: 390, Height: 844, Dark: dark, Phone: true} }

// Page is a tab. Its methods fail the test that opened it when the browser does not do as it is told.
type Page struct {
	t   testing.TB
	ctx context.Context

	mu        sync.Mutex
	complaint []string
}

// folder is the variable of the environment that names where pictures of pages go; without it nobody wants to look.
const folder = "SCREENSHOTS"

// Open starts a browser that ends with the test. The test is skipped where nobody asked for it, since it takes long, and
// where there is no Chromium.
func Open(t testing.TB) context.Context {
	t.Helper()
	if os.Getenv(folder) == "" {
		t.Skip("pages are looked at by make web-check, or with SCREENSHOTS=FOLDER")
	}
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Skip("no Chromium to look at pages with: apt-get install chromium, or make web-check as root")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("no-first-run", true), chromedp.Flag("hide-scrollbars", true), chromedp.WSURLReadTimeout(2*time.Minute))
	ctx, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, quit := chromedp.NewContext(ctx)
	t.Cleanup(quit)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	return ctx
}

// Visit opens a tab at an address and waits until it is loaded.
func Visit(t testing.TB, browser context.Context, address string, l Look) *Page {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(browser)
	t.Cleanup(closeTab)
	p := &Page{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatalf("listen to a page: %v", err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); err != nil {
		t.Fatalf("listen to a page's log: %v", err)
	}
	p.As(l)
	p.do("open "+address, chromedp.Navigate(address))
	return p
}

// hear keeps what the page complains of: exceptions, and what its policy refuses.
func (p *Page) hear(event any) {
	words := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		words = e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			words += " " + e.ExceptionDetails.Exception.Description
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			words = e.Entry.Text + " " + e.Entry.URL
		}
	}
	if words != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.complaint = append(p.complaint, words)
	}
}

// Complaints are exceptions of the page and what its policy refused, since the last call.
func (p *Page) Complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.complaint
	p.complaint = nil
	return all
}

// As looks at the page in another way.
func (p *Page) As(l Look) {
	p.t.Helper()
	scheme, scale := "light", 1.0
	if l.Dark {
		scheme = "dark"
	}
	if l.Phone {
		scale = 2
	}
	_, err := chromedp.Call(p.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: int64(l.Width), Height: int64(l.Height), DeviceScaleFactor: scale, Mobile: l.Phone})
	if err == nil {
		_, err = chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
	}
	if err != nil {
		p.t.Fatalf("look at the page: %v", err)
	}
}

func (p *Page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

// Eval computes a JavaScript expression, or waits for the promise that it is.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("compute %s: %v", expression, err)
	}
	return v
}

// Until waits until a JavaScript expression, or the promise that it is, is true; the page may be another one by then.
func (p *Page) Until(what, expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](fmt.Sprintf("Promise.resolve(%s).then(v => !!v)", expression), chromedp.EvalAwaitPromise))
		if ok && err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("wait until %s: %v; the page says:\n%s\n%s", what, err, p.Text("body"), strings.Join(p.Complaints(), "\n"))
		}
	}
}

// Text is what an element shows.
func (p *Page) Text(selector string) string {
	p.t.Helper()
	return Eval[string](p, fmt.Sprintf("document.querySelector(%q)?.innerText ?? 'nothing at %s'", selector, selector))
}

// Press sends keys to what has the focus, as kb names them.
func (p *Page) Press(keys string) { p.t.Helper(); p.do("press keys", chromedp.KeyEvent(keys)) }

// Click clicks on an element.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.do("click "+selector, chromedp.Click(selector))
}

// Picture keeps the whole page as NAME.png.
func (p *Page) Picture(name string) {
	p.t.Helper()
	dir := os.Getenv(folder)
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		p.t.Fatalf("take a picture: %v", err)
	}
}

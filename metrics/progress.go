package metrics

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Progress shows how far a piece of work has come: a bar with an estimate of the end on a terminal, elsewhere a line
// every ten seconds. It is safe for concurrent use.
type Progress struct {
	out   io.Writer
	title string
	total int64 // 0 when unknown
	bytes bool
	bar   *progressbar.ProgressBar // nil when out is no terminal

	mu    sync.Mutex
	done  int64
	start time.Time
	said  time.Time
}

// NewProgress begins a piece of work of total things; 0 when their number is not known.
func NewProgress(out io.Writer, title string, total int64) *Progress {
	return newProgress(out, title, total, false)
}

// NewByteProgress begins a piece of work of total bytes; 0 when their number is not known.
func NewByteProgress(out io.Writer, title string, total int64) *Progress {
	return newProgress(out, title, total, true)
}

// plainEvery is the time between lines where there is no terminal.
const plainEvery = 10 * time.Second

func newProgress(out io.Writer, title string, total int64, bytes bool) *Progress {
	now := time.Now()
	p := &Progress{out: out, title: title, total: max(total, 0), bytes: bytes, start: now, said: now}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = newBar(out, title, p.total, bytes)
	}
	return p
}

// newBar makes a bar over the whole width of the terminal that vanishes when it is full.
func newBar(out io.Writer, title string, total int64, bytes bool) *progressbar.ProgressBar {
	if total == 0 {
		total = -1
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(out),
		progressbar.OptionSetDescription(title),
		progressbar.OptionFullWidth(),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetRenderBlankState(true),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: "=", SaucerHead: ">", SaucerPadding: " ", BarStart: "[", BarEnd: "]"}),
	}
	if bytes {
		options = append(options, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true))
	}
	return progressbar.NewOptions64(total, options...)
}

// Add notes n more things done.
func (p *Progress) Add(n int64) {
	if p.bar != nil {
		_ = p.bar.Add64(n) // a bar that cannot be drawn must not stop the work
	}
	p.mu.Lock()
	p.done += n
	line := ""
	if now := time.Now(); p.bar == nil && now.Sub(p.said) >= plainEvery {
		p.said = now
		line = p.line(now)
	}
	p.mu.Unlock()
	if line != "" {
		fmt.Fprintln(p.out, line)
	}
}

// Finish takes the bar away and says in one line what was done and how fast.
func (p *Progress) Finish() {
	if p.bar != nil {
		_ = p.bar.Exit()
		_ = p.bar.Clear()
	}
	p.mu.Lock()
	d := time.Since(p.start)
	line := fmt.Sprintf("%s: %s in %s, %s/s", p.title, p.amount(p.done), short(d), p.speed(d))
	p.mu.Unlock()
	fmt.Fprintln(p.out, line)
}

// line is the state as one line; p.mu is held.
func (p *Progress) line(now time.Time) string {
	d := now.Sub(p.start)
	text := fmt.Sprintf("%s: %s", p.title, p.amount(p.done))
	if p.total > 0 {
		text += " of " + p.amount(p.total)
	}
	text += fmt.Sprintf(", %s/s", p.speed(d))
	if p.total > p.done && p.done > 0 {
		text += fmt.Sprintf(", %s left", duration(time.Duration(float64(d)/float64(p.done)*float64(p.total-p.done))))
	}
	return text
}

func (p *Progress) amount(n int64) string {
	if p.bytes {
		return memory(n)
	}
	return thousands(n)
}

func (p *Progress) speed(d time.Duration) string {
	perSecond := float64(p.done) / max(d.Seconds(), 1e-3)
	if p.bytes {
		return memory(int64(perSecond))
	}
	return rate(perSecond)
}

// short prints a span to a tenth of a second below a minute.
func short(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return duration(d)
}

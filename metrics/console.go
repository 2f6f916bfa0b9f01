package metrics

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
)

// Level is how much a Console says.
type Level int

// Levels.
const (
	Normal  Level = iota
	Quiet         // the summary only
	Verbose       // more columns, and stories of interest to few
)

// ConsoleConfig says where and how a Console writes.
type ConsoleConfig struct {
	Out      io.Writer
	Terminal bool  // Out understands cursor movement: show a bar below the lines
	Color    bool  // Out shows colours and the user wants them
	Width    int   // columns of Out; 0: 80
	Level    Level // zero: Normal
}

// Console is a Sink for people: one aligned line a reported step, epoch and validation, one line a story, view, fault or
// leader, a box at the end, and on a terminal a bar with the estimate of the end of the epoch or validation under way.
type Console struct {
	c        ConsoleConfig
	bar      *progressbar.ProgressBar
	barTitle string
	rows     int // rows of numbers since the last heading
	epoch    int // of the last step shown
}

// headingEvery is the number of rows after which a new epoch gets a new heading.
const headingEvery = 20

// NewConsole returns a Console; nothing is written before the first event.
func NewConsole(c ConsoleConfig) *Console {
	if c.Width <= 0 {
		c.Width = 80
	}
	return &Console{c: c, rows: headingEvery}
}

// Emit writes what the event means to people. Errors of writing are ignored: a run does not end with its terminal.
func (c *Console) Emit(e Event) {
	if c.c.Level == Quiet && e.Kind != KindSummary {
		return
	}
	switch {
	case e.Start != nil:
		c.say(startText(*e.Start))
	case e.Step != nil:
		c.row(e.Step.Epoch != c.epoch || c.rows >= 2*headingEvery, c.stepRow(e.Time, *e.Step))
		c.epoch = e.Step.Epoch
	case e.Epoch != nil:
		c.row(false, c.epochRow(*e.Epoch))
	case e.Validation != nil:
		c.row(false, c.validationRow(*e.Validation))
	case e.Story != nil:
		if !e.Story.Detail || c.c.Level == Verbose {
			c.say(c.storyText(e.Time, *e.Story))
		}
	case e.Summary != nil:
		c.endBar()
		c.say(strings.TrimRight(c.summaryBox(*e.Summary), "\n"))
	case e.Progress != nil:
		c.progress(*e.Progress)
	default:
		if text, shown := clusterStory(e, c.c.Level == Verbose); shown {
			c.say(c.storyText(e.Time, text))
		}
	}
}

// Close takes the bar away.
func (c *Console) Close() error {
	c.endBar()
	return nil
}

// say prints lines above the bar.
func (c *Console) say(text string) {
	if c.bar != nil {
		_ = c.bar.Clear()
	}
	fmt.Fprintln(c.c.Out, text)
	if c.bar != nil {
		_ = c.bar.RenderBlank()
	}
}

// row prints a row of numbers, below a heading when none is in sight.
func (c *Console) row(headingFits bool, text string) {
	if c.rows >= headingEvery && headingFits || c.rows >= 3*headingEvery {
		text = c.paint(dim, c.heading()) + "\n" + text
		c.rows = 0
	}
	c.rows++
	c.say(text)
}

func (c *Console) progress(p Progressed) {
	if !c.c.Terminal {
		return
	}
	if c.bar != nil && (c.barTitle != p.Title || c.bar.GetMax64() != p.Total) {
		c.endBar()
	}
	if p.Done >= p.Total {
		c.endBar()
		return
	}
	if c.bar == nil {
		c.bar, c.barTitle = newBar(c.c.Out, p.Title, p.Total, false), p.Title
	}
	_ = c.bar.Set64(p.Done)
}

func (c *Console) endBar() {
	if c.bar != nil {
		_ = c.bar.Exit()
		_ = c.bar.Clear()
		c.bar = nil
	}
}

// Columns of a row: epoch, step, loss, top-1, images/s, learning rate, memory, time left.
const rowFormat = "%8s %11s %8s %8s %9s %10s %9s %9s"

func (c *Console) heading() string {
	text := fmt.Sprintf(rowFormat, "epoch", "step", "loss", "top-1", "images/s", "lr", "memory", "ETA")
	if c.c.Level == Verbose {
		text += fmt.Sprintf(" %9s %6s %8s", "grad norm", "wait", "clock")
	}
	return text
}

func (c *Console) stepRow(at time.Time, s Step) string {
	text := fmt.Sprintf(rowFormat, of(s.Epoch, s.Epochs), of(s.Step, s.Steps), number(s.Loss), percent(s.Top1), rate(s.ImagesPerSecond),
		fmt.Sprintf("%.3g", s.LearningRate), memory(s.MemoryBytes), seconds(s.ETASeconds))
	if c.c.Level == Verbose {
		text += fmt.Sprintf(" %9.3g %5.1f%% %8s", float64(s.GradientNorm), 100*s.DataWait, at.Format("15:04:05"))
	}
	return text
}

func (c *Console) epochRow(e Epoch) string {
	return fmt.Sprintf("%8s %11s %8s %8s %9s   top-5 %s in %s", of(e.Epoch, e.Epochs), "train", number(e.Loss), percent(e.Top1), rate(e.ImagesPerSecond),
		percent(e.Top5), seconds(e.Seconds))
}

func (c *Console) validationRow(v Validation) string {
	text := fmt.Sprintf("%8s %11s %8s %8s %9s   top-5 %s in %s", of(v.Epoch, v.Epochs), "validate", number(v.Loss), percent(v.Top1), rate(v.ImagesPerSecond),
		percent(v.Top5), seconds(v.Seconds))
	if v.Robust != nil {
		text += fmt.Sprintf(", of %d held out:", v.Robust.Images)
		if clean := v.Robust.CleanTop1; clean != nil {
			text += fmt.Sprintf(" %s,", percent(*clean))
		}
		text += " attacked " + percent(v.Robust.Top1)
	}
	if v.Best {
		return c.paint(bold, text) + c.paint(green, "  best")
	}
	return c.paint(bold, text)
}

func startText(s Start) string {
	text := fmt.Sprintf("%s on %s", s.Directory, s.Device)
	if s.Update > 0 {
		text += fmt.Sprintf(", from update %s of %s", thousands(int64(s.Update)), thousands(int64(s.Updates)))
	}
	return text
}

func (c *Console) storyText(at time.Time, s Story) string {
	text := fmt.Sprintf("%s  %s", at.Format("15:04:05"), s.Text)
	if s.Warning {
		text = c.paint(yellow, text)
	}
	if s.Advice != "" {
		text += "\n          " + s.Advice
	}
	return text
}

// summaryBox draws what a finished run amounts to; the commands to try next stand below it, to be copied.
func (c *Console) summaryBox(s Summary) string {
	title := fmt.Sprintf(" %s, %s ", s.Title, count(s.Epochs, "epoch"))
	lines := []string{
		fmt.Sprintf("best top-1   %s in epoch %d", percent(s.BestTop1), s.BestEpoch),
		fmt.Sprintf("best top-5   %s", percent(s.BestTop5)),
		fmt.Sprintf("time         %s, %s images/s in training", seconds(s.Seconds), rate(s.ImagesPerSecond)),
	}
	if s.Goodput != nil {
		lines = append(lines, survivalText(*s.Goodput))
	}
	lines = append(lines, fmt.Sprintf("best model   %s", s.Checkpoint), fmt.Sprintf("all files    %s", s.Directory))
	if s.SHA256 != "" && c.c.Level == Verbose {
		lines = append(lines, fmt.Sprintf("sha256       %s", s.SHA256))
	}
	var b strings.Builder
	b.WriteByte('\n')
	inner := utf8.RuneCountInString(title)
	for _, line := range lines {
		inner = max(inner, utf8.RuneCountInString(line)+2)
	}
	if c.c.Terminal && inner+2 <= c.c.Width {
		fmt.Fprintf(&b, "┌%s%s┐\n", c.paint(bold, title), strings.Repeat("─", inner-utf8.RuneCountInString(title)))
		for i, line := range lines {
			text := line + strings.Repeat(" ", inner-2-utf8.RuneCountInString(line))
			if i < 2 {
				text = c.paint(bold, text)
			}
			fmt.Fprintf(&b, "│ %s │\n", text)
		}
		fmt.Fprintf(&b, "└%s┘\n", strings.Repeat("─", inner))
	} else {
		fmt.Fprintf(&b, "%s\n", strings.TrimSpace(title))
		for _, line := range lines {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	for i, command := range s.Next {
		label := "Next:"
		if i > 0 {
			label = "     "
		}
		fmt.Fprintf(&b, "%s %s\n", label, command)
	}
	return b.String()
}

// of prints "3/12".
func of(n, total int) string { return fmt.Sprintf("%d/%d", n, total) }

func number(v Value) string { return fmt.Sprintf("%.4f", float64(v)) }

// Colours, as ANSI attributes.
const (
	bold   = "1"
	dim    = "2"
	green  = "32"
	yellow = "33"
)

func (c *Console) paint(attribute, text string) string {
	if !c.c.Color {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}

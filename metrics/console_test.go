package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

var demo = flag.Bool("demo", false, "play a run on the terminal, slowly, to look at it: go test -c ./metrics && ./metrics.test -test.run Demo -demo")

// play emits a short run. wait is called between events.
func play(sink Sink, steps int, wait func()) {
	const epochs = 3
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	emit := func(e Event) {
		now = now.Add(3 * time.Second)
		e.Time = now
		sink.Emit(e)
		wait()
	}
	emit(Event{Kind: KindStart, Start: &Start{Directory: "runs/20260102-150405-scenenet", Device: "cpu, 2 threads", Update: 78, Updates: epochs * steps}})
	emit(Event{Kind: KindStory, Story: &Story{Topic: "resume", Text: "resumed at epoch 1 step 79 from runs/20260101-101010-scenenet/checkpoints/last"}})
	for epoch := 1; epoch <= epochs; epoch++ {
		for step := 1; step <= steps; step++ {
			update := (epoch-1)*steps + step
			emit(Event{Kind: KindProgress, Progress: &Progressed{Title: fmt.Sprintf("epoch %d/%d", epoch, epochs), Done: int64(step), Total: int64(steps)}})
			if step%10 == 1 || steps < 10 {
				share := float64(update) / float64(epochs*steps)
				emit(Event{Kind: KindStep, Step: &Step{Epoch: epoch, Epochs: epochs, Step: step, Steps: steps, Update: update,
					Loss: Value(4.6 - 2*share), Top1: 1 + 35*share, Top5: 5 + 60*share, ImagesPerSecond: 187.4, LearningRate: 0.2 * share,
					GradientNorm: 1.234, DataWait: 0.012, MemoryBytes: 1300 << 20, ETASeconds: 7500 * (1 - share)}})
			}
		}
		if epoch == 2 {
			emit(Event{Kind: KindStory, Story: &Story{Topic: "images", Text: "3 images could not be decoded and were left out", Advice: "mp data verify DIR names them", Warning: true}})
			emit(Event{Kind: KindStory, Story: &Story{Topic: "checkpoint", Text: "wrote checkpoints/epoch-002", Detail: true}})
		}
		emit(Event{Kind: KindEpoch, Epoch: &Epoch{Epoch: epoch, Epochs: epochs, Update: epoch * steps, Loss: 3.21, Top1: 21.5, Top5: 50.25, ImagesPerSecond: 186.1, Seconds: 107.4}})
		for batch := int64(1); batch <= 50; batch += 7 {
			emit(Event{Kind: KindProgress, Progress: &Progressed{Title: "validate", Done: batch, Total: 50}})
		}
		emit(Event{Kind: KindProgress, Progress: &Progressed{Title: "validate", Done: 50, Total: 50}})
		emit(Event{Kind: KindValidation, Validation: &Validation{Epoch: epoch, Epochs: epochs, Update: epoch * steps, Images: 5000, Loss: Value(3 - 0.1*float64(epoch)),
			Top1: 30 + float64(epoch), Top5: 60.125 + float64(epoch), ImagesPerSecond: 812, Seconds: 6.2, Best: epoch != 2}})
	}
	emit(Event{Kind: KindSummary, Summary: &Summary{Title: "scenenet, recipe best", BestTop1: 33, BestTop5: 63.12, BestEpoch: 3, Epochs: 3, Seconds: 345, ImagesPerSecond: 186.5,
		Directory: "runs/20260102-150405-scenenet", Checkpoint: "runs/20260102-150405-scenenet/checkpoints/best", SHA256: strings.Repeat("ab", 32),
		Goodput: &GoodputReport{Share: 0.978, StepSeconds: 0.3, Faults: 2, RecoverMedian: 0.61},
		Next:    []string{"mp evaluate DATA --checkpoint runs/20260102-150405-scenenet --mirror", "mp predict IMAGES --checkpoint runs/20260102-150405-scenenet"}}})
}

func TestDemo(t *testing.T) {
	if !*demo {
		t.Skip("only with -demo, for people")
	}
	width, _, err := term.GetSize(1)
	if err != nil {
		width = 80
	}
	terminal := term.IsTerminal(1)
	p := NewProgress(os.Stdout, "pack train", 20000)
	for range 100 {
		p.Add(200)
		time.Sleep(20 * time.Millisecond)
	}
	p.Finish()
	b := NewByteProgress(os.Stdout, "fetch data.tar.gz", 450<<20)
	for range 45 {
		b.Add(10 << 20)
		time.Sleep(20 * time.Millisecond)
	}
	b.Finish()
	play(NewConsole(ConsoleConfig{Out: os.Stdout, Terminal: terminal, Color: terminal, Width: width}), 78, func() { time.Sleep(25 * time.Millisecond) })
}

func TestConsoleWithoutTerminalIsPlainAlignedLines(t *testing.T) {
	var out bytes.Buffer
	play(NewConsole(ConsoleConfig{Out: &out}), 30, func() {})
	text := out.String()
	t.Log("\n" + text)
	if strings.ContainsAny(text, "\x1b\r") {
		t.Errorf("escape codes or carriage returns where there is no terminal:\n%q", text)
	}
	for _, want := range []string{"epoch", "images/s", "3/3", "21/30", "187", "top-5 61.12% in 6s  best", "1.3 GiB", "best top-1   33.00% in epoch 3", "goodput      97.8%, 2 faults survived, next step after 0.6 s\n", "Next: mp evaluate",
		"resumed at epoch 1", "3 images could not be decoded", "mp data verify", "from update 78 of 90"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(text, "wrote checkpoints/epoch-002") {
		t.Errorf("a detail is shown without verbose")
	}
	width := 0
	for line := range strings.SplitSeq(text, "\n") {
		if n := utf8.RuneCountInString(line); n > 80 && !strings.Contains(line, "runs/") {
			t.Errorf("line of %d columns: %q", n, line)
		}
		if f := strings.Fields(line); len(f) == 9 && strings.Contains(f[1], "/30") {
			if width != 0 && len(line) != width {
				t.Errorf("rows of %d and %d columns: %q", width, len(line), line)
			}
			width = len(line)
		}
	}
	if width == 0 {
		t.Errorf("found no row of a step")
	}
}

func TestConsoleOnTerminal(t *testing.T) {
	var out bytes.Buffer
	play(NewConsole(ConsoleConfig{Out: &out, Terminal: true, Width: 100}), 30, func() {})
	text := out.String()
	if strings.Contains(text, "\x1b[1m") {
		t.Errorf("colour without leave: %q", text)
	}
	for _, want := range []string{"epoch 2/3", "validate", "┌ scenenet, recipe best, 3 epochs ─", "│ best top-1   33.00% in epoch 3", "└"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	out.Reset()
	play(NewConsole(ConsoleConfig{Out: &out, Terminal: true, Width: 40, Color: true}), 3, func() {})
	if text := out.String(); !strings.Contains(text, "\x1b[32m") || strings.Contains(text, "│") {
		t.Errorf("40 columns: want colour and no box that does not fit:\n%s", text)
	}
}

func TestConsoleLevels(t *testing.T) {
	var out bytes.Buffer
	play(NewConsole(ConsoleConfig{Out: &out, Level: Quiet}), 3, func() {})
	if got := out.String(); !strings.HasPrefix(got, "\nscenenet, recipe best, 3 epochs\n") {
		t.Errorf("quiet says more than the summary:\n%s", got)
	}
	out.Reset()
	play(NewConsole(ConsoleConfig{Out: &out, Level: Verbose}), 3, func() {})
	for _, want := range []string{"grad norm", "1.23", "1.2%", "wrote checkpoints/epoch-002", "sha256"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("verbose: no %q in\n%s", want, out.String())
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{duration(0), "0s"}, {duration(59500 * time.Millisecond), "1m00s"}, {duration(61 * time.Minute), "1h01m"}, {duration(50 * time.Hour), "2d02h"},
		{duration(-time.Second), "0s"}, {seconds(math.NaN()), "?"}, {seconds(math.Inf(1)), "?"},
		{memory(0), "0 MiB"}, {memory(1023 << 20), "1023 MiB"}, {memory(3 << 29), "1.5 GiB"},
		{rate(1.234), "1.23"}, {rate(12.34), "12.3"}, {rate(123456), "123,456"}, {thousands(-1234567), "-1,234,567"},
		{number(Value(math.NaN())), "NaN"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestProgressWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, "pack train", 200)
	p.Add(50)
	if out.Len() != 0 {
		t.Errorf("a line before ten seconds: %q", out.String())
	}
	p.said, p.start = p.said.Add(-time.Minute), p.start.Add(-time.Minute)
	p.Add(50)
	if got, want := out.String(), "pack train: 100 of 200, 1.67/s, 1m00s left\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	p.Add(100)
	p.Finish()
	if got, want := out.String(), "pack train: 200 in 1m00s, 3.33/s\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	b := NewByteProgress(&out, "fetch", 0)
	b.Add(3 << 20)
	b.start = b.start.Add(-3 * time.Second)
	b.Finish()
	if got, want := out.String(), "fetch: 3 MiB in 3.0s, 1 MiB/s\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFirstRowHasAHeading(t *testing.T) {
	var out strings.Builder
	c := NewConsole(ConsoleConfig{Out: &out})
	c.Emit(Event{Kind: KindStep, Step: &Step{Epoch: 1, Epochs: 2, Step: 10, Steps: 312}})
	if first, _, _ := strings.Cut(out.String(), "\n"); !strings.Contains(first, "images/s") {
		t.Errorf("the first line is %q, want the names of the columns", first)
	}
}

func TestConsoleTellsWhatIsHeldOut(t *testing.T) {
	clean := 30.0
	for want, r := range map[string]*Robust{
		"of 500 held out: 30.00%, attacked 12.00%": {Images: 500, Top1: 12, CleanTop1: &clean},
		"of 500 held out: attacked 12.00%":         {Images: 500, Top1: 12},
	} {
		var out bytes.Buffer
		c := NewConsole(ConsoleConfig{Out: &out, Width: 100})
		c.Emit(Event{Kind: KindValidation, Validation: &Validation{Epoch: 1, Epochs: 2, Images: 100, Robust: r}})
		if err := c.Close(); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q, %v", want, out.String(), err)
		}
	}
}

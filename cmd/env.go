package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"mp/metrics"
)

// env is what every verb knows about the world outside: where output goes and how much of it is wanted. The fields
// json, quiet and verbose are final once a verb's RunE is called.
type env struct {
	stdout, stderr io.Writer
	lookup         func(name string) (string, bool) // the process environment

	json    bool // the result is one JSON object on stdout
	quiet   bool // only results and errors
	verbose bool
}

func newEnv(stdout, stderr io.Writer, lookup func(string) (string, bool)) *env {
	return &env{stdout: stdout, stderr: stderr, lookup: lookup}
}

// settle fills in the flags of c that the command line leaves out from their MP_* twins. A flag set so counts as
// changed: both stand above a job file.
func (e *env) settle(c *cobra.Command) error {
	var first error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		name := twin(f.Name)
		value, ok := e.lookup(name)
		if first != nil || f.Changed || !ok || value == "" || !hasTwin(f) {
			return
		}
		if err := c.Flags().Set(f.Name, value); err != nil {
			first = fmt.Errorf("environment variable %s=%q: %w", name, value, err)
		}
	})
	if first == nil && e.quiet && e.verbose {
		first = fmt.Errorf("--quiet and --verbose contradict each other: give one of them")
	}
	return first
}

// twinPrefix begins every environment variable that stands for a flag.
const twinPrefix = "MP_"

// twin is the environment variable that stands for a flag: batch-size is MP_BATCH_SIZE.
func twin(flag string) string {
	return twinPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// hasTwin tells options from the two flags that ask for a text instead of changing a run.
func hasTwin(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "version" }

// human is where text for people goes: standard output, or standard error when --json claims standard output, or
// nowhere with --quiet.
func (e *env) human() io.Writer {
	switch {
	case e.quiet:
		return io.Discard
	case e.json:
		return e.stderr
	}
	return e.stdout
}

// progress shows how far a piece of work of total things has come; 0 when their number is not known.
func (e *env) progress(title string, total int64) *metrics.Progress {
	return metrics.NewProgress(e.barOut(), title, total)
}

// byteProgress is progress for bytes.
func (e *env) byteProgress(title string, total int64) *metrics.Progress {
	return metrics.NewByteProgress(e.barOut(), title, total)
}

// barOut is where bars go; a terminal that cannot move its cursor is hidden behind a plain writer.
func (e *env) barOut() io.Writer {
	out := e.human()
	if e.isTerminal(out) {
		return out
	}
	return struct{ io.Writer }{out}
}

// console is the sink that shows a run to people. With --quiet only the summary is shown, unless --json prints it.
func (e *env) console() *metrics.Console {
	c := metrics.ConsoleConfig{Out: e.human(), Terminal: e.isTerminal(e.human()), Color: e.useColor(e.human()), Width: e.width(e.human())}
	switch {
	case e.quiet && !e.json:
		c.Out, c.Level = e.stdout, metrics.Quiet
	case e.verbose:
		c.Level = metrics.Verbose
	}
	return metrics.NewConsole(c)
}

// printJSON writes a result as one JSON object and a newline on standard output.
func (e *env) printJSON(result any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(result); err != nil {
		return fmt.Errorf("print result as JSON: %w", err)
	}
	return nil
}

// isTerminal says whether w is a terminal that understands cursor movement.
func (e *env) isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false
	}
	name, _ := e.lookup("TERM")
	return name != "dumb"
}

// useColor says whether text on w may be coloured: on terminals, unless NO_COLOR is set (https://no-color.org).
func (e *env) useColor(w io.Writer) bool {
	no, _ := e.lookup("NO_COLOR")
	return no == "" && e.isTerminal(w)
}

// width is the number of columns of w; 80 when w is not a terminal.
func (e *env) width(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}

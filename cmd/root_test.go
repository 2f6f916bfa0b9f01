package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/ops"
)

// callMain calls Main and returns what it printed.
func callMain(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Main(args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommandLineErrorsAreOneLineAnd64(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{args: []string{"versoin"}, want: "mp: no verb \"versoin\": did you mean \"version\"?; see `mp --help`\n"},
		{args: []string{"xyz"}, want: "mp: no verb \"xyz\"; see `mp --help`\n"},
		{args: []string{"version", "--frob"}, want: "mp version: unknown flag: --frob; see `mp version --help`\n"},
		{args: []string{"version", "3"}, want: "mp version: "},
		{args: []string{"version", "-q", "-v"}, want: "mp version: --quiet and --verbose contradict each other"},
		{args: []string{"version"}, env: map[string]string{"MP_JSON": "perhaps"}, want: "mp version: environment variable MP_JSON=\"perhaps\""},
		{args: []string{"help", "versoin"}, want: "mp help: no verb \"versoin\": did you mean \"version\"?; see `mp --help`\n"},
		{args: []string{"help", "checkpoint", "x"}, want: "mp help: no verb \"x\"; see `mp checkpoint --help`\n"},
		{args: []string{"completion", "csh"}, want: "mp completion: no shell \"csh\""},
		{args: []string{"checkpoint", "shwo"}, want: "mp checkpoint: no verb \"shwo\": did you mean \"show\"?"},
		{args: []string{"checkpoint", "show"}, want: "mp checkpoint show: want F, got 0 arguments"},
		{args: []string{"checkpoint", "show", filepath.Join(t.TempDir(), "none")}, want: "mp checkpoint show: "},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			code, stdout, stderr := callMain(c.args...)
			if code != 64 || !strings.HasPrefix(stderr, c.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
				t.Errorf("got code %d, stdout %q, stderr %q; want 64 and %q", code, stdout, stderr, c.want)
			}
		})
	}
}

func TestVersionAndEnvironmentTwin(t *testing.T) {
	code, stdout, _ := callMain("version")
	if code != 0 || !strings.HasPrefix(stdout, "mp ") {
		t.Errorf("got code %d, %q", code, stdout)
	}
	t.Setenv("MP_JSON", "1")
	code, stdout, _ = callMain("version")
	var got map[string]string
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 || got["go"] == "" {
		t.Errorf("MP_JSON=1: got code %d, %q, %v", code, stdout, err)
	}
	if _, stdout, _ = callMain("version", "--json=false"); !strings.HasPrefix(stdout, "mp ") {
		t.Errorf("flag over environment: got %q", stdout)
	}
}

func TestHelpIsGroupedAndNamesTwins(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"--help"}} {
		code, stdout, stderr := callMain(args...)
		if code != 0 || stderr != "" {
			t.Errorf("%v: got code %d, stderr %q", args, code, stderr)
		}
		for _, want := range []string{"Data and checkpoints:\n  checkpoint", "Measure and check:\n", "Help:\n", "[MP_JSON]", "source <(mp completion bash)"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%v: no %q in\n%s", args, want, stdout)
			}
		}
	}
	if _, stdout, _ := callMain("help", "checkpoint", "show"); !strings.Contains(stdout, "mp checkpoint show F") {
		t.Errorf("help of a verb below a verb: got\n%s", stdout)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, stdout, stderr := callMain("completion", shell); code != 0 || stderr != "" || !strings.Contains(stdout, "__mp") {
			t.Errorf("%s: got code %d, stderr %q, %d bytes of script", shell, code, stderr, len(stdout))
		}
	}
	for _, c := range []struct{ args, want string }{{"ch", "checkpoint\t"}, {"help ch", "checkpoint\t"}, {"completion ", "zsh"}} {
		if _, stdout, _ := callMain(append([]string{"__complete"}, strings.Split(c.args, " ")...)...); !strings.Contains(stdout, c.want) {
			t.Errorf("complete %q: got %q, want %q", c.args, stdout, c.want)
		}
	}
}

// Every verb belongs to a group, has a help text, and none of its flags hides a persistent one.
func TestEveryVerbIsPresentable(t *testing.T) {
	root, _ := newRoot(newEnv(io.Discard, io.Discard, os.LookupEnv))
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no short help", c.CommandPath())
		}
		if !c.Runnable() && !c.HasSubCommands() {
			t.Errorf("%s does nothing", c.CommandPath())
		}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", c.CommandPath(), f.Name)
			}
		})
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(root)
	for _, c := range root.Commands() {
		if c.GroupID == "" {
			t.Errorf("%s belongs to no group", c.Name())
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{context.Canceled, 1},
		{fmt.Errorf("write pack: %w", syscall.ENOSPC), 1},
		{fmt.Errorf("a: %w", job.ErrConfig), 64},
		{fmt.Errorf("a: %w", data.ErrData), 64},
		{fmt.Errorf("a: %w", checkpoint.ErrFormat), 64},
		{fmt.Errorf("a: %w", usageError{"mp", errors.New("x")}), 64},
		{fmt.Errorf("a: %w", errDrained), 85},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if got := message(context.Background(), fmt.Errorf("conv2d: %w", ops.ErrOutOfMemory)); !strings.HasSuffix(got, "; lower --batch-size") {
		t.Errorf("out of memory: %q says nothing to do", got)
	}
	if got := message(done, fmt.Errorf("train: %w", context.Canceled)); got != "interrupted" {
		t.Errorf("message after a signal: got %q", got)
	}
}

func TestOutputGoesWhereItBelongs(t *testing.T) {
	var out, errs bytes.Buffer
	e := newEnv(&out, &errs, func(string) (string, bool) { return "", false })
	fmt.Fprint(e.human(), "a")
	e.json = true
	fmt.Fprint(e.human(), "b")
	e.quiet = true
	fmt.Fprint(e.human(), "c")
	if out.String() != "a" || errs.String() != "b" {
		t.Errorf("got stdout %q, stderr %q; want a and b", out.String(), errs.String())
	}
	if e.isTerminal(&out) || e.useColor(&out) || e.width(&out) != 80 {
		t.Errorf("a buffer passes for a terminal")
	}
	if err := e.printJSON(map[string]string{"a": "<b>"}); err != nil || out.String() != "a{\"a\":\"<b>\"}\n" {
		t.Errorf("JSON: got %q, %v", out.String(), err)
	}
	p := e.progress("x", 3)
	p.Add(3)
	p.Finish()
	if strings.Contains(out.String(), "x:") {
		t.Errorf("progress in spite of --quiet: %q", out.String())
	}
}

func TestBenchRowsAsJSONAndTable(t *testing.T) {
	rows := []benchRow{{Name: "conv1", Value: 12.5, Unit: "ms", Ratio: 1.25, Peer: "library"}, {Name: "decode", Value: 20000, Unit: "images/s"}}
	var out bytes.Buffer
	e := newEnv(&out, io.Discard, os.LookupEnv)
	if err := printBench(e, rows); err != nil || !strings.Contains(out.String(), "1.25x  library") {
		t.Errorf("got %q, %v", out.String(), err)
	}
	out.Reset()
	e.json = true
	if err := printBench(e, rows); err != nil || !strings.Contains(out.String(), `{"name":"conv1","value":12.5,"unit":"ms","ratio":1.25,"peer":"library"}`) {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

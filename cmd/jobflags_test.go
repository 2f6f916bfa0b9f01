package cmd

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
)

// parseJob resolves a command line of a verb with the flags of a run, as Main would.
func parseJob(t *testing.T, env map[string]string, args ...string) (job.Spec, error) {
	t.Helper()
	e := newEnv(io.Discard, io.Discard, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	var s job.Spec
	c := &cobra.Command{Use: "x DATA", Args: cobra.MaximumNArgs(1), SilenceErrors: true, SilenceUsage: true}
	flags, err := addJobFlags(c)
	if err != nil {
		t.Fatal(err)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := e.settle(c); err != nil {
			return err
		}
		var err error
		s, err = flags.resolve(strings.Join(args, ""))
		return err
	}
	c.SetArgs(args)
	return s, c.Execute()
}

func TestFlagOverEnvironmentOverJobFileOverRecipe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(file, []byte("recipe: course\nmodel: simplenet\nbatch-size: 1\nlr: 0.3\nmomentum: 0.5\nweight-decay: 0.25\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"MP_JOB": file, "MP_BATCH_SIZE": "2", "MP_LR": "0.2", "MP_NESTEROV": "true", "MP_MODEL": ""}
	s, err := parseJob(t, env, "places", "--batch-size=4", "--init-partial", "--init", "w")
	if err != nil {
		t.Fatal(err)
	}
	if s.BatchSize != 4 || s.LR != 0.2 || s.Momentum != 0.5 || s.WeightDecay != 0.25 || !s.Nesterov || !s.InitPartial || s.Data != "places" {
		t.Errorf("got %+v", s)
	}
	if s.Recipe != "course" || s.Epochs != 60 || s.Warmup != 5 {
		t.Errorf("defaults are not the course's: %+v", s)
	}
}

func TestDevice(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{{nil, "auto"}, {[]string{"--gpu", "3"}, "3"}, {[]string{"--cpu"}, "cpu"}, {[]string{"--device", "1"}, "1"}, {[]string{"--cpu=false"}, "auto"}} {
		s, err := parseJob(t, nil, append(c.args, "d")...)
		if err != nil || s.Device != c.want {
			t.Errorf("%v: got %q, %v, want %q", c.args, s.Device, err, c.want)
		}
	}
}

func TestBadJobsAreRefused(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{args: []string{"d", "--gpu", "1", "--cpu"}, want: "--gpu 1 and --cpu contradict each other"},
		{args: []string{"d", "--gpu", "-1"}, want: `--device "-1"`},
		{args: []string{"d", "--batch-size", "many"}, want: "want a whole number"},
		{args: []string{"d", "--model", "vgg"}, want: "choose simplenet, simplevit, resnet18, scenenet"},
		{args: []string{"d"}, env: map[string]string{"MP_EPOCHS": "x"}, want: "MP_EPOCHS"},
		{args: []string{"d", "--job", "none.yaml"}, want: "no job file none.yaml"},
		{args: []string{"d", "--resume", "a", "--init", "b"}, want: "--resume goes on"},
		{args: nil, want: "no data"},
	} {
		_, err := parseJob(t, c.env, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c.args, err, c.want)
		}
	}
	if _, err := parseJob(t, nil); !errors.Is(err, job.ErrConfig) {
		t.Errorf("a run without data: got %v, want ErrConfig", err)
	}
}

func TestHelpShowsEveryOption(t *testing.T) {
	c := &cobra.Command{Use: "x"}
	if _, err := addJobFlags(c); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	writeFlags(&b, "Flags:", c.Flags(), 80)
	text := b.String()
	t.Log("\n" + text)
	for _, o := range job.Options() {
		if !o.Hidden && !strings.Contains(text, "--"+o.Name) {
			t.Errorf("no --%s in the help", o.Name)
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if len(line) > 80 {
			t.Errorf("line of %d columns: %q", len(line), line)
		}
	}
}

// The words of a job must be those of the room that acts on them.
func TestWordsOfAJobAreThoseOfItsRooms(t *testing.T) {
	for _, o := range job.Options() {
		switch o.Name {
		case "augment":
			if got := data.RecipeNames(); !slices.Equal(got, o.Words) {
				t.Errorf("augmentations: job has %q, data has %q", o.Words, got)
			}
		case "interpolation":
			for _, w := range o.Words {
				if _, err := data.NewValRecipe(144, w); err != nil {
					t.Errorf("interpolation %s: %v", w, err)
				}
			}
		}
	}
}

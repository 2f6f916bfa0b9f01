package cmd

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Words by which a flag's help says what it does when it is not given, where pflag shows no default.
const saysDefault = `\b(empty: |default: |needed\b|unless given\b)`

// Units of flags that are numbers.
const saysUnit = `(?i)\b(images?|epochs?|steps?|updates?|pixels?|shares?|part|workers?|threads?|seconds?|minutes|times?|often|classes|GPU|GiB|MB|bytes|cores?|` +
	`norm|rate|alpha|weight|pull|radii|deviation|start of|seed|masks|samples|copies|points|pictures|tries|queries|sequences|measurements?|processes|connections|goroutines|` +
	`coordinators|checkpoints|stories|sums|norms|shards|number|process's own|as many as)\b`

// Every flag of every verb says in the help what it is without being given, in which unit it counts, and its twin.
func TestEveryFlagHasDefaultUnitAndTwin(t *testing.T) {
	unit, said := regexp.MustCompile(saysUnit), regexp.MustCompile(saysDefault)
	root, _ := newRoot(newEnv(io.Discard, io.Discard, os.LookupEnv))
	flags := 0
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		var b strings.Builder
		c.SetOut(&b)
		c.SetErr(&b)
		if err := c.Usage(); err != nil {
			t.Fatal(err)
		}
		help := strings.Join(strings.Fields(b.String()), " ")
		check := func(f *pflag.Flag) {
			if !hasTwin(f) || f.Hidden {
				return
			}
			flags++
			name := c.CommandPath() + " --" + f.Name
			if !strings.Contains(help, "["+twin(f.Name)+"]") {
				t.Errorf("%s: the help does not name %s", name, twin(f.Name))
			}
			word, text := pflag.UnquoteUsage(f)
			if strings.Contains(word, " ") {
				t.Errorf("%s: its value is called %q: leave back quotes out of the help", name, word)
			}
			kind := f.Value.Type()
			if f.DefValue == "" || f.DefValue == "[]" {
				if !said.MatchString(text) {
					t.Errorf("%s: %q does not say what holds when it is not given", name, text)
				}
			} else if kind != "bool" && !strings.Contains(help, "(default ") {
				t.Errorf("%s: the help shows no default", name)
			}
			if (strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint") || strings.HasPrefix(kind, "float")) && !unit.MatchString(text) {
				t.Errorf("%s: %q does not say in what it counts", name, text)
			}
		}
		c.LocalNonPersistentFlags().VisitAll(check)
		if c == root {
			c.PersistentFlags().VisitAll(check)
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(root)
	if flags < 200 {
		t.Errorf("looked at %d flags only", flags)
	}
}

func TestZeroDefaultsAreShown(t *testing.T) {
	for _, c := range []struct{ args, want string }{{"train", "[MP_WORKERS] (default 0)"}, {"evaluate", "[MP_THREADS] (default 0)"}, {"train", "[MP_EPOCHS] (default 26)"}} {
		_, stdout, _ := callMain("help", c.args)
		if help := strings.Join(strings.Fields(stdout), " "); !strings.Contains(help, c.want) || strings.Contains(help, "(default 0) (default") {
			t.Errorf("mp help %s: want %q once in\n%s", c.args, c.want, help)
		}
	}
}

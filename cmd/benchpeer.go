package cmd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"mp/job"
)

// benchPeer is the Python whose torch is measured beside us.
type benchPeer struct {
	python string
	venv   bool
}

func (p *benchPeer) add(c *cobra.Command) {
	c.Flags().StringVar(&p.python, "python", "", "a Python with torch; empty: build/venv beside mp")
	c.Flags().BoolVar(&p.venv, "venv", false, "make build/venv first if it is missing: 30 MB from the network")
}

// find settles which Python it is: the given one or build/venv's beside this program, which it makes first if asked.
func (p *benchPeer) find(ctx context.Context, e *env) error {
	if p.python == "" {
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		root := filepath.Dir(program)
		p.python = filepath.Join(root, "build", "venv", "bin", "python")
		if p.venv {
			c := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", root, "venv")
			c.Stdout, c.Stderr = e.human(), e.stderr
			if err := c.Run(); err != nil {
				return fmt.Errorf("make a Python with torch: %w", err)
			}
		}
	}
	if !exists(p.python) {
		return fmt.Errorf("%w: no Python at %s to compare with: add --venv to make one (30 MB, needs the network), or name one that has torch with --python", job.ErrConfig, p.python)
	}
	return nil
}

// runs is a process of it that runs a script with one argument.
func (p *benchPeer) runs(ctx context.Context, script, argument string) *exec.Cmd {
	return exec.CommandContext(ctx, p.python, "-c", script, argument)
}

// addMeasure adds the hidden flag by which a benchmark measures in processes of its own.
func addMeasure(c *cobra.Command, spec *string) {
	c.Flags().StringVar(spec, "measure", "", "one measurement, as JSON: what the parent process asks of its children")
	if err := c.Flags().MarkHidden("measure"); err != nil {
		panic(err) // the flag was just declared
	}
}

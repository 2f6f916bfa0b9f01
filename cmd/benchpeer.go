package cmd

import (
	"bytes"
	"context"
	"errors"
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

// runRanks runs processes that need one another, to the end of all, and returns what they print. When one fails the others
// are ended, because they would wait for it, and the error is of the first.
func runRanks(ranks []*exec.Cmd) ([][]byte, error) {
	type ended struct {
		rank int
		err  error
	}
	ends := make(chan ended, len(ranks))
	printed, complaints := make([]bytes.Buffer, len(ranks)), make([]bytes.Buffer, len(ranks))
	running := 0
	var first error
	stop := func(rank int, err error) {
		if first != nil {
			return
		}
		first = fmt.Errorf("rank %d: %w", rank, err)
		for _, c := range ranks {
			if c.Process != nil {
				_ = c.Process.Kill() // one that has ended needs none
			}
		}
	}
	for rank, c := range ranks {
		c.Stdout, c.Stderr = &printed[rank], &complaints[rank]
		if err := c.Start(); err != nil {
			stop(rank, err)
			break
		}
		running++
		go func() { ends <- ended{rank, c.Wait()} }() // ends is read as often below
	}
	for range running {
		if e := <-ends; e.err != nil {
			var exit *exec.ExitError
			if errors.As(e.err, &exit) {
				exit.Stderr = complaints[e.rank].Bytes()
			}
			stop(e.rank, complaint(ranks[e.rank], e.err))
		}
	}
	out := make([][]byte, len(ranks))
	for rank := range printed {
		out[rank] = printed[rank].Bytes()
	}
	return out, first
}

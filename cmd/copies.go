package cmd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/checkpoint"
	"mp/checkpoint/s3"
	"mp/job"
	"mp/mppb"
)

// copiesHelp is the help of --checkpoints, wherever it is.
const copiesHelp = "where checkpoints are copied to, beside the run's directory: s3://BUCKET/PREFIX, with the AWS_* variables for server and credentials, " +
	"or a folder of another disk; empty: nowhere"

// inStore says whether --resume names a run's copies instead of a directory.
func inStore(where string) bool { return strings.Contains(where, "://") }

// openStore opens what --checkpoints names.
func openStore(e *env, where string) (checkpoint.Store, error) {
	rest, remote := strings.CutPrefix(where, "s3://")
	if !remote {
		if inStore(where) {
			return nil, fmt.Errorf("%w: checkpoints at %q: want s3://BUCKET/PREFIX or a folder", job.ErrConfig, where)
		}
		return checkpoint.NewFolder(where), nil
	}
	first := func(names ...string) string {
		for _, name := range names {
			if value, ok := e.lookup(name); ok && value != "" {
				return value
			}
		}
		return ""
	}
	c := s3.Config{
		Endpoint: first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), Region: first("AWS_REGION", "AWS_DEFAULT_REGION"),
		Key: first("AWS_ACCESS_KEY_ID"), Secret: first("AWS_SECRET_ACCESS_KEY"), Session: first("AWS_SESSION_TOKEN"),
	}
	c.Bucket, c.Prefix, _ = strings.Cut(rest, "/")
	s, err := s3.New(c)
	if err != nil {
		return nil, fmt.Errorf("checkpoints at %s: %w", where, err)
	}
	return s, nil
}

// copying is how checkpoints are copied away.
type copying struct {
	to      *checkpoint.Copies // nil: they are not
	where   string             // for people
	last    time.Duration      // how long the end of the process may wait for the last copy
	trouble func(text string)  // told when it begins to fail; nil: the log is
}

func newCopying(e *env, where string) (copying, error) {
	if where == "" {
		return copying{}, nil
	}
	s, err := openStore(e, where)
	if err != nil {
		return copying{}, err
	}
	return copying{to: checkpoint.NewCopies(s), where: where}, nil
}

// copyEvery is the time between two looks for new checkpoints.
const copyEvery = time.Second

// copyCheckpoints lets the copies follow what this node has of runs, while it leads, until ctx ends.
func (h *hub) copyCheckpoints(ctx context.Context, c hubConfig) error {
	tick := time.NewTicker(copyEvery)
	defer tick.Stop()
	settled, failing := map[string]bool{}, false
	look := func(ctx context.Context) {
		err := h.copyOnce(ctx, c, settled)
		switch {
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		case err != nil && !failing:
			text := fmt.Sprintf("checkpoints are not copied to %s; trying on: %v", c.copies.where, err)
			if c.copies.trouble != nil {
				c.copies.trouble(text)
			} else {
				c.log.Warn(text)
			}
		case err == nil && failing:
			c.log.Info("checkpoints are copied again", "to", c.copies.where)
		}
		failing = err != nil
	}
	for ctx.Err() == nil {
		look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if c.copies.last > 0 {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.copies.last)
		defer cancel()
		look(last)
	}
	return nil
}

// copyOnce copies what is new. Settled holds the jobs that have ended and are copied.
func (h *hub) copyOnce(ctx context.Context, c hubConfig, settled map[string]bool) error {
	if !h.coordinator.Leads() {
		return nil
	}
	var all []error
	for _, j := range h.coordinator.Jobs() {
		if settled[j.Id] || j.Directory == "" || !filepath.IsLocal(j.Directory) {
			continue
		}
		ended := !goesOn(j.State) // before what it says of its checkpoints is read
		_, err := c.copies.to.Follow(ctx, filepath.Join(c.coordinator.RunsDir, j.Directory), keptBy(j))
		all = append(all, err)
		settled[j.Id] = err == nil && ended
	}
	return errors.Join(all...)
}

// keptBy is how many checkpoints a job keeps.
func keptBy(j *mppb.Job) int { return max(1, newJobInfo(j).spec.KeepCheckpoints) }

// broughtBack is what `mp checkpoint fetch --json` prints.
type broughtBack struct {
	Directory  string   `json:"directory"`
	Checkpoint string   `json:"checkpoint"`
	PassedOver []string `json:"passed_over"` // copies that are not whole, and why
}

// newCheckpointFetchCommand returns `mp checkpoint fetch`.
func newCheckpointFetchCommand(e *env) *cobra.Command {
	var runs string
	c := &cobra.Command{
		Use:   "fetch COPIES/RUN [DIR]",
		Short: "Bring a run back from the copies of its checkpoints",
		Long: "fetch makes a run's directory of the copies that --checkpoints made: the newest checkpoint that is whole (every checksum is\n" +
			"compared), the best one, and the job. COPIES is what --checkpoints said. DIR must not exist; it appears whole or not at all.",
		Example: "  mp checkpoint fetch s3://bucket/prefix/20260102-030405-first\n  mp train --resume runs/20260102-030405-first",
		Args:    cobra.RangeArgs(1, 2),
	}
	c.Flags().StringVar(&runs, "runs", "runs", "folder for the directory where DIR is not given")
	c.RunE = func(c *cobra.Command, args []string) error {
		dir := ""
		if len(args) > 1 {
			dir = args[1]
		}
		f, err := bringBack(c.Context(), e, args[0], dir, runs)
		if err != nil || !e.json {
			return err
		}
		return e.printJSON(f)
	}
	return c
}

// bringBack makes a directory of a run's copies, dir or else one of the run's name below runs.
func bringBack(ctx context.Context, e *env, where, dir, runs string) (broughtBack, error) {
	at := strings.LastIndex(strings.TrimRight(where, "/"), "/")
	store, run := where[:max(at, 0)], strings.TrimRight(where[at+1:], "/")
	if run == "" || strings.HasSuffix(store, "/") {
		return broughtBack{}, fmt.Errorf("%w: copies at %q: want s3://BUCKET/PREFIX/RUN or FOLDER/RUN", job.ErrConfig, where)
	}
	if store == "" {
		store = "."
	}
	s, err := openStore(e, store)
	if err != nil {
		return broughtBack{}, err
	}
	if dir == "" {
		dir = filepath.Join(runs, run)
	}
	name, broken, err := checkpoint.NewCopies(s).Restore(ctx, run, dir)
	if err != nil {
		return broughtBack{}, err
	}
	f := broughtBack{Directory: dir, Checkpoint: name, PassedOver: []string{}}
	for _, b := range broken {
		f.PassedOver = append(f.PassedOver, b.Error())
		fmt.Fprintln(e.stderr, "passed over:", b)
	}
	fmt.Fprintf(e.human(), "%s of %s is in %s\n", name, where, dir)
	return f, nil
}

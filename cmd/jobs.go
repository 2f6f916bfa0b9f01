package cmd

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mp/mppb"
)

// newJobsCommand returns `mp jobs`: a list by itself, and the verbs that act on one job.
func newJobsCommand(e *env) *cobra.Command {
	var f clusterFlags
	c := &cobra.Command{
		Use:     "jobs",
		Short:   "The jobs of a cluster: list, look at, pause, resume, drain, cancel, fetch",
		Example: "  mp jobs --coordinator 10.0.0.1:7070\n  mp jobs show 1 --ledger\n  mp jobs fetch 1 --out runs/first",
		Args:    noSuchVerb,
		RunE: func(c *cobra.Command, _ []string) error {
			return listJobs(c.Context(), e, f)
		},
	}
	f.add(c)
	c.AddCommand(newShowCommand(e))
	for _, v := range []struct {
		verb  mppb.SteerRequest_Verb
		short string
		long  string
	}{
		{mppb.SteerRequest_PAUSE, "Let a job's workers rest; its state stays with them", "Let a job's workers rest after the step in hand; `mp jobs resume` goes on at once."},
		{mppb.SteerRequest_RESUME, "Go on with a paused or drained job", ""},
		{mppb.SteerRequest_DRAIN, "Save a job and let its workers go on with the next one", "Finish the step in hand, save, and wait for `mp jobs resume`; the next job in the queue takes the workers."},
		{mppb.SteerRequest_CANCEL, "End a job for good", "End a job for good. Its checkpoints stay."},
	} {
		c.AddCommand(newSteerCommand(e, v.verb, v.short, v.long))
	}
	c.AddCommand(newFetchCommand(e))
	return c
}

// jobID lets people leave out what every job's identity begins with.
func jobID(word string) string {
	if _, err := strconv.Atoi(word); err == nil {
		return "job-" + word
	}
	return word
}

func listJobs(ctx context.Context, e *env, f clusterFlags) error {
	var reply *mppb.JobsReply
	err := f.ask(ctx, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		reply, err = c.Jobs(ctx, &mppb.JobsRequest{})
		return err
	})
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	jobs := []jobInfo{}
	for _, j := range reply.Jobs {
		jobs = append(jobs, newJobInfo(j))
	}
	if e.json {
		return e.printJSON(map[string][]jobInfo{"jobs": jobs})
	}
	return writeJobs(e.stdout, jobs)
}

// newShowCommand returns `mp jobs show`.
func newShowCommand(e *env) *cobra.Command {
	var f clusterFlags
	var ledger bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "A job's workers, checkpoints and story, or with --ledger the proof that every epoch saw every image that it trains on once",
		Args:  exactArgs("ID"),
	}
	f.add(c)
	c.Flags().BoolVar(&ledger, "ledger", false, "per epoch: images, missing, repeated, and the hash of the multiset of their numbers")
	c.RunE = func(c *cobra.Command, args []string) error {
		d, err := showJob(c.Context(), f, jobID(args[0]))
		if err != nil {
			return err
		}
		if e.json {
			return e.printJSON(d)
		}
		return writeJobDetail(e.stdout, d, ledger)
	}
	return c
}

func showJob(ctx context.Context, f clusterFlags, id string) (jobDetail, error) {
	var reply *mppb.JobDetail
	err := f.ask(ctx, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		reply, err = c.Show(ctx, &mppb.JobName{Id: id})
		return err
	})
	if err != nil {
		return jobDetail{}, fmt.Errorf("show %s: %w", id, err)
	}
	return newJobDetail(reply), nil
}

// newSteerCommand returns a verb that changes what becomes of a job.
func newSteerCommand(e *env, verb mppb.SteerRequest_Verb, short, long string) *cobra.Command {
	var f clusterFlags
	name := strings.ToLower(verb.String())
	c := &cobra.Command{Use: name + " ID", Short: short, Long: long, Args: exactArgs("ID")}
	f.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var reply *mppb.Job
		id := jobID(args[0])
		err := f.ask(c.Context(), func(ctx context.Context, c mppb.ClusterClient) error {
			var err error
			reply, err = c.Steer(ctx, &mppb.SteerRequest{Id: id, Verb: verb})
			return err
		})
		if err != nil {
			return fmt.Errorf("%s %s: %w", name, id, err)
		}
		i := newJobInfo(reply)
		if e.json {
			return e.printJSON(i)
		}
		_, err = fmt.Fprintln(e.stdout, strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", i.ID, i.State, i.Reason), ": "))
		return err
	}
	return c
}

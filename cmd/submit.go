package cmd

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
	"mp/mppb"
)

// imagesOfTheCluster stands for DATA in the specification of a job that takes the images that the workers have.
const imagesOfTheCluster = "(the workers')"

// submitOptions is what `mp submit` is asked for beside the job itself.
type submitOptions struct {
	cluster    clusterFlags
	minWorkers int
	key        string
}

// newSubmitCommand returns `mp submit`.
func newSubmitCommand(e *env) *cobra.Command {
	var o submitOptions
	c := &cobra.Command{
		Use:   "submit [DATA]",
		Short: "Hand a training job to a cluster",
		Long: "Hand a training job to a cluster; jobs wait for each other. With DATA, the job is for workers that have the same images;\n" +
			"without, for those that the cluster's workers have. Paths given with --init and --resume must be readable by every worker.",
		Example: "  mp submit miniplaces --model scenenet --coordinator 10.0.0.1:7070\n  mp watch --coordinator 10.0.0.1:7070",
		Args:    atMostOneArg("DATA"),
	}
	flags, err := addJobFlags(c)
	if err != nil {
		panic(err) // the table of options is wrong
	}
	o.cluster.add(c)
	c.Flags().IntVar(&o.minWorkers, "min-workers", 0, "wait while there are fewer workers; 0: the coordinator's own")
	c.Flags().StringVar(&o.key, "key", "", "a word of your own: the same job handed in again with the same word is one job; empty: another job each time")
	c.RunE = func(c *cobra.Command, args []string) error {
		dir := imagesOfTheCluster
		if len(args) > 0 {
			dir = args[0]
		}
		if o.minWorkers < 0 {
			return fmt.Errorf("%w: --min-workers %d: choose 0 or more", job.ErrConfig, o.minWorkers)
		}
		spec, err := flags.resolve(dir)
		if err != nil {
			return err
		}
		said, err := flags.said()
		if err != nil {
			return err
		}
		return submit(c.Context(), e, o, completeForCluster(spec, said), len(args) > 0)
	}
	return c
}

// completeForCluster decides what a job leaves open, as `mp train` does on this machine with workers that are as it is, so that both
// end with the same bits. Said is what it does not.
func completeForCluster(s, said job.Spec) job.Spec {
	if prefersBF16(s, said, cpuPrefersBF16() || s.Device != job.DeviceCPU && machineGPUs() > 0) {
		s.Precision = job.BF16
	}
	if said.Shards == 0 {
		s.Shards = shardsFor(1, s.BatchSize)
	}
	if s.Threads == 0 {
		s.Threads = 1
		if s.Shards == 1 {
			s.Threads = cores()
		}
	}
	return s
}

func submit(ctx context.Context, e *env, o submitOptions, s job.Spec, withData bool) error {
	if err := s.Validate(); err != nil {
		return err
	}
	for _, path := range []*string{&s.Init, &s.Resume} {
		if *path == "" {
			continue
		}
		if inStore(*path) {
			return fmt.Errorf("%w: %s: workers read files: bring it to a folder that they all have, with mp checkpoint fetch, and name that", job.ErrConfig, *path)
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
		*path = absolute
	}
	if o.key == "" {
		o.key = rand.Text() // one job, however often a lost answer is asked for again
	}
	request := &mppb.SubmitRequest{MinWorkers: uint32(o.minWorkers), Key: o.key}
	if withData {
		var err error
		if request.Data, err = dataset(ctx, e, s); err != nil {
			return err
		}
	}
	var err error
	if request.Spec, err = json.Marshal(s); err != nil {
		return fmt.Errorf("write job as JSON: %w", err)
	}
	var reply *mppb.Job
	err = o.cluster.ask(ctx, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		reply, err = c.Submit(ctx, request)
		return err
	})
	if err != nil {
		return fmt.Errorf("submit job: %w", err)
	}
	i := newJobInfo(reply)
	if e.json {
		return e.printJSON(i)
	}
	fmt.Fprint(e.human(), s.Table(e.width(e.stdout)))
	_, err = fmt.Fprintf(e.stdout, "%s is %s; its run is %s\nNext: mp watch %s --coordinator %s\n", i.ID, i.State, i.Directory, i.ID, o.cluster.coordinator)
	return err
}

// dataset says by content which images a job's folder holds, if the job can be trained with them.
func dataset(ctx context.Context, e *env, s job.Spec) (*mppb.Dataset, error) {
	trainPack, err := openPack(ctx, e, s.Data, data.Train)
	if err != nil {
		return nil, err
	}
	defer trainPack.Close()
	valPack, err := openPack(ctx, e, s.Data, data.Val)
	if err != nil {
		return nil, err
	}
	defer valPack.Close()
	if _, err := heldOut(s, trainPack); err != nil {
		return nil, err
	}
	return describe(trainPack, valPack, s.Data), nil
}

func describe(trainPack, valPack *data.Pack, dir string) *mppb.Dataset {
	return &mppb.Dataset{
		TrainSha256: fmt.Sprintf("%x", trainPack.Hash()), ValSha256: fmt.Sprintf("%x", valPack.Hash()),
		TrainImages: uint32(trainPack.Len()), ValImages: uint32(valPack.Len()), Classes: uint32(len(trainPack.Classes())), Directory: dir,
	}
}

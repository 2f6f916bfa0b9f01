package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/job"
	"mp/metrics"
	"mp/metrics/nats"
	"mp/mppb"
)

// natsSinks returns what makes the sink of a worker's events of a job: NATS where the coordinator names one. Credentials is
// a file, or empty where the URL has what the server asks for.
func natsSinks(credentials string, log *slog.Logger) func(url, job string, worker uint64) (metrics.Sink, error) {
	return func(url, job string, worker uint64) (metrics.Sink, error) {
		if url == "" {
			return metrics.NewFanout(), nil
		}
		c := nats.DefaultSinkConfig(url, job, strconv.FormatUint(worker, 10))
		c.Credentials.File, c.Logger = credentials, log
		return nats.NewSink(c)
	}
}

// defaultCoordinator is where a coordinator listens, and is looked for, when nobody says otherwise.
const defaultCoordinator = "127.0.0.1:7070"

// clusterFlags are how a verb finds a cluster.
type clusterFlags struct {
	coordinator string
	token       string
	wait        time.Duration
}

func (f *clusterFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.coordinator, "coordinator", defaultCoordinator, "coordinators, HOST:PORT with commas between; one that answers is enough")
	flags.StringVar(&f.token, "token", "", "secret that the coordinators ask for; empty: none")
	flags.DurationVar(&f.wait, "wait", 10*time.Second, "how long to look for a coordinator that leads")
}

// ask makes a call to the cluster's leader, again where the leader has changed, until it answers or --wait is over.
func (f *clusterFlags) ask(ctx context.Context, call func(context.Context, mppb.ClusterClient) error) error {
	client, err := f.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	return askLeader(ctx, client, call)
}

// client returns a client of the cluster; the caller closes it.
func (f *clusterFlags) client() (*mppb.Client, error) {
	all, err := addresses(f.coordinator)
	if err != nil {
		return nil, err
	}
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: all, Token: f.token})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	return client, nil
}

// askLeader calls f until a leader answers or ctx ends.
func askLeader(ctx context.Context, client *mppb.Client, f func(context.Context, mppb.ClusterClient) error) error {
	err := client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return f(ctx, mppb.NewClusterClient(conn))
	})
	return clusterError(err)
}

// errCluster is in the chain of every error by which a cluster says that what was asked cannot be: asking again does not
// help.
var errCluster = errors.New("refused by the cluster")

// clusterError turns what gRPC makes of a coordinator's answer back into a sentence.
func clusterError(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch s.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Unauthenticated, codes.PermissionDenied, codes.OutOfRange:
		return fmt.Errorf("%w: %s", errCluster, s.Message())
	}
	return errors.New(s.Message())
}

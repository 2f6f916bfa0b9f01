package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/job"
	"mp/metrics"
	"mp/metrics/nats"
	"mp/mppb"
	"mp/trust"
)

// ownNATS begins the URL of a coordinator's NATS server that knows its clients by the cluster's certificates, instead of tls://,
// with which a server of others begins.
const ownNATS = "mp+tls://"

// natsAccess is how NATS is reached.
type natsAccess struct {
	file  string          // credentials; empty: the URL has what the server asks for
	trust *trust.Identity // for a coordinator's own server; nil: plain TCP
}

// sink makes the sink of somebody's events of a job, at the URL that coordinators tell their workers.
func (a natsAccess) sink(url, job, worker string, log *slog.Logger) (metrics.Sink, error) {
	c := nats.DefaultSinkConfig(url, job, worker)
	c.Credentials.File, c.Logger = a.file, log
	var err error
	if c.URL, c.TLS, err = a.server(url); err != nil {
		return nil, err
	}
	return nats.NewSink(c)
}

// server is a URL as NATS knows it, with the configuration for certificates of the cluster's own.
func (a natsAccess) server(url string) (string, *tls.Config, error) {
	rest, ours := strings.CutPrefix(url, ownNATS)
	switch {
	case !ours:
		return url, nil, nil
	case a.trust == nil:
		return "", nil, errors.New("the coordinators' NATS server wants a certificate, and this process speaks no TLS")
	}
	return "tls://" + rest, a.trust.Dialing(trust.Coordinator), nil
}

// natsSinks returns what makes the sink of a worker's events of a job: NATS where the coordinator names one.
func natsSinks(a natsAccess, log *slog.Logger) func(url, job string, worker uint64) (metrics.Sink, error) {
	return func(url, job string, worker uint64) (metrics.Sink, error) {
		if url == "" {
			return metrics.NewFanout(), nil
		}
		return a.sink(url, job, strconv.FormatUint(worker, 10), log)
	}
}

// defaultCoordinator is where a coordinator listens, and is looked for, when nobody says otherwise.
const defaultCoordinator = "127.0.0.1:7070"

// clusterFlags are how a verb finds a cluster.
type clusterFlags struct {
	coordinator string
	trust       trustFlags
	wait        time.Duration
}

func (f *clusterFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.coordinator, "coordinator", defaultCoordinator, "coordinators, HOST:PORT with commas between; one that answers is enough")
	f.trust.add(flags, tokenHelp)
	flags.DurationVar(&f.wait, "wait", 10*time.Second, "how long to look for a coordinator that leads")
}

// ask makes a call to the cluster's leader, again where the leader has changed, until it answers or --wait is over.
func (f *clusterFlags) ask(ctx context.Context, call func(context.Context, mppb.ClusterClient) error) error {
	client, err := f.client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	return askLeader(ctx, client, call)
}

// client returns a client of the cluster; the caller closes it.
func (f *clusterFlags) client(ctx context.Context) (*mppb.Client, error) {
	return f.clientAs(ctx, trust.Client, trust.Viewer)
}

// clientAs returns a client in one of the roles that would do; the caller closes it.
func (f *clusterFlags) clientAs(ctx context.Context, roles ...trust.Role) (*mppb.Client, error) {
	who, err := f.identity(ctx, roles...)
	if err != nil {
		return nil, err
	}
	return f.clientOf(who)
}

// identity is who this process is for the cluster, in one of the roles that would do; nil where that speaks no TLS.
func (f *clusterFlags) identity(ctx context.Context, roles ...trust.Role) (*trust.Identity, error) {
	all, err := addresses(f.coordinator)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	return f.trust.identity(ctx, hostName(), all, nil, nil, roles...)
}

// clientOf returns a client for an identity that is known; the caller closes it.
func (f *clusterFlags) clientOf(who *trust.Identity) (*mppb.Client, error) {
	all, err := addresses(f.coordinator)
	if err != nil {
		return nil, err
	}
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: all, Token: f.trust.secret(who), Dial: towards(who, trust.Coordinator)})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	return client, nil
}

// towards is how others of a role are reached; nil: by plain TCP.
func towards(who *trust.Identity, role trust.Role) func(context.Context, string) (net.Conn, error) {
	if who == nil {
		return nil
	}
	return who.Over(trust.DialTCP, role)
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

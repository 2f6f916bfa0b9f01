package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/coordinator"
	"mp/job"
	"mp/mppb"
)

// coordinatorOptions is what `mp coordinator` is asked for.
type coordinatorOptions struct {
	config    coordinator.Config
	dataDir   string
	peers     string
	nats      string
	natsCreds string
	natsPort  string
	monitor   string
	copies    string
	trust     trustFlags
	web       webFlags
	page      webOptions // what web says
}

// newCoordinatorCommand returns `mp coordinator`.
func newCoordinatorCommand(e *env) *cobra.Command {
	o := coordinatorOptions{config: coordinator.DefaultConfig()}
	c := &cobra.Command{
		Use:   "coordinator",
		Short: "Say who computes what in a cluster, and keep what must not be lost",
		Long: "Lead a cluster, alone or as one of three or five. Workers join with `mp worker`, jobs come with `mp submit`. Of three\n" +
			"coordinators one may die and of five two; workers go on computing meanwhile. SIGTERM hands the lead over.",
		Example: "  mp coordinator\n  mp coordinator --id a --listen 10.0.0.1:7070 --peers a=10.0.0.1:7070,b=10.0.0.2:7070,c=10.0.0.3:7070",
		Args:    cobra.NoArgs,
	}
	f, d := c.Flags(), o.config
	f.SortFlags = false
	f.StringVar(&o.config.ID, "id", "", "this node's name in the cluster; with --peers one of theirs; empty: "+d.ID+", or the one of --peers that has --listen's address")
	f.StringVar(&o.config.Listen, "listen", d.Listen, "HOST:PORT for workers, clients and other coordinators")
	f.StringVar(&o.config.Advertise, "advertise", "", "HOST:PORT under which others reach --listen, where that is another one; empty: --listen")
	f.StringVar(&o.peers, "peers", "", "all coordinators, this one included: ID=HOST:PORT with commas between; empty: this one alone")
	f.StringVar(&o.dataDir, "data-dir", d.DataDir, "folder of the raft log and of NATS; what it holds survives every restart")
	f.StringVar(&o.config.RunsDir, "runs", d.RunsDir, "folder for the directories of runs")
	f.StringVar(&o.copies, "checkpoints", "", copiesHelp)
	f.StringVar(&o.nats, "nats", natsEmbedded, "where metrics go: embedded, none, or the URL of a NATS server")
	f.StringVar(&o.natsCreds, "nats-creds", "", "credentials file for a NATS server given by URL; empty: the URL has what it asks for")
	f.StringVar(&o.natsPort, "nats-listen", "", "HOST:PORT of the embedded NATS server; empty: a free port, the same at every start if it can be")
	o.web.add(c)
	f.IntVar(&o.config.MinWorkers, "min-workers", d.MinWorkers, "workers below which a job waits")
	f.DurationVar(&o.config.FailAfter, "fail-after", d.FailAfter, "how long silence may last before somebody counts as gone; all other time-outs follow from it, see mp doctor")
	f.BoolVar(&o.config.Dismiss, "dismiss", false, "let the workers go, with code 0, once every job has ended; otherwise they wait for the next one")
	f.StringVar(&o.monitor, "monitor", "", monitorHelp)
	o.trust.add(f, "the cluster's secret, the same on every coordinator; workers and clients have it or a join token; empty: none on this machine alone, and beyond it "+
		"one is drawn and kept in --data-dir")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.complete(); err != nil {
			return err
		}
		return runCoordinator(c.Context(), e, o)
	}
	c.AddCommand(newBackupCommand(e), newRestoreCommand(e))
	return c
}

// complete reads --peers and finds out which of them this node is.
func (o *coordinatorOptions) complete() error {
	peers, err := parsePeers(o.peers)
	if err != nil {
		return err
	}
	o.config.Peers, o.config.DataDir = peers, filepath.Join(o.dataDir, raftFolder)
	if o.config.ID != "" {
		return nil
	}
	if len(peers) == 0 {
		o.config.ID = coordinator.DefaultConfig().ID
		return nil
	}
	for _, p := range peers {
		if p.Address == o.config.Listen || p.Address == o.config.Advertise {
			o.config.ID = p.ID
			return nil
		}
	}
	return fmt.Errorf("%w: none of --peers has the address %s: give --id", job.ErrConfig, o.config.Listen)
}

// parsePeers reads ID=HOST:PORT with commas between.
func parsePeers(list string) ([]coordinator.Peer, error) {
	if list == "" {
		return nil, nil
	}
	var peers []coordinator.Peer
	for word := range strings.SplitSeq(list, ",") {
		id, address, ok := strings.Cut(strings.TrimSpace(word), "=")
		if _, _, err := net.SplitHostPort(address); !ok || id == "" || err != nil {
			return nil, fmt.Errorf("%w: --peers %q: want ID=HOST:PORT, with commas between several", job.ErrConfig, word)
		}
		peers = append(peers, coordinator.Peer{ID: id, Address: address})
	}
	return peers, nil
}

// serving is what `mp coordinator --json` prints once it listens.
type serving struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	NATS    string `json:"nats"` // without its secret; empty: none
	Web     string `json:"web"`  // the page; empty: none
}

// runCoordinator serves until ctx ends.
func runCoordinator(ctx context.Context, e *env, o coordinatorOptions) error {
	page, err := o.web.options(o.trust.shared())
	if err != nil {
		return err
	}
	o.page, o.config.Version = page, version()
	log := e.logger(slog.LevelWarn) // the story says what is of interest
	return withMonitor(ctx, monitorOptions{o.monitor, o.trust.tls == tlsOff}, log, func(ctx context.Context, m *monitor) error {
		return coordinate(ctx, e, o, m, log)
	})
}

// coordinate is runCoordinator beside what a supervisor asks.
func coordinate(ctx context.Context, e *env, o coordinatorOptions, m *monitor, log *slog.Logger) error {
	if err := o.config.Validate(); err != nil { // before others are asked for the secret
		return err
	}
	copies, err := newCopying(e, o.copies)
	if err != nil {
		return err
	}
	base, err := layFoundation(ctx, &o, log)
	if err != nil {
		return err
	}
	if o.page, err = o.page.secured(base.authority, o.config.Trust, o.config.Advertised()); err != nil {
		return err
	}
	m.identify(o.config.Trust)
	return withHub(ctx, hubConfig{
		coordinator: o.config, nats: o.nats, natsFile: o.natsCreds, natsDir: filepath.Join(o.dataDir, natsFolder), natsListen: o.natsPort, log: log, archive: true,
		web: o.page, copies: copies,
		story: func(event *mppb.Event) {
			if event.Topic == "leave" && event.Job != "" {
				return // the view that follows from it says it again, and what became of the work
			}
			fmt.Fprintln(e.human(), eventLine(newEventInfo(event)))
		},
	}, func(ctx context.Context, h *hub) error {
		m.show(h.coordinator.Alive, h.numbers.Handler())
		m.watch(h.coordinator.Ready)
		if e.json {
			if err := e.printJSON(serving{o.config.ID, h.coordinator.Address(), withoutUser(h.natsURL), h.page}); err != nil {
				return err
			}
		} else {
			fmt.Fprintf(e.human(), "%s  %s listens on %s; runs go to %s\n", time.Now().Format(time.TimeOnly), o.config.ID, h.coordinator.Address(), o.config.RunsDir)
			for _, line := range base.invitation(o.config, h.coordinator.Address()) {
				fmt.Fprintf(e.human(), "%10s%s\n", "", line)
			}
			if h.page != "" {
				fmt.Fprintf(e.human(), "%10sweb page: %s%s\n", "", h.page, o.page.known())
			}
		}
		<-ctx.Done()
		return nil
	})
}

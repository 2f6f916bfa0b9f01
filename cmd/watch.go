package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"mp/job"
	"mp/metrics"
	"mp/mppb"
	"mp/trust"
)

// watchOptions is what `mp watch` is asked for.
type watchOptions struct {
	cluster   clusterFlags
	natsCreds string
	history   int
}

// newWatchCommand returns `mp watch`.
func newWatchCommand(e *env) *cobra.Command {
	var o watchOptions
	c := &cobra.Command{
		Use:   "watch [ID]",
		Short: "Look on while a cluster trains, from any machine",
		Long: "Show what the terminal of a job shows: shortly what has happened, then every line as it comes, until the job ends. Without ID\n" +
			"it is the job that runs. Ctrl-C ends the looking on and nothing else. A coordinator that is restarted, or another that takes\n" +
			"the lead, is waited for. With --json every event is a line. The exit code is 0 when the job is done, 1 when it failed.",
		Example: "  mp watch --coordinator 10.0.0.1:7070\n  mp watch 3 --coordinator 10.0.0.1:7070,10.0.0.2:7070 --json",
		Args:    atMostOneArg("ID"),
	}
	o.cluster.add(c)
	c.Flags().IntVar(&o.history, "history", 5, "reported steps, validations and stories shown of what has happened, newest of each; 0: none")
	c.Flags().StringVar(&o.natsCreds, "nats-creds", "", "credentials file for a NATS server that the coordinators were given by URL; empty: the URL has what it asks for")
	c.RunE = func(c *cobra.Command, args []string) error {
		id := ""
		if len(args) > 0 {
			id = jobID(args[0])
		}
		if o.history < 0 {
			return fmt.Errorf("%w: --history %d: choose 0 or more", job.ErrConfig, o.history)
		}
		return watch(c.Context(), e, o, id)
	}
	return c
}

// watcher looks on at one job.
type watcher struct {
	env    *env
	o      watchOptions
	at     mppb.ClientConfig
	client *mppb.Client
	nats   natsAccess
	log    *slog.Logger
	id     string

	events chan heard    // everything, in no order between sources
	caught chan struct{} // a follower of NATS has handed on what was stored
	news   chan struct{} // the job may have changed its state
	out    metrics.Sink

	read    map[int64]uint64 // newest event taken of each stream of NATS
	crews   map[uint64][]metrics.ViewMember
	account metrics.Account // of faults
	speed   audience        // of training
}

// heard is an event as a source hands it on.
type heard struct {
	metrics.Event
	old bool // it was stored before the source was found
}

// watch shows the job until it ends, or ctx does.
func watch(ctx context.Context, e *env, o watchOptions, id string) error {
	all, err := addresses(o.cluster.coordinator)
	if err != nil {
		return err
	}
	w := &watcher{env: e, o: o, id: id, log: e.logger(slog.LevelInfo), events: make(chan heard, 256), caught: make(chan struct{}, 16), news: make(chan struct{}, 1),
		read: map[int64]uint64{}, crews: map[uint64][]metrics.ViewMember{}, speed: audience{Sink: metrics.Tee(nil)}}
	who, err := o.cluster.identity(ctx, trust.Client, trust.Viewer)
	if err != nil {
		return err
	}
	defer renewed(who, w.log)()
	w.nats = natsAccess{o.natsCreds, who}
	w.at = mppb.ClientConfig{Addresses: all, Token: o.cluster.trust.secret(who), Dial: towards(who, trust.Coordinator)}
	if w.client, err = mppb.NewClient(w.at); err != nil {
		return fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	defer w.client.Close()
	begin, err := w.begin(ctx)
	if err != nil {
		return err
	}
	if e.json {
		w.out = &lineSink{e}
	} else {
		c := e.console()
		defer c.Close()
		w.out = c
	}
	last, err := w.look(ctx, begin)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintf(e.human(), "%s goes on; look again with: mp watch %s --coordinator %s\n", w.id, w.id, o.cluster.coordinator)
		return nil
	case err != nil:
		return err
	case last.State != mppb.Job_DONE:
		return fmt.Errorf("%s is %s: %s", w.id, strings.ToLower(last.State.String()), last.Reason)
	}
	w.out.Emit(w.summary(last))
	return nil
}

// begin finds the job, within --wait.
func (w *watcher) begin(ctx context.Context) (*mppb.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, w.o.cluster.wait)
	defer cancel()
	if w.id != "" {
		d, err := showOnce(ctx, w.client, w.id)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", w.id, err)
		}
		return d.Job, nil
	}
	var reply *mppb.JobsReply
	err := askLeader(ctx, w.client, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		reply, err = c.Jobs(ctx, &mppb.JobsRequest{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	j := pickJob(reply.Jobs)
	if j == nil {
		return nil, fmt.Errorf("%w: no job runs or waits; `mp jobs` lists them, `mp submit` hands one in", errCluster)
	}
	w.id = j.Id
	return j, nil
}

// pickJob is the job that runs or, if none does, the one that has waited longest; nil when all have ended.
func pickJob(jobs []*mppb.Job) *mppb.Job {
	var first *mppb.Job
	for _, j := range jobs {
		switch {
		case !goesOn(j.State):
		case j.State == mppb.Job_RUNNING:
			return j
		case first == nil:
			first = j
		}
	}
	return first
}

// Times of looking on.
const (
	historyWithin = 5 * time.Second // what has happened is shown by then, as far as it is known
	lookAgain     = time.Second     // between two questions how the job is
	quietFor      = 2 * time.Second // without events, after the end of a job, before nothing more is expected
	quietWithin   = 15 * time.Second
)

// look shows what has happened and then what comes, and returns the job as it ended.
func (w *watcher) look(ctx context.Context, begin *mppb.Job) (*mppb.Job, error) {
	told, next, err := w.past(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", w.id, err)
	}
	var sources sync.WaitGroup
	defer sources.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	followed := make(chan int, 1)
	jobs := make(chan *mppb.Job)
	sources.Go(func() { w.follow(ctx, followed) })
	sources.Go(func() { cancel(w.listen(ctx, next)) })
	sources.Go(func() { w.ask(ctx, jobs, cancel) })

	stored, err := w.stored(ctx, followed)
	if err != nil {
		return nil, err
	}
	w.recall(append(told, stored...))
	last := begin
	var quiet *time.Timer
	var still, late <-chan time.Time // set when the job has ended: nothing more comes, or no more is waited for
	for {
		if late == nil && !goesOn(last.State) {
			quiet, late = time.NewTimer(quietFor), time.After(quietWithin)
			still = quiet.C
			defer quiet.Stop()
		}
		select {
		case e := <-w.events:
			if w.note(e.Event) && !e.old {
				w.out.Emit(e.Event)
			}
			if quiet != nil && e.Kind != metrics.KindProgress {
				quiet.Reset(quietFor)
			}
		case last = <-jobs:
		case <-still:
			return last, nil
		case <-late:
			return last, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// ask asks how the job is, again and again. A coordinator that does not answer is no reason to stop; one that does not know
// the job is.
func (w *watcher) ask(ctx context.Context, to chan<- *mppb.Job, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.news: // the coordinator of mp train ends soon after its job
		case <-ctx.Done():
			return
		}
		d, err := showOnce(ctx, w.client, w.id)
		if errors.Is(err, errCluster) {
			cancel(fmt.Errorf("watch %s: %w", w.id, err))
			return
		}
		if err != nil {
			continue
		}
		select {
		case to <- d.Job:
		case <-ctx.Done():
			return
		}
	}
}

// stored takes what the followers of NATS hand on of the past, until all of them have or it lasts too long.
func (w *watcher) stored(ctx context.Context, followed <-chan int) ([]metrics.Event, error) {
	limit := time.NewTimer(historyWithin)
	defer limit.Stop()
	var past []metrics.Event
	open, known := 0, false
	for !known || open > 0 {
		select {
		case n := <-followed:
			open, known = open+n, true
		case e := <-w.events:
			past = append(past, e.Event)
		case <-w.caught:
			open--
		case <-limit.C:
			return past, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	for { // what was handed on before the last word
		select {
		case e := <-w.events:
			past = append(past, e.Event)
		default:
			return past, nil
		}
	}
}

// note keeps account of an event and says whether it is to be shown: what the coordinators tell comes from themselves, and
// again through NATS, which knows who was in a view.
func (w *watcher) note(e metrics.Event) bool {
	if e.Origin == nil {
		return true
	}
	if e.Origin.Sequence <= w.read[e.Origin.Stream.UnixNano()] { // the same stream, found at another address
		return false
	}
	w.read[e.Origin.Stream.UnixNano()] = e.Origin.Sequence
	if e.Origin.Worker != storyWorker {
		w.account.Hear(e)
		w.speed.Emit(e)
		return true
	}
	if e.View != nil {
		w.crews[e.View.Number] = e.View.Members
		w.account.Hear(e)
	}
	return false
}

// summary is what the job amounts to.
func (w *watcher) summary(j *mppb.Job) metrics.Event {
	i := newJobInfo(j)
	s := &metrics.Summary{
		Title: i.spec.Model, Epochs: i.spec.Epochs, ImagesPerSecond: w.speed.rate(), Directory: j.Directory + " at the coordinators",
		Next: []string{fmt.Sprintf("mp jobs fetch %s --coordinator %s", j.Id, w.o.cluster.coordinator), fmt.Sprintf("mp jobs show %s --ledger --coordinator %s", j.Id, w.o.cluster.coordinator)},
	}
	if j.Started != 0 && j.Ended != 0 {
		s.Seconds = time.Duration(j.Ended - j.Started).Seconds()
	}
	if o := j.Outcome; o != nil {
		s.BestTop1, s.BestTop5, s.BestEpoch, s.Epochs, s.Checkpoint, s.SHA256 = o.BestTop1, o.BestTop5, int(o.BestEpoch), int(o.Epochs), o.Checkpoint, o.Sha256
	}
	if g := w.account.Report(); g.CommittedSteps > 0 || g.Faults > 0 {
		s.Goodput = &g
	}
	return metrics.Event{Time: time.Now(), Kind: metrics.KindSummary, Summary: s}
}

// lineSink prints every event as a line of JSON.
type lineSink struct{ env *env }

// Emit prints e. An output that is gone does not end the looking on: the next signal does.
func (l *lineSink) Emit(e metrics.Event) {
	if e.Kind == metrics.KindProgress {
		return
	}
	text, err := json.Marshal(e)
	if err != nil {
		return
	}
	fmt.Fprintf(l.env.stdout, "%s\n", text)
}

package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"mp/data"
	"mp/job"
	"mp/mppb"
	"mp/trust"
)

// theatre is where drills are run: images, the undisturbed runs to compare with, and a folder.
type theatre struct {
	drillOptions
	env     *env
	program string
	dir     string
	secret  string                     // of clusters that speak TLS; empty: they do not
	calm    map[job.Spec]*mppb.Outcome // by specification: what an undisturbed run ends with
	epoch   map[string]time.Duration   // by model, of one epoch by one worker
}

// newTheatre prepares images and a folder. leave removes the folder unless something there may be of use.
func newTheatre(ctx context.Context, e *env, o drillOptions) (t *theatre, leave func(keep bool), err error) {
	t = &theatre{drillOptions: o, env: e, calm: map[job.Spec]*mppb.Outcome{}, epoch: map[string]time.Duration{}}
	if o.tls == tlsOn {
		t.secret = trust.NewSecret()
	}
	if t.program, err = os.Executable(); err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	leave = func(bool) {}
	if t.dir = o.keep; t.dir == "" {
		if t.dir, err = os.MkdirTemp("", "mp-drill-"); err != nil {
			return nil, nil, fmt.Errorf("make a folder for the drill: %w", err)
		}
		leave = func(keep bool) {
			if keep {
				fmt.Fprintf(e.human(), "logs and runs are in %s\n", t.dir)
				return
			}
			_ = os.RemoveAll(t.dir)
		}
	} else if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make a folder for the drill: %w", err)
	}
	if t.data == "" {
		t.data = filepath.Join(t.dir, "images")
		if !exists(t.data) {
			err = data.Synth(ctx, data.SynthConfig{Dir: t.data, Classes: 8, Train: 320, Val: 64, Seed: 1})
		}
	}
	if err == nil {
		_, err = dataset(ctx, e, job.Spec{Data: t.data}) // packs are made once, before workers race for it
	}
	if err != nil {
		leave(false)
		return nil, nil, err
	}
	return t, leave, nil
}

// spec is a job of short steps that lasts about as long as is wanted, with everything in it that could tell one run from
// another: batch norm, averages, augmentation.
func (t *theatre) spec(ctx context.Context, model string, lasts time.Duration) (job.Spec, error) {
	const calibration, least = 2, 8 // epochs, the latter on a machine that is very busy
	if t.epoch[model] == 0 {
		s, err := t.specOf(model, calibration)
		if err != nil {
			return s, err
		}
		if _, err := t.undisturbed(ctx, s); err != nil {
			return s, err
		}
	}
	// Several workers are faster than the one that was measured, by as many as there are cores at most.
	faster := min(cores(), 3)
	return t.specOf(model, max(least, int(lasts*time.Duration(faster)/t.epoch[model])+1))
}

func (t *theatre) specOf(model string, epochs int) (job.Spec, error) {
	s, err := job.Default(job.Spec{Model: model, Epochs: epochs})
	if err != nil {
		return s, err
	}
	s.Data, s.Device, s.BatchSize, s.Shards, s.Threads, s.PrintFreq, s.CheckpointEvery = imagesOfTheCluster, job.DeviceCPU, 16, fewShards, 1, 5, 10
	if s.Model != job.ModelSimpleViT {
		s.ImageSize = "32"
	}
	return s, s.Validate()
}

// undisturbed is what a run of the specification by one worker ends with.
func (t *theatre) undisturbed(ctx context.Context, s job.Spec) (*mppb.Outcome, error) {
	key := s
	key.CheckpointEvery = 0
	if o := t.calm[key]; o != nil {
		return o, nil
	}
	fmt.Fprintf(t.env.human(), "an undisturbed run of %d epochs of %s by one worker, to compare with\n", s.Epochs, s.Model)
	dir, err := os.MkdirTemp(t.dir, "undisturbed-")
	if err != nil {
		return nil, err
	}
	f, err := newFleet(ctx, fleetConfig{program: t.program, dir: dir, data: t.data, coordinators: 1, failAfter: t.failAfter, nats: natsNone})
	if err != nil {
		return nil, err
	}
	defer f.close()
	if _, err := f.startWorker(1); err != nil {
		return nil, err
	}
	if err := f.submit(ctx, s); err != nil {
		return nil, err
	}
	if err := f.untilUpdate(ctx, 1); err != nil {
		return nil, f.errLines(fmt.Errorf("undisturbed run: %w", err))
	}
	began := time.Now()
	j, err := f.untilEnd(ctx, time.Hour)
	if err != nil {
		return nil, f.errLines(fmt.Errorf("undisturbed run: %w", err))
	}
	if t.epoch[s.Model] == 0 {
		t.epoch[s.Model] = time.Since(began) / time.Duration(s.Epochs)
	}
	t.calm[key] = j.Outcome
	return j.Outcome, nil
}

// rehearsal is one drill under way.
type rehearsal struct {
	*fleet
	server  *natsProcess // nil: the drill needs none
	spec    job.Spec
	random  *rand.Rand
	out     io.Writer
	verdict drilled
}

// check notes something that must hold.
func (r *rehearsal) check(held bool, what, got, want string) {
	r.verdict.Checks = append(r.verdict.Checks, drillCheck{what, got, want, held})
}

// measured notes how soon a fault was noticed and how soon the next step followed, where that is more than before.
func (r *rehearsal) measured(noticed, next time.Duration) {
	r.verdict.Detect, r.verdict.Recover = max(r.verdict.Detect, noticed.Seconds()), max(r.verdict.Recover, next.Seconds())
}

// within notes a time that must not be longer than a limit. 0 stands for never.
func (r *rehearsal) within(what string, got, limit time.Duration) {
	text := span(got)
	if got <= 0 {
		text = "never"
	}
	r.check(got > 0 && got <= limit, what, text, "at most "+span(limit))
}

// drillWithin bounds a drill: one that has come to a standstill says so, and the next one follows.
const drillWithin = 15 * time.Minute

// rehearse runs one drill.
func (t *theatre) rehearse(ctx context.Context, d drill) drilled {
	ctx, cancel := context.WithTimeout(ctx, drillWithin)
	defer cancel()
	began := time.Now()
	v := drilled{}
	r, err := t.stage(ctx, d)
	if r != nil {
		v = r.verdict
	}
	v.Drill, v.Number, v.Seconds, v.Held = d.name, d.number, time.Since(began).Seconds(), err == nil
	for _, c := range v.Checks {
		v.Held = v.Held && c.Held
	}
	switch {
	case errors.Is(err, errNoHosts), errors.Is(err, errNoDisk), errors.Is(err, errNoClock):
		v.NotRun = err.Error()
	case err != nil:
		v.Error = err.Error()
	}
	if v.Checks == nil {
		v.Checks = []drillCheck{}
	}
	return v
}

// possible says why this process cannot make the hosts and disks of a drill, before anything is trained for it.
func (d drill) possible(dir string) error {
	if d.hosts {
		h, err := newHosts(0)
		if err != nil {
			return err
		}
		h.close()
	}
	if d.small == "" {
		return nil
	}
	var probe fleet
	defer probe.unmount()
	return probe.smallDisk(filepath.Join(dir, "probe"))
}

func (t *theatre) stage(ctx context.Context, d drill) (*rehearsal, error) {
	dir, err := os.MkdirTemp(t.dir, d.name+"-")
	if err != nil {
		return nil, err
	}
	if err := d.possible(dir); err != nil {
		return nil, err
	}
	c := fleetConfig{program: t.program, dir: dir, data: t.data, coordinators: max(d.coordinators, 1), minWorkers: d.minWorkers, failAfter: t.failAfter,
		nats: natsNone, hosts: d.hosts, secret: t.secret, small: d.small, seed: t.seed}
	if d.failAfter > 0 {
		c.failAfter = d.failAfter
	}
	if d.model == "" {
		d.model = t.model
	}
	s, err := t.spec(ctx, d.model, d.job())
	if err != nil {
		return nil, err
	}
	if d.spec != nil {
		d.spec(&s)
	}
	calm, err := t.undisturbed(ctx, s)
	if err != nil {
		return nil, err
	}
	var server *natsProcess
	if d.nats {
		if server, err = startNATSProcess(ctx, c); err != nil {
			return nil, err
		}
		defer server.kill()
		c.nats = server.url
	}
	f, err := newFleet(ctx, c)
	if err != nil {
		return nil, err
	}
	defer f.close()
	r := &rehearsal{fleet: f, server: server, spec: s, random: rand.New(rand.NewPCG(t.seed, uint64(d.number))), out: t.env.human()}
	if err := d.run(ctx, r); err != nil {
		return r, f.errLines(err)
	}
	j, err := f.untilEnd(ctx, 5*time.Minute)
	if err != nil {
		return r, f.errLines(err)
	}
	return r, r.verify(ctx, j, calm)
}

// verify checks what must hold after every drill: no sample lost or repeated, and the bits of the undisturbed run.
func (r *rehearsal) verify(ctx context.Context, j *mppb.Job, calm *mppb.Outcome) error {
	if err := r.until(ctx, 10*time.Second, "the ledger of the last epoch", func() bool { return r.ledgerOf(int(j.Outcome.GetEpochs())) != nil }); err != nil {
		return err
	}
	v, unproven := &r.verdict, 0
	for _, l := range r.ledgerOf(0) {
		i := newLedgerInfo(l)
		v.Lost, v.Repeated = v.Lost+i.Missing, v.Repeated+i.Repeated
		if !i.Proven {
			unproven++
		}
	}
	for _, e := range r.eventsSince(time.Time{}, func(e *mppb.Event) bool { return e.Job == j.Id }) {
		v.Detect, v.Recover = max(v.Detect, e.DetectSeconds), max(v.Recover, e.RecoverSeconds)
	}
	got, want := j.Outcome, calm
	v.Steps = j.Update
	v.SameBits = got.GetSha256() != "" && got.GetSha256() == want.GetSha256() && got.GetOptimizerSha256() == want.GetOptimizerSha256()
	r.check(v.Steps == j.Updates, "steps committed", fmt.Sprint(v.Steps), fmt.Sprint(j.Updates))
	r.check(v.Lost == 0 && v.Repeated == 0 && unproven == 0, "samples lost, samples repeated, epochs without proof", fmt.Sprintf("%d, %d, %d", v.Lost, v.Repeated, unproven), "0, 0, 0")
	r.check(v.SameBits, "SHA-256 of the weights, of the optimizer", short(got.GetSha256())+", "+short(got.GetOptimizerSha256()), short(want.GetSha256())+", "+short(want.GetOptimizerSha256()))
	r.check(got.GetBestEpoch() == want.GetBestEpoch() && got.GetBestTop1() == want.GetBestTop1(), "best epoch and its top-1",
		fmt.Sprintf("%d, %.4f %%", got.GetBestEpoch(), got.GetBestTop1()), fmt.Sprintf("%d, %.4f %%", want.GetBestEpoch(), want.GetBestTop1()))
	return nil
}

// ledgerOf is the ledger when it tells of at least n epochs, else nil.
func (r *rehearsal) ledgerOf(n int) []*mppb.Ledger {
	r.mu.Lock()
	defer r.mu.Unlock()
	whole := 0
	for _, l := range r.detail.GetLedger() {
		if l.Whole {
			whole++
		}
	}
	if whole < n {
		return nil
	}
	return r.detail.GetLedger()
}

// short is the beginning of a hash.
func short(hash string) string { return hash[:min(len(hash), 16)] }

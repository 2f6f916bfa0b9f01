package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"mp/mppb"
)

// agree lets the members tell one another where they are, until somebody has a state, and makes this worker what the plan
// says it is.
func (v *visit) agree(ctx context.Context) error {
	known, saved, trouble := int(v.view.Committed), -1, ""
	if v.view.Checkpoint != "" {
		saved = int(v.view.CheckpointUpdate)
	}
	for {
		mine, err := v.standing(trouble)
		if err != nil {
			return err
		}
		if err := v.exchange(ctx, mine); err != nil {
			return err
		}
		if v.plan = agree(v.members, known, saved); !v.plan.begin {
			break
		}
		if saved < -1 { // it was tried
			return v.nobodyBegan()
		}
		known, saved = 0, -2 // whatever they begin with now counts
		trouble = ""
		if err := v.begin(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			trouble = err.Error()
			v.log.Warn("this worker cannot begin the job", "job", v.job, "reason", err)
		}
	}
	began := v.plan.target
	if saved < -1 { // all have begun just now
		began = nowhere
	}
	if one, other := differing(v.members, began); one >= 0 {
		return v.beganApart(one, other)
	}
	return v.takePlace()
}

// standing is what this worker says of itself.
func (v *visit) standing(trouble string) (standing, error) {
	r := v.replica
	s := standing{Whole: r.whole, At: r.at, Last: countsOf(r.last), Clean: countsOf(r.watched.clean), Robust: countsOf(r.watched.robust), Kept: v.donor.has(v.job), Copying: nowhere, Trouble: trouble}
	if c := v.copying; c != nil {
		s.Whole, s.Copying, s.Queued = false, c.at, c.reach
	}
	if len(v.view.Members) == 1 {
		return s, nil // nobody to differ from
	}
	var err error
	s.Began, err = r.beginning()
	return s, err
}

// begin gives this worker the state from which the run begins or goes on when nobody has a newer one.
func (v *visit) begin(ctx context.Context) error {
	v.phase(mppb.Phase_COPYING)
	v.copying = nil
	path := ""
	if v.view.Checkpoint != "" {
		var err error
		if path, err = v.library.fetch(ctx, v.view, v.view.Checkpoint); err != nil {
			return err
		}
	} else if v.replica.touched {
		spec := v.replica.spec
		v.leaveJob()
		v.control.post(func(s *mppb.Status) { s.Job = v.view.Job })
		if err := v.prepare(ctx, v.view, spec); err != nil {
			return err
		}
	}
	v.pace = nil
	own, err := v.replica.begin(ctx, path)
	if own {
		v.saved = v.replica.at
	}
	return err
}

// nobodyBegan is the error of a job that no member can begin.
func (v *visit) nobodyBegan() error {
	var why []string
	for rank, m := range v.members {
		if m.Trouble != "" {
			why = append(why, fmt.Sprintf("%s: %s", v.view.Members[rank].Name, m.Trouble))
		}
	}
	return fmt.Errorf("no worker can begin: %s: %w", strings.Join(why, "; "), errJob)
}

// beganApart is the error of a job that two members begin with different bits: nobody can say who of them is right.
func (v *visit) beganApart(one, other int) error {
	file := "a processor or library of one of them computes the first values in its own way"
	switch spec := v.replica.spec; {
	case v.view.Checkpoint != "":
		file = "checkpoint " + v.view.Checkpoint + " is not the same on both"
	case spec.Resume != "":
		file = "--resume " + spec.Resume + " is another file on one of their machines: put the same one on all"
	case spec.Init != "":
		file = "--init " + spec.Init + " is another file on one of their machines: put the same one on all"
	}
	a, b := v.members[one], v.members[other]
	return fmt.Errorf("%s and %s begin with different states (after update %d, SHA-256 %.12s, and after update %d, SHA-256 %.12s): %s: %w",
		v.view.Members[one].Name, v.view.Members[other].Name, a.At.Done, a.Began, b.At.Done, b.Began, file, errJob)
}

// takePlace does what the plan says of this worker: it adopts, gives, or prepares to copy.
func (v *visit) takePlace() error {
	r, p := v.replica, v.plan
	if p.adopt[v.rank] {
		of := v.members[p.donors[0]]
		if err := r.validated(of.Last.tally(), watched{of.Clean.tally(), of.Robust.tally()}); err != nil {
			return err
		}
	}
	v.donor.keep(v.job, p.wanted)
	switch from := p.copies[v.rank]; {
	case from == nowhere:
		v.copying = nil
		if r.at != p.target {
			return fmt.Errorf("agree where the run is: this worker is at %+v, the plan says %+v", r.at, p.target)
		}
	case v.copying == nil || p.again[v.rank]:
		v.copying = newDuplicate(from, v.control.beat)
	}
	wrote := v.writes
	v.writes = p.donors[0] == v.rank
	if v.copying == nil && r.at == p.target && p.wanted(p.target) {
		s, err := r.snapshot()
		if err != nil {
			return err
		}
		if err := v.donor.give(v.job, s); err != nil {
			return err
		}
	}
	if v.writes && !wrote {
		return v.takeOver()
	}
	return nil
}

// takeOver is for a worker that writes the checkpoints from now on: what the one before may not have brought to an end.
func (v *visit) takeOver() error {
	r := v.replica
	v.open()
	due := r.at.Validated * r.steps()
	if every := r.spec.CheckpointEvery; every > 0 {
		due = max(due, r.at.Done-(r.at.Done%r.steps())%every)
	}
	if r.best.weights != nil {
		v.saveBest()
	}
	if due > int(v.view.CheckpointUpdate) && r.moved {
		return v.save(v.view)
	}
	return nil
}

// copy starts to fetch what this worker lacks, if anything; stop ends that and waits for it.
func (v *visit) copy(ctx context.Context) (stop func()) {
	if v.copying == nil {
		return func() {}
	}
	var from []giver
	for _, rank := range v.plan.givers(v.members, v.copying.at) {
		from = append(from, giver{rank, v.view.Members[rank]})
	}
	ctx, cancel := context.WithCancel(ctx)
	v.copied = make(chan error, 1)
	ended := make(chan struct{})
	d := v.copying
	go func() {
		defer close(ended)
		s, err := d.fetch(ctx, v.donors, v.job, v.view.Number, from)
		v.fresh = s
		v.copied <- err
	}()
	return func() {
		cancel()
		<-ended
	}
}

// catchUp installs the copied state when it is there. It waits for it only where others would wait for this worker anyway.
func (v *visit) catchUp(ctx context.Context) error {
	d, r := v.copying, v.replica
	if d == nil {
		return nil
	}
	needed := len(v.me().Shards) > 0 || len(v.me().ValShards) > 0 || d.full(r.layout.length) || r.finished(d.reach)
	if needed {
		v.phase(mppb.Phase_COPYING)
		select {
		case err := <-v.copied:
			return v.install(ctx, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case err := <-v.copied:
		return v.install(ctx, err)
	default:
		return nil
	}
}

// install makes the copied state this worker's own and applies what has happened since.
func (v *visit) install(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	d, r := v.copying, v.replica
	if err := r.install(ctx, v.fresh); err != nil {
		return err
	}
	v.fresh = nil
	for _, x := range d.queue {
		if x.sum == nil {
			err = r.validated(x.tally, x.watched)
		} else {
			_, err = r.commit(x.sum, x.signs)
		}
		if err != nil {
			return err
		}
		v.control.beat()
	}
	if r.at != d.reach {
		return errors.New("copy state: the queue does not lead to where the group is")
	}
	v.copying = nil
	v.pace = newPace(r.updates(r.at), r.total()*r.spec.Replays(), time.Now())
	v.log.Info("caught up", "job", v.job, "update", r.at.Done, "sums applied", len(d.queue))
	v.tellWhere()
	return nil
}

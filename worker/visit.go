package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"mp/allreduce"
	"mp/data"
	"mp/metrics"
	"mp/mppb"
	"mp/ops"
)

// visit is one view in which this worker computes.
type visit struct {
	*engine
	order
	group   *meteredGroup
	plan    plan
	members []standing
	copied  chan error // delivers once, when the copy has ended
	fresh   *snapshot  // what it brought
}

// me is this worker's place in the view.
func (v *visit) me() *mppb.Member { return v.view.Members[v.rank] }

// run forms the group, lets all members agree where they are, and does what is left of the run.
func (v *visit) run(ctx context.Context) error {
	if err := v.join(ctx); err != nil {
		return err
	}
	defer v.group.Close()
	if err := v.agree(ctx); err != nil {
		return err
	}
	stop := v.copy(ctx)
	defer stop()
	v.replica.whole = v.replica.whole && v.copying == nil // a state that others have left behind is of no use
	if v.pace == nil {
		v.pace = newPace(v.replica.updates(v.replica.at), v.replica.total()*v.replica.spec.Replays(), time.Now())
	}
	v.tellWhere()
	if ledger := recent(v.replica.epochs, true); v.copying == nil && len(ledger) > 0 {
		v.control.post(func(s *mppb.Status) { s.Ledger = ledger })
	}
	if v.view.Save {
		return v.saveAndWait(ctx)
	}
	return v.advance(ctx)
}

// join forms the view's group.
func (v *visit) join(ctx context.Context) error {
	v.phase(mppb.Phase_FORMING)
	g, err := v.ring.form(ctx, v.order)
	if err != nil {
		return fmt.Errorf("form view %d: %w: %w", v.view.Number, allreduce.ErrBroken, err)
	}
	v.group = &meteredGroup{Group: g, beat: v.control.beat}
	return nil
}

// advance does one thing after another until the run has ended.
func (v *visit) advance(ctx context.Context) error {
	r := v.replica
	v.pace.pause(time.Now())
	for {
		if err := v.pause(ctx); err != nil {
			return err
		}
		if err := v.catchUp(ctx); err != nil {
			return err
		}
		at := v.reach()
		if err := v.collapsed(ctx); err != nil {
			return err
		}
		switch {
		case r.finished(at):
			return v.finish(ctx)
		case r.validationDue(at):
			if err := v.validate(ctx); err != nil {
				return fmt.Errorf("validate epoch %d: %w", at.Validated+1, err)
			}
		default:
			if err := v.update(ctx); err != nil {
				return fmt.Errorf("epoch %d, step %d: %w", at.Done/r.steps()+1, at.Done%r.steps()+1, err)
			}
		}
	}
}

// pause waits where training must: no coordinator has answered for too long.
func (v *visit) pause(ctx context.Context) error {
	select {
	case err := <-v.lost:
		if v.fatal {
			return err
		}
		v.emit(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{Topic: "checkpoint", Warning: true,
			Text: "a checkpoint could not be saved: " + err.Error(), Advice: "training goes on; the next one is tried at its time"}})
	default:
	}
	return v.control.steady(ctx)
}

// reach is where the run is for the group: behind a copy, where this worker will be.
func (v *visit) reach() position {
	if v.copying != nil {
		return v.copying.reach
	}
	return v.replica.at
}

// update is one step and what follows from it.
func (v *visit) update(ctx context.Context) error {
	r := v.replica
	if v.copying != nil {
		sum := make([]float32, r.layout.length)
		v.phase(mppb.Phase_COPYING)
		if err := v.sum(ctx, v.terms(), sum); err != nil {
			return err
		}
		at := v.copying.reach
		signs, err := v.sumSigns(ctx, at)
		if err != nil {
			return err
		}
		v.copying.note(deed{sum: sum, signs: signs}, r.after(at))
		return nil
	}
	v.phase(mppb.Phase_COMPUTING)
	t, err := v.step(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	v.pace.did(t, now)
	v.pace.summing.add(v.group.stepped())
	v.tellWhere()
	if r.at.Replay > 0 {
		return nil
	}
	v.report(now)
	steps := r.steps()
	if every := r.spec.CheckpointEvery; v.writes && every > 0 && (r.at.Done%steps)%every == 0 && r.at.Done%steps != 0 {
		return v.save(v.view)
	}
	if r.validationDue(r.at) && v.pace.whole.images > 0 && v.writes {
		v.emit(v.pace.epoch(r, now))
	}
	return nil
}

// report tells how training goes: the writer for all, each worker for itself.
func (v *visit) report(now time.Time) {
	r := v.replica
	step := (r.at.Done-1)%r.steps() + 1
	last := step == r.steps()
	if v.writes {
		v.emit(metrics.Event{Kind: metrics.KindProgress, Progress: &metrics.Progressed{Title: "train", Done: int64(step), Total: int64(r.steps())}})
	}
	if step%r.spec.PrintFreq != 0 && !last {
		return
	}
	event := v.pace.reported(r, now)
	if v.writes {
		v.emit(event)
	}
	if v.me().Worker != 0 {
		v.emit(v.worker())
	}
}

// worker is the event of how this worker does.
func (v *visit) worker() metrics.Event {
	p, w := v.pace, &metrics.Worker{Worker: v.me().Worker, Name: v.me().Name, View: v.view.Number, Update: v.replica.at.Done}
	for _, s := range v.me().Shards {
		w.Shards = append(w.Shards, int(s))
	}
	w.ShardSeconds, w.ReduceSeconds, w.ReduceHidden = float64(p.shard), float64(p.summing), p.hidden()
	w.ImagesPerSecond, w.MemoryBytes, w.ArrivalSkew = v.ownRate(), v.replica.memory(), float64(v.group.late)
	w.GPU = gpuOf(v.device)
	return metrics.Event{Kind: metrics.KindWorker, Worker: w}
}

// ownRate is how many images a second this worker computes.
func (v *visit) ownRate() float64 {
	if v.pace.step == 0 {
		return 0
	}
	r := v.replica
	share := float64(len(v.me().Shards)) / float64(r.spec.Shards)
	return share * float64(r.images(0)) / float64(v.pace.step)
}

// trim gives memory of blocks of the last size back when images change theirs, and says so.
func (v *visit) trim() {
	r := v.replica
	epoch := r.at.Done / r.steps()
	if r.at.Done%r.steps() != 0 || epoch == 0 || epoch >= r.spec.Epochs || r.sizes.At(epoch) == r.sizes.At(epoch-1) {
		return
	}
	ops.TrimMemory()
	if v.writes {
		v.emit(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{
			Topic: "size", Text: fmt.Sprintf("images are %d pixels wide from epoch %d on", r.sizes.At(epoch), epoch+1)}})
	}
}

// phase tells what this worker is doing.
func (v *visit) phase(p mppb.Phase) { v.control.post(func(s *mppb.Status) { s.Phase = p }) }

// tellWhere tells how far this worker is.
func (v *visit) tellWhere() {
	r, p := v.replica, v.pace
	at, whole, ledger := r.at, v.copying == nil, recent(r.epochs, false)
	skew, behind, rate, memory := float64(v.group.late), float64(v.group.behind), v.ownRate(), uint64(r.memory())
	v.control.post(func(s *mppb.Status) {
		s.CaughtUp = whole
		if !whole {
			return
		}
		s.Update, s.Validated, s.Ledger = uint64(at.Done), uint32(at.Validated), ledger
		s.ShardSeconds, s.StepSeconds, s.ArrivalSkew, s.ImagesPerSecond = float64(p.shard), float64(p.step), skew, rate
		s.InboundDelay = behind
		s.MemoryBytes = memory
	})
}

// exchange is Group.Exchange with JSON.
func (v *visit) exchange(ctx context.Context, s standing) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("say what this worker has: %w", err)
	}
	said, err := v.group.Exchange(ctx, text)
	if err != nil {
		return err
	}
	v.members, err = parse(said)
	if err != nil { // whoever sends this is no member of ours
		return errors.Join(err, allreduce.ErrBroken)
	}
	return nil
}

// mine are this worker's shards, in order.
func (v *visit) mine() []int {
	var out []int
	for _, s := range v.me().Shards {
		if int(s) < v.replica.spec.Shards {
			out = append(out, int(s))
		}
	}
	slices.Sort(out)
	return out
}

// supply makes sure that the feed delivers what the next update lacks.
func (v *visit) supply() error {
	mine := v.mine()
	if v.feed.serves(mine) {
		return nil
	}
	v.feed.close()
	v.feed = nil
	if err := v.replica.shrink(max(0, len(mine)-len(v.replica.shards))); err != nil {
		return err
	}
	var err error
	if v.feed, err = newFeed(v.replica, mine); err != nil {
		return fmt.Errorf("load images: %w: %w", errJob, err)
	}
	return nil
}

// next takes the next missing shard from the feed.
func (v *visit) next(ctx context.Context) (*data.Batch, error) {
	asked := time.Now()
	b, err := v.feed.next(ctx)
	v.pace.waited += time.Since(asked)
	return b, err
}

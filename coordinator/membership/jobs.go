package membership

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// recipe is what membership reads of a job.Spec.
type recipe struct {
	Name   string `json:"name"`
	Model  string `json:"model"`
	Shards int64  `json:"shards"`
	Batch  int64  `json:"batch-size"`
	Epochs int64  `json:"epochs"`
	Keep   int64  `json:"keep-checkpoints"`
	Resume string `json:"resume"`
	Held   int64  `json:"adv-watch-images"`
}

func (a *apply) submit(c *Submit) Result {
	if len(c.Spec) > maxSpec {
		return fail("submit a specification of %d bytes: %w", len(c.Spec), ErrJob)
	}
	var r recipe
	var spec bytes.Buffer
	if err := json.Unmarshal(c.Spec, &r); err != nil {
		return fail("submit: read specification: %w: %w", ErrJob, err)
	}
	if err := json.Compact(&spec, c.Spec); err != nil {
		return fail("submit: read specification: %w: %w", ErrJob, err)
	}
	switch {
	case r.Shards < 1 || r.Shards > 1<<16:
		return fail("submit: %d shards; choose 1 to 65536: %w", r.Shards, ErrJob)
	case r.Batch < 1 || r.Batch > 1<<30:
		return fail("submit: a batch size of %d; choose at least 1: %w", r.Batch, ErrJob)
	case r.Epochs < 1 || r.Epochs > 1<<30:
		return fail("submit: %d epochs; choose at least 1: %w", r.Epochs, ErrJob)
	case r.Keep < 0 || r.Keep > maxFiles/4:
		return fail("submit: %d checkpoints to keep; choose 1 to %d: %w", r.Keep, maxFiles/4, ErrJob)
	case r.Held < 0 || r.Held > 1<<30:
		return fail("submit: %d images to hold out of training; choose 0 or more: %w", r.Held, ErrJob)
	case c.MinWorkers > maxWorkers:
		return fail("submit: at least %d workers; choose 0 to %d: %w", c.MinWorkers, maxWorkers, ErrJob)
	}
	key, open := clip(c.Key, maxWord), 0
	for _, j := range a.Jobs {
		if key != "" && j.Key == key {
			return Result{Job: j.ID} // whoever asked lost the answer
		}
		if !j.State.Ended() {
			open++
		}
	}
	if open >= maxOpenJobs {
		return fail("submit: %d jobs wait already; cancel some: %w", open, ErrState)
	}
	dir := c.Directory
	if dir == "" {
		dir = a.free(directory(r, a.time))
	}
	if err := checkDirectory(dir); err != nil {
		return Result{Err: fmt.Errorf("submit: %w", err)}
	}
	if slices.ContainsFunc(a.Jobs, func(j *Job) bool { return j.Directory == dir && !j.State.Ended() }) { // an ended one's run may go on as another job
		return fail("submit: run directory %q is another job's; choose another name: %w", dir, ErrJob)
	}
	a.JobCount++
	j := &Job{ID: "job-" + strconv.FormatUint(a.JobCount, 10), State: JobQueued, Spec: bytes.Clone(spec.Bytes()), Directory: dir, Data: c.Data, MinWorkers: c.MinWorkers, Key: key,
		Plan:      Plan{Shards: uint32(r.Shards), Batch: uint32(r.Batch), Epochs: uint32(r.Epochs), Keep: uint32(max(r.Keep, 1)), Held: uint32(r.Held), Resumes: r.Resume != ""},
		Submitted: a.time, Reason: "submitted"}
	for _, word := range []*string{&j.Data.TrainSHA256, &j.Data.ValSHA256, &j.Data.Directory} {
		*word = clip(*word, maxWord)
	}
	a.Jobs = append(a.Jobs, j)
	a.tell(Event{Topic: TopicJob, Job: j.ID, Text: j.ID + " submitted: " + dir})
	return Result{Job: j.ID, Events: a.events}
}

// directory is a run's name: the time in UTC and the run's or its model's name.
func directory(r recipe, now int64) string {
	name := r.Name
	if name == "" {
		name = r.Model
	}
	name = strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			return c
		}
		return '-'
	}, clip(name, 64))
	if name == "" {
		name = "run"
	}
	return time.Unix(0, now).UTC().Format("20060102-150405") + "-" + name
}

func checkDirectory(dir string) error {
	if dir == "" || len(dir) > 128 || dir[0] == '.' || strings.ContainsFunc(dir, func(c rune) bool {
		return c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) {
		return fmt.Errorf("run directory %q; choose at most 128 letters, digits, - _ . without a dot in front: %w", clip(dir, maxWord), ErrJob)
	}
	return nil
}

func (a *apply) hasDirectory(dir string) bool {
	return slices.ContainsFunc(a.Jobs, func(j *Job) bool { return j.Directory == dir })
}

// free is dir, with a number where it is taken.
func (a *apply) free(dir string) string {
	for n, name := 2, dir; ; n++ {
		if !a.hasDirectory(name) {
			return name
		}
		name = dir + "-" + strconv.Itoa(n)
	}
}

func (a *apply) steer(c *Steer) Result {
	j := a.Job(c.Job)
	if j == nil {
		return fail("%s job %q: %w", c.Verb, clip(c.Job, maxWord), ErrUnknown)
	}
	was, topic := j.State, TopicJob
	switch {
	case j.State.Ended():
		return fail("%s %s: it is %s: %w", c.Verb, j.ID, j.State, ErrState)
	case c.Verb == Cancel:
		j.State, j.Parked, j.Ended = JobCancelled, false, a.time
	case c.Verb == Pause && j.State == JobRunning:
		j.State = JobPaused
	case (c.Verb == Pause || c.Verb == Drain) && j.State == JobQueued:
		j.State, j.Parked = JobPaused, true
	case c.Verb == Drain && j.holds() && j.State != JobDraining:
		j.State, topic = JobDraining, TopicDrain
	case c.Verb == Resume && j.State == JobPaused && j.Parked:
		j.State, j.Parked = JobQueued, false
	case c.Verb == Resume && (j.State == JobPaused || j.State == JobDraining):
		j.State = JobRunning
	case c.Verb != Pause && c.Verb != Resume && c.Verb != Drain:
		return fail("%q %s: %w", clip(string(c.Verb), maxWord), j.ID, ErrCommand)
	default:
		return fail("%s %s: it is %s: %w", c.Verb, j.ID, j.State, ErrState)
	}
	j.Reason = string(c.Verb) + " was asked for"
	a.tell(Event{Topic: topic, Job: j.ID, Update: j.Update, View: a.View.Number, Text: fmt.Sprintf("%s, %s before, is %s: %s", j.ID, was, j.State, j.Reason)})
	a.prune()
	return Result{Job: j.ID, Events: a.events}
}

func (a *apply) start(c *Start) Result {
	j := a.Job(c.Job)
	switch {
	case j == nil:
		return fail("start job %q: %w", clip(c.Job, maxWord), ErrUnknown)
	case j.State != JobQueued:
		return fail("start %s: it is %s: %w", j.ID, j.State, ErrState)
	case a.Running() != nil:
		return fail("start %s: %s has the place: %w", j.ID, a.Running().ID, ErrState)
	case c.Data.TrainImages == 0 || c.Data.TrainImages > math.MaxInt32:
		return fail("start %s with %d images: %w", j.ID, c.Data.TrainImages, ErrCommand)
	}
	if what := j.Data.differs(c.Data); what != "" {
		return fail("start %s: %s: %w", j.ID, what, ErrState)
	}
	if j.Hash == 0 || j.Data.TrainImages != c.Data.TrainImages {
		j.Hash = fingerprints(c.Data.TrainImages) - heldOut(c.Data.TrainImages, j.Plan.Held)
	}
	j.Data, j.Version = c.Data, clip(c.Version, maxWord)
	j.State = JobRunning
	text := j.ID + " starts"
	if j.Started == 0 {
		j.Started = a.time
	} else {
		text += " again after update " + strconv.FormatUint(j.Update, 10)
	}
	j.Reason = "its turn"
	a.tell(Event{Topic: TopicJob, Job: j.ID, Update: j.Update, Text: text})
	return Result{Job: j.ID, Events: a.events}
}

func (a *apply) end(c *End) Result {
	j := a.Job(c.Job)
	switch {
	case j == nil:
		return fail("end job %q: %w", clip(c.Job, maxWord), ErrUnknown)
	case !j.holds():
		return fail("end %s: it is %s: %w", j.ID, j.State, ErrState)
	case c.State == JobPaused && j.State != JobDraining:
		return fail("end the draining of %s: it is %s: %w", j.ID, j.State, ErrState)
	case c.State != JobPaused && c.State != JobDone && c.State != JobFailed:
		return fail("end %s as %q: %w", j.ID, clip(string(c.State), maxWord), ErrCommand)
	}
	e := Event{Topic: TopicJob, Job: j.ID, Update: j.Update, View: a.View.Number, Worker: c.Worker, Advice: c.Advice}
	j.State, j.Reason = c.State, clip(c.Reason, maxText/2)
	switch c.State {
	case JobPaused:
		j.Parked, e.Topic = true, TopicDrain
		e.Text = fmt.Sprintf("%s is drained: %s", j.ID, j.Reason)
	case JobFailed:
		e.Warning = true
		e.Text = fmt.Sprintf("%s failed %s: %s", j.ID, j.at(), j.Reason)
		j.Ended = a.time
	case JobDone:
		e.Text = fmt.Sprintf("%s is done: %s", j.ID, j.Reason)
		j.Ended = a.time
	}
	if c.Outcome != nil && c.State == JobDone {
		o := *c.Outcome
		o.BestTop1, o.BestTop5 = finite(o.BestTop1), finite(o.BestTop5)
		for _, word := range []*string{&o.Checkpoint, &o.SHA256, &o.OptimizerSHA256} {
			*word = clip(*word, maxWord)
		}
		j.Outcome = &o
	}
	a.tell(e)
	a.prune()
	return Result{Job: j.ID, Events: a.events}
}

// prune forgets the oldest jobs that ended.
func (a *apply) prune() {
	ended := 0
	for _, j := range a.Jobs {
		if j.State.Ended() {
			ended++
		}
	}
	if ended <= maxEndedJobs {
		return
	}
	a.Jobs = slices.DeleteFunc(a.Jobs, func(j *Job) bool {
		if ended > maxEndedJobs && j.State.Ended() {
			ended--
			return true
		}
		return false
	})
}

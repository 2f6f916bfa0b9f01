package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"mp/metrics"
)

// book is everything that a run's files tell, read once and then on from where it ended. What is kept is bounded whatever the
// run's length, but for its reported steps and epochs, some hundred bytes each.
type book struct {
	name string

	mu sync.Mutex
	told
}

// told is what a book's files have told.
type told struct {
	at  cursor
	run Run
	job json.RawMessage // the newest

	steps       []metrics.Step
	times       []time.Time // of steps
	stepAt      map[int]int // index by update
	epochs      []metrics.Epoch
	validations []metrics.Validation
	story       []metrics.Event   // views, faults, stories, ...: the newest storySize
	forgotten   int               // older ones
	pictures    []metrics.Picture // the newest pictureCount
	workers     map[uint64]*Worker
	members     []metrics.ViewMember

	account  metrics.Account
	reported *metrics.GoodputReport // by the run itself
	damaged  int                    // lines that are no events
}

// Bounds of a book.
const (
	storySize    = 2000
	pictureCount = 400
	skewCount    = 24
)

// Worker is how a worker of the newest view does.
type Worker struct {
	Worker uint64 `json:"worker"`
	Name   string `json:"name"`
	Shards []int  `json:"shards"`

	// Of its newest report; Reported is nil before the first.
	Reported        *time.Time `json:"reported,omitempty"`
	Update          int        `json:"update"`
	ShardSeconds    float64    `json:"shard_seconds"`
	ImagesPerSecond float64    `json:"images_per_second"`
	MemoryBytes     int64      `json:"memory_bytes"`
	ArrivalSkew     float64    `json:"arrival_skew"`
	ReduceSeconds   float64    `json:"reduce_seconds"`
	ReduceHidden    float64    `json:"reduce_hidden"`
	Skews           []float64  `json:"skews"` // of the newest reports, the oldest first

	GPU *metrics.GPU `json:"gpu,omitempty"` // likewise; nil: it has none, or its driver does not say

	// Of the cluster, where one knows the job.
	Host   string `json:"host,omitempty"`
	Device string `json:"device,omitempty"`
	State  string `json:"state,omitempty"`
	Phase  string `json:"phase,omitempty"`
}

func newBook(name string) *book { return &book{name: name, told: nothing(name)} }

// nothing is told of a run before its files are read.
func nothing(name string) told {
	return told{run: Run{Name: name}, stepAt: map[int]int{}, workers: map[uint64]*Worker{}}
}

// refresh reads what the files hold by now.
func (b *book) refresh(dir *os.Root) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, moved, err := openPair(dir, b.at)
	if err == nil && moved { // other files than before: begin again
		b.told = nothing(b.name)
		p, _, err = openPair(dir, b.at)
	}
	if err != nil {
		return err
	}
	defer p.close()
	if err := b.read(p); err != nil {
		return fmt.Errorf("read run %s: %w", b.name, err)
	}
	b.at = p.cursor()
	b.run.Problems = problems(p, b.damaged)
	return nil
}

// problems says what is wrong with a run's files.
func problems(p pair, damaged int) []string {
	var all []string
	if p.metrics.file == nil {
		all = append(all, "There is no "+metrics.MetricsFile+" yet: no step was reported.")
	}
	if p.events.file == nil {
		all = append(all, "There is no "+metrics.EventsFile+": what happened is not known.")
	}
	if damaged > 0 {
		all = append(all, fmt.Sprintf("%d of the lines of %s and %s are no events and were left out.", damaged, metrics.MetricsFile, metrics.EventsFile))
	}
	return all
}

// read takes all lines of both files, in the order in which they were recorded.
func (b *book) read(p pair) error {
	take := func(t *tail) (*metrics.Event, error) {
		for {
			line, err := t.next()
			if line == nil || err != nil {
				return nil, err
			}
			e := &metrics.Event{}
			if json.Unmarshal(line, e) == nil && e.Kind != "" {
				return e, nil
			}
			b.damaged++
		}
	}
	m, err := take(p.metrics)
	if err != nil {
		return err
	}
	e, err := take(p.events)
	for err == nil && (m != nil || e != nil) {
		if e == nil || m != nil && before(*m, *e) {
			b.take(*m)
			m, err = take(p.metrics)
			continue
		}
		b.take(*e)
		e, err = take(p.events)
	}
	return err
}

// before says whether a was recorded before b: by their places in the recorder's stream or, where they come from others, by
// their clocks.
func before(a, b metrics.Event) bool {
	if a.Origin != nil && b.Origin != nil && a.Origin.Stream.Equal(b.Origin.Stream) {
		return a.Origin.Sequence < b.Origin.Sequence
	}
	return a.Time.Before(b.Time)
}

// take notes an event.
func (b *book) take(e metrics.Event) {
	was := b.run.told
	b.run.take(e)
	if (was == "paused" || was == "queued") && b.run.told == "running" {
		b.account.Resume(e.Time) // somebody asked for the pause
	}
	b.account.Hear(e)
	switch {
	case e.Start != nil:
		if len(e.Start.Job) > 0 {
			b.job = slices.Clone(e.Start.Job)
		}
		s := *e.Start
		s.Job = nil // the configuration shows it
		e.Start = &s
		b.tell(e)
	case e.Step != nil:
		b.step(*e.Step, e.Time)
	case e.Epoch != nil:
		b.epochs = put(b.epochs, *e.Epoch, func(a metrics.Epoch) int { return a.Update })
	case e.Validation != nil:
		b.validations = put(b.validations, *e.Validation, func(a metrics.Validation) int { return a.Update })
	case e.Worker != nil:
		b.worker(*e.Worker, e.Time)
	case e.Goodput != nil:
		b.reported = e.Goodput
	case e.Picture != nil:
		picture := *e.Picture
		picture.PNG = nil // its file has it
		b.pictures = newest(append(b.pictures, picture), pictureCount)
	case e.View != nil:
		b.view(*e.View)
		b.tell(e)
	case e.Leader != nil, e.Fault != nil, e.Story != nil, e.Summary != nil:
		b.tell(e)
	}
}

func (b *book) tell(e metrics.Event) {
	e.Origin = nil
	if b.story = append(b.story, e); len(b.story) > storySize {
		b.forgotten += len(b.story) - storySize
		b.story = newest(b.story, storySize)
	}
}

// newest keeps the last n.
func newest[T any](all []T, n int) []T {
	if len(all) <= n {
		return all
	}
	return slices.Delete(all, 0, len(all)-n)
}

// put adds what an update brought; a resumed run repeats updates, the newest counts, in the place of the first.
func put[T any](all []T, v T, update func(T) int) []T {
	for i := len(all) - 1; i >= 0; i-- {
		switch {
		case update(all[i]) == update(v):
			all[i] = v
			return all
		case update(all[i]) < update(v):
			return slices.Insert(all, i+1, v)
		}
	}
	return slices.Insert(all, 0, v)
}

func (b *book) step(s metrics.Step, at time.Time) {
	if i, ok := b.stepAt[s.Update]; ok {
		b.steps[i], b.times[i] = s, at
		return
	}
	b.stepAt[s.Update] = len(b.steps)
	b.steps, b.times = append(b.steps, s), append(b.times, at)
}

func (b *book) view(v metrics.View) {
	if len(v.Members) == 0 { // nobody, or the view was over before anybody could ask who: then the next one tells
		return
	}
	b.members = slices.Clone(v.Members)
	for id := range b.workers {
		if !slices.ContainsFunc(b.members, func(m metrics.ViewMember) bool { return m.Worker == id }) {
			delete(b.workers, id)
		}
	}
}

func (b *book) worker(w metrics.Worker, at time.Time) {
	k := b.workers[w.Worker]
	if k == nil {
		k = &Worker{Worker: w.Worker}
		b.workers[w.Worker] = k
	}
	skews := newest(append(k.Skews, w.ArrivalSkew), skewCount)
	*k = Worker{Worker: w.Worker, Name: w.Name, Shards: slices.Clone(w.Shards), Reported: &at, Update: w.Update, ShardSeconds: w.ShardSeconds,
		ImagesPerSecond: w.ImagesPerSecond, MemoryBytes: w.MemoryBytes, ArrivalSkew: w.ArrivalSkew, ReduceSeconds: w.ReduceSeconds,
		ReduceHidden: w.ReduceHidden, Skews: skews, GPU: w.GPU}
}

// crew is the workers of the newest view in rank order, with what the cluster adds.
func (b *book) crew(d Detail) []Worker {
	all := []Worker{}
	for _, m := range b.members {
		w := Worker{Worker: m.Worker, Skews: []float64{}}
		if k := b.workers[m.Worker]; k != nil {
			w = *k
			w.Skews = slices.Clone(k.Skews)
		}
		w.Name, w.Shards = m.Name, slices.Clone(m.Shards)
		if w.Shards == nil {
			w.Shards = []int{}
		}
		all = append(all, w)
	}
	for _, m := range d.Workers {
		i := slices.IndexFunc(all, func(w Worker) bool { return w.Worker == m.Worker })
		if i < 0 { // in no view, or in one that has not been told yet
			all = append(all, Worker{Worker: m.Worker, Name: m.Name, Shards: []int{}, Skews: []float64{}})
			i = len(all) - 1
		}
		all[i].Host, all[i].Device, all[i].State, all[i].Phase = m.Host, m.Device, m.State, m.Phase
	}
	return all
}

// report is the goodput by now; nil before there are two steps.
func (b *book) report() *metrics.GoodputReport {
	if b.reported != nil {
		return b.reported
	}
	if r := b.account.Report(); r.WallSeconds > 0 {
		return &r
	}
	return nil
}

// jobFile is the name of a run's specification.
const jobFile = "job.yaml"

// maxJobFile bounds what is read of a job.yaml; one is about 1 kB.
const maxJobFile = 1 << 20

// readJob reads a run's specification, empty where it has none that can be read.
func readJob(dir *os.Root) []byte {
	if info, err := dir.Stat(jobFile); err != nil || info.Size() > maxJobFile {
		return nil
	}
	text, err := dir.ReadFile(jobFile)
	if errors.Is(err, fs.ErrNotExist) || err != nil {
		return nil
	}
	return text
}

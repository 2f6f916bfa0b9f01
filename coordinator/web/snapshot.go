package web

import (
	"slices"
	"time"

	"mp/metrics"
)

// State is what changes all the time; a run's stream sends it whole.
type State struct {
	Run
	Crew        []Worker               `json:"crew"`
	Goodput     *metrics.GoodputReport `json:"goodput,omitempty"` // nil: nothing to measure yet
	Ledger      []Ledger               `json:"ledger"`
	Checkpoints []Checkpoint           `json:"checkpoints"`
	Cluster     string                 `json:"cluster"` // "knows": the ledger, checkpoints and phases are its; "silent"; "none" or "forgot" the job
	Trouble     string                 `json:"trouble,omitempty"`
}

// Snapshot is everything about a run, up to Cursor.
type Snapshot struct {
	State
	Cursor      string               `json:"cursor"`
	Config      []Setting            `json:"config"`
	Steps       Columns              `json:"steps"`
	EpochList   []metrics.Epoch      `json:"epoch_list"`
	Validations []metrics.Validation `json:"validations"`
	Story       []metrics.Event      `json:"story"`
	Forgotten   int                  `json:"forgotten"` // events older than Story
	Pictures    []metrics.Picture    `json:"pictures"`
}

// Columns are the reported steps, column by column, by update. Where a run is long, each point stands for Each reported steps:
// rates and losses are means, the rest is the last one's.
type Columns struct {
	Each         int             `json:"each"`
	Update       []int           `json:"update"`
	Time         []int64         `json:"time"` // Unix milliseconds
	Loss         []metrics.Value `json:"loss"`
	Top1         []float64       `json:"top1"`
	Top5         []float64       `json:"top5"`
	Rate         []float64       `json:"images_per_second"`
	LearningRate []float64       `json:"learning_rate"`
	GradientNorm []metrics.Value `json:"gradient_norm"`
	DataWait     []float64       `json:"data_wait"`
}

// maxPoints bounds the steps of a snapshot: more than a screen has columns.
const maxPoints = 4000

// snapshot is the book as it is, with what the cluster adds.
func (b *book) snapshot(c cluster, yaml []byte, now time.Time) Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Snapshot{
		State: b.state(c, now), Cursor: b.at.String(), Config: settings(b.job, yaml), Steps: b.columns(maxPoints),
		EpochList: whole(b.epochs), Validations: whole(b.validations), Story: whole(b.story), Forgotten: b.forgotten, Pictures: whole(b.pictures),
	}
}

// whole is a copy that is never nil: in JSON a list.
func whole[T any](s []T) []T { return append([]T{}, s...) }

// states is the State by now.
func (b *book) states(c cluster, now time.Time) State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state(c, now)
}

// state is states while b.mu is held.
func (b *book) state(c cluster, now time.Time) State {
	s := State{Run: b.run, Goodput: b.report(), Ledger: whole(c.detail.Ledger), Checkpoints: whole(c.detail.Checkpoints), Cluster: c.word}
	s.settle(c.job, c.known, now)
	if c.err != nil {
		s.Trouble = c.err.Error()
	}
	s.Crew = b.crew(c.detail)
	return s
}

// columns thins the steps to at most n points.
func (b *book) columns(n int) Columns {
	order := make([]int, len(b.steps))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return b.steps[i].Update - b.steps[j].Update }) // a resumed run may report other updates
	c := Columns{Each: max(1, (len(order)+n-1)/n), Update: []int{}, Time: []int64{}, Loss: []metrics.Value{}, Top1: []float64{}, Top5: []float64{},
		Rate: []float64{}, LearningRate: []float64{}, GradientNorm: []metrics.Value{}, DataWait: []float64{}}
	for group := range slices.Chunk(order, c.Each) {
		var loss, top1, top5, rate, norm, wait float64
		for _, i := range group {
			s := b.steps[i]
			loss, norm = loss+float64(s.Loss), norm+float64(s.GradientNorm)
			top1, top5, rate, wait = top1+s.Top1, top5+s.Top5, rate+s.ImagesPerSecond, wait+s.DataWait
		}
		k, last := float64(len(group)), b.steps[group[len(group)-1]]
		c.Update, c.Time = append(c.Update, last.Update), append(c.Time, b.times[group[len(group)-1]].UnixMilli())
		c.Loss, c.GradientNorm = append(c.Loss, metrics.Value(loss/k)), append(c.GradientNorm, metrics.Value(norm/k))
		c.Top1, c.Top5, c.Rate = append(c.Top1, top1/k), append(c.Top5, top5/k), append(c.Rate, rate/k)
		c.DataWait, c.LearningRate = append(c.DataWait, wait/k), append(c.LearningRate, last.LearningRate)
	}
	return c
}

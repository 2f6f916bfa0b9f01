package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"mp/attack"
	"mp/checkpoint"
	"mp/data"
	"mp/ops/pixel"
	"mp/worker/errand"
)

// attackRun attacks images with any number of plans.
type attackRun struct {
	flags      attackFlags
	source     pictureSource
	hands      hands
	target     int // class to be taken for, -1 for none
	unreadable []error
	progress   func(images int)
}

// hands compute an attack: this machine's device, or a cluster's workers.
type hands interface {
	// attack computes every plan on every batch and adds what was found to the plan's set, in the batches' order. What was
	// found is the same, whoever computes. It blocks until it is done or ctx ends, and starts nothing that outlives it.
	attack(ctx context.Context, r *attackRun, plans []plan, sets []*attackedSet) error
	close()
}

// open finds out who computes.
func (r *attackRun) open(ctx context.Context, e *env, dir string) error {
	var err error
	if r.target, err = r.flags.targetClass(r.source.Classes()); err != nil {
		return err
	}
	if r.flags.cluster.coordinator == "" {
		r.hands, err = newLoneHands(ctx, r.flags, r.source)
	} else {
		r.hands, err = newManyHands(ctx, e, r, dir)
	}
	return err
}

// total is how many images are to be attacked.
func (r *attackRun) total() int {
	if n := r.flags.images; n > 0 {
		return min(n, r.source.Len())
	}
	return r.source.Len()
}

// attackedSet is what became of the images under one attack.
type attackedSet struct {
	ids    []int32
	labels []int64
	images []float32 // [N 3 S S], where they are kept: all to be saved, else those to be shown
	kept   []int     // which they are
	before []byte    // [N S S 3], where they are saved
	clean  [][]int   // the five likeliest classes of each image before,
	after  [][]int   // and after the attack
	linf   []float64 // of the change of each
	l2     []float64
	asked  int // queries of all
	facts  attack.Facts
	time   time.Duration
	keeps  bool // changed images
}

// shown is how many pictures are made: of the first images that the network recognises before the attack.
const shown = 12

// want says which changed images of the next batch are kept: all where they are saved, else the first few.
func (r *attackRun) want(set *attackedSet) errand.Pictures {
	switch {
	case !set.keeps:
		return errand.Pictures{}
	case r.flags.save != "":
		return errand.Pictures{All: true}
	case r.flags.out != "":
		return errand.Pictures{First: shown - len(set.kept)}
	}
	return errand.Pictures{}
}

// order is a plan as whoever computes it needs it.
func (r *attackRun) order(p plan) errand.Order {
	return errand.Order{Attack: p.name, Options: p.options, Target: r.target, Seed: r.flags.seed}
}

// table runs every plan on all images. Of the first keep plans changed images are kept.
func (r *attackRun) table(ctx context.Context, plans []plan, keep int) ([]attacked, []*attackedSet, error) {
	sets := make([]*attackedSet, len(plans))
	for i := range sets {
		sets[i] = &attackedSet{keeps: i < keep}
	}
	if err := r.hands.attack(ctx, r, plans, sets); err != nil {
		return nil, nil, err
	}
	if len(sets[0].ids) == 0 {
		return nil, nil, fmt.Errorf("%w: none of the %d images can be read and has a label", data.ErrData, r.total())
	}
	rows := make([]attacked, len(plans))
	for i, p := range plans {
		rows[i] = r.row(p, sets[i])
	}
	return rows, sets, nil
}

// batches are the images as they are attacked together. How they are cut is part of the numbers: the library may add up in
// another order in a batch of another size.
func (r *attackRun) batches(plans int) iter.Seq[errand.Batch] {
	return func(yield func(errand.Batch) bool) {
		total := r.total()
		for next := 0; next < total; {
			var b errand.Batch
			for ; next < total && len(b.IDs) < r.flags.batch; next++ {
				record, err := r.source.Read(next)
				if err != nil {
					r.unreadable = append(r.unreadable, err)
					r.progress(plans)
					continue
				}
				if label := r.source.Label(next); label >= 0 {
					b.Add(int32(next), label, record)
				}
			}
			if len(b.IDs) > 0 && !yield(b) {
				return
			}
		}
	}
}

// failed says which images an error is about.
func (r *attackRun) failed(p plan, ids []int32, err error) error {
	return fmt.Errorf("%s: images %s to %s: %w", p.name, r.source.Name(int(ids[0])), r.source.Name(int(ids[len(ids)-1])), err)
}

// add adds what became of a batch.
func (r *attackRun) add(set *attackedSet, b errand.Batch, f errand.Found) {
	const values = 3 * pixel.Side * pixel.Side
	first := len(set.ids)
	for k, i := range f.Kept {
		if r.flags.save == "" && len(set.kept) == shown { // more were asked for than are needed now
			break
		}
		set.kept, set.images = append(set.kept, first+i), append(set.images, f.Images[k*values:(k+1)*values]...)
	}
	if set.keeps && r.flags.save != "" {
		set.before = append(set.before, b.Records...)
	}
	set.ids, set.labels = append(set.ids, b.IDs...), append(set.labels, b.Labels...)
	set.clean, set.after = append(set.clean, f.Clean...), append(set.after, f.After...)
	set.linf, set.l2 = append(set.linf, f.Linf...), append(set.l2, f.L2...)
	set.asked += f.Queries
	set.facts.Add(f.Facts)
	set.time += time.Duration(f.Seconds * float64(time.Second))
}

// row is what the table says of a set.
func (r *attackRun) row(p plan, set *attackedSet) attacked {
	n := len(set.ids)
	row := attacked{Attack: p.name, Norm: p.options.Norm.String(), Eps: p.options.Eps, Steps: p.options.Steps, Images: n, Seconds: set.time.Seconds()}
	if set.facts.Images > 0 {
		row.Broken, row.Warnings = set.facts.Broken, set.facts.Warnings()
	}
	correct, aimed, moved := 0, 0, 0
	var clean5, left, after1, after5 int // left: correct before and after
	for i, label := range set.labels {
		before, after := slices.Index(set.clean[i], int(label)), slices.Index(set.after[i], int(label))
		for _, c := range []struct {
			holds bool
			of    *int
		}{
			{before == 0, &correct}, {before >= 0, &clean5}, {after == 0, &after1}, {after >= 0, &after5}, {before == 0 && after == 0, &left},
			{p.options.Goal == attack.Given && set.after[i][0] == r.target, &aimed},
		} {
			if c.holds {
				*c.of++
			}
		}
		row.Linf = max(row.Linf, set.linf[i])
		if set.l2[i] > 0 {
			row.L2, moved = row.L2+set.l2[i], moved+1
		}
	}
	percent := func(part, whole int) float64 { return 100 * float64(part) / float64(max(whole, 1)) }
	row.Clean1, row.Clean5, row.Top1, row.Top5 = percent(correct, n), percent(clean5, n), percent(after1, n), percent(after5, n)
	row.L2 /= float64(max(moved, 1))
	row.Success = percent(correct-left, correct)
	if p.options.Goal == attack.Given {
		row.Success = percent(aimed, n)
	}
	row.Queries = float64(set.asked) / float64(n)
	return row
}

// attackMeta is what a saved set says about itself.
type attackMeta struct {
	Attack string  `json:"attack"`
	Norm   string  `json:"norm"`
	Eps    float64 `json:"eps"`
	Steps  int     `json:"steps"`
	Seed   uint64  `json:"seed"`
}

// write saves a set: images [N 3 S S] from 0 to 1 (course: perhaps beyond), what they were made of [N S S 3] in bytes, labels,
// and the images' places in the list.
func (r *attackRun) write(path string, p plan, set *attackedSet) error {
	n := int64(len(set.ids))
	meta, err := json.Marshal(attackMeta{p.name, p.options.Norm.String(), p.options.Eps, p.options.Steps, r.flags.seed})
	if err != nil {
		return err
	}
	ids := make([]int64, n)
	for i, id := range set.ids {
		ids[i] = int64(id)
	}
	state := &checkpoint.State{Meta: checkpoint.Meta{Job: meta}, Model: []checkpoint.Tensor{
		checkpoint.FromFloat32s("images", []int64{n, 3, pixel.Side, pixel.Side}, set.images), {Name: "clean", DType: checkpoint.U8, Shape: []int64{n, pixel.Side, pixel.Side, 3}, Data: set.before}, integers("ids", ids), integers("labels", set.labels),
	}}
	if err := checkpoint.Export(path, state); err != nil {
		return fmt.Errorf("save the changed images: %w", err)
	}
	return nil
}

// secondsText prints a time.
func secondsText(v float64) string { return span(time.Duration(math.Round(v*1000)) * time.Millisecond) }

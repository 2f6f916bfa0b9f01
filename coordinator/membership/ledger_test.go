package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// A job of 25 images in batches of 10: updates 0..2 of epoch 0, with 10, 10 and 5 images.
func smallJob() *Job {
	return &Job{Plan: Plan{Shards: 1, Batch: 10, Epochs: 4}, Data: Dataset{TrainImages: 25}, Hash: fingerprints(25)}
}

func entry(epoch uint32, from, to, images uint64) LedgerEntry {
	e := LedgerEntry{Epoch: epoch, From: from, To: to, Images: images}
	for id := range images {
		e.Hash += Fingerprint(int32(id))
	}
	return e
}

func TestLedgerTellsWhatIsMissingAndRepeated(t *testing.T) {
	for _, c := range []struct {
		name              string
		entries           []LedgerEntry
		update            uint64
		missing, repeated uint64
		proven            bool
	}{
		{"whole", []LedgerEntry{entry(0, 0, 3, 25)}, 3, 0, 0, true},
		{"so far", []LedgerEntry{entry(0, 0, 2, 20)}, 2, 0, 0, false},
		{"a longer word replaces a shorter one", []LedgerEntry{entry(0, 0, 1, 10), entry(0, 0, 2, 20)}, 2, 0, 0, false},
		{"an older word comes late", []LedgerEntry{entry(0, 0, 2, 20), entry(0, 0, 1, 10)}, 2, 0, 0, false},
		{"the last update is not reported", []LedgerEntry{entry(0, 0, 2, 20)}, 3, 5, 0, false},
		{"the first update is not reported", []LedgerEntry{entry(0, 1, 3, 15)}, 3, 10, 0, false},
		{"a gap", []LedgerEntry{entry(0, 0, 1, 10), entry(0, 2, 3, 5)}, 3, 10, 0, false},
		{"an update twice", []LedgerEntry{entry(0, 0, 2, 20), entry(0, 1, 3, 15)}, 3, 0, 10, false},
		{"images lost within an update", []LedgerEntry{entry(0, 0, 3, 24)}, 3, 1, 0, false},
		{"images twice within an update", []LedgerEntry{entry(0, 0, 3, 27)}, 3, 0, 2, false},
		{"one image instead of another", []LedgerEntry{{Epoch: 0, From: 0, To: 3, Images: 25, Hash: 7}}, 3, 1, 1, false},
		{"nothing of an epoch that began", nil, 2, 20, 0, false},
	} {
		j := smallJob()
		for _, e := range c.entries {
			if err := j.Book.check(j, []LedgerEntry{e}); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			j.Book.put(j, []LedgerEntry{e})
		}
		j.Update = c.update
		if got := j.Book.Proven == 1; got != c.proven {
			t.Errorf("%s: proven %v, want %v", c.name, got, c.proven)
		}
		all := j.Ledger()
		if len(all) != 1 || all[0].Missing != c.missing || all[0].Repeated != c.repeated {
			t.Errorf("%s: got %+v, want %d missing and %d repeated", c.name, all, c.missing, c.repeated)
		}
	}
}

// A job that holds images out of training sees each of the others once, and none of those.
func TestLedgerOfAJobThatHoldsImagesOut(t *testing.T) {
	const images, held = 25, 6
	kept, out := []int32{}, []int32{}
	for k := range held {
		least := int32(k * images / held)
		for id := least; id < int32((k+1)*images/held); id++ {
			if Fingerprint(id) < Fingerprint(least) {
				least = id
			}
		}
		out = append(out, least)
	}
	for id := range int32(images) {
		if !slices.Contains(out, id) {
			kept = append(kept, id)
		}
	}
	of := func(ids []int32) []LedgerEntry {
		e := LedgerEntry{To: 2, Images: uint64(len(ids))}
		for _, id := range ids {
			e.Hash += Fingerprint(id)
		}
		return []LedgerEntry{e}
	}
	swapped := append(slices.Clone(kept[1:]), out[2])
	all := append(slices.Clone(kept), out...)
	for _, c := range []struct {
		name              string
		entries           []LedgerEntry
		missing, repeated uint64
		proven            bool
	}{
		{"all others once", of(kept), 0, 0, true},
		{"one held out in the place of another", of(swapped), 1, 1, false},
		{"those held out too", of(all), 0, held, false},
		{"one is missing", of(kept[1:]), 1, 0, false},
	} {
		s := New()
		s.Apply(1, Command{Submit: &Submit{Spec: json.RawMessage(fmt.Sprintf(`{"shards":1,"batch-size":10,"epochs":4,"adv-watch-images":%d}`, held))}})
		if r := s.Apply(2, Command{Start: &Start{Job: "job-1", Data: Dataset{TrainImages: images}}}); r.Err != nil {
			t.Fatal(r.Err)
		}
		j := s.Job("job-1")
		if j.steps() != 2 || j.Updates() != 8 {
			t.Fatalf("%d steps an epoch, %d updates; 19 images in batches of 10 make 2 and 8", j.steps(), j.Updates())
		}
		if err := j.Book.check(j, c.entries); err != nil {
			t.Fatal(err)
		}
		j.Book.put(j, c.entries)
		j.Update = 2
		l := j.Ledger()
		if len(l) != 1 || l[0].ExpectedImages != images-held || l[0].Missing != c.missing || l[0].Repeated != c.repeated || (j.Book.Proven == 1) != c.proven {
			t.Errorf("%s: got %+v, proven %v; want %d missing, %d repeated, proven %v", c.name, l, j.Book.Proven == 1, c.missing, c.repeated, c.proven)
		}
	}
}

// Workers refuse to hold out more than there is; until they have said so, nothing may break here.
func TestAJobThatHoldsOutEverythingHasNoUpdates(t *testing.T) {
	for _, held := range []int{25, 26, 1 << 30} {
		s := New()
		s.Apply(1, Command{Submit: &Submit{Spec: json.RawMessage(fmt.Sprintf(`{"shards":1,"batch-size":10,"epochs":4,"adv-watch-images":%d}`, held))}})
		s.Apply(2, Command{Start: &Start{Job: "job-1", Data: Dataset{TrainImages: 25}}})
		j := s.Job("job-1")
		if j.State != JobRunning || j.Updates() != 0 || len(j.Ledger()) != 0 || j.Book.check(j, []LedgerEntry{entry(0, 0, 1, 10)}) == nil {
			t.Errorf("%d held out: the job is %s with %d updates and ledger %v", held, j.State, j.Updates(), j.Ledger())
		}
	}
	if r := New().Apply(1, Command{Submit: &Submit{Spec: json.RawMessage(`{"shards":1,"batch-size":10,"epochs":4,"adv-watch-images":-1}`)}}); !errors.Is(r.Err, ErrJob) {
		t.Errorf("fewer than none: got %v, want ErrJob", r.Err)
	}
}

// dumbLedger keeps what was reported of every update by itself.
type dumbLedger map[uint64]int // update -> how often

func TestLedgerAgainstCountingUpdates(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 20_000 {
		j := smallJob()
		j.Data.TrainImages = uint32(20 + r.IntN(50))
		j.Hash = fingerprints(j.Data.TrainImages)
		steps := j.steps()
		dumb := dumbLedger{}
		at := uint64(0)
		for at < steps { // parts that leave gaps and overlap, each with a beginning of its own
			from := uint64(max(0, int(at)+r.IntN(3)-1))
			to := min(steps, from+1+uint64(r.IntN(3)))
			if from >= to || len(j.Book.Open) > 0 && j.Book.Open[0].Parts[len(j.Book.Open[0].Parts)-1].From >= from {
				at++
				continue
			}
			if p := j.Book.Open; len(p) > 0 {
				if last := p[0].Parts[len(p[0].Parts)-1]; to <= last.To {
					at++
					continue // wholly repeated parts are taken for the same word
				}
			}
			j.Book.put(j, []LedgerEntry{entry(0, from, to, j.images(0, from, to))})
			for u := from; u < to; u++ {
				dumb[u]++
			}
			if j.Book.Proven == 1 {
				break
			}
			at = to
		}
		j.Update = steps
		missing, repeated := uint64(0), uint64(0)
		for u := range steps {
			switch n := dumb[u]; {
			case n == 0:
				missing += j.images(0, u, u+1)
			case n > 1:
				repeated += uint64(n-1) * j.images(0, u, u+1)
			}
		}
		all := j.Ledger()
		if len(all) == 0 {
			continue
		}
		if l := all[0]; l.Missing != missing || l.Repeated != repeated {
			if l.Missing == 1 && l.Repeated == 1 && missing == 0 && repeated == 0 {
				continue // the parts' hashes are of the first images each: only their counts are compared here
			}
			t.Fatalf("round %d: got %+v, want %d missing, %d repeated: %+v", round, l, missing, repeated, j.Book.Open)
		}
	}
}

func TestLedgerForgetsWhatIsDoneAgain(t *testing.T) {
	j := smallJob()
	j.Book.put(j, []LedgerEntry{entry(0, 0, 3, 25), entry(1, 3, 6, 25), entry(2, 6, 8, 20)})
	if j.Book.Proven != 2 {
		t.Fatalf("proven %d epochs, want 2", j.Book.Proven)
	}
	j.Book.truncate(j, 4)
	j.Update = 4
	if j.Book.Proven != 1 || len(j.Book.Open) != 0 {
		t.Errorf("back at update 4: got %+v, want one epoch proven and nothing else", j.Book)
	}
	j.Book.put(j, []LedgerEntry{entry(1, 3, 6, 25)})
	if j.Book.Proven != 2 {
		t.Errorf("done again: proven %d epochs, want 2", j.Book.Proven)
	}
}

func TestLedgerOfAJobThatResumesAnother(t *testing.T) {
	j := smallJob()
	j.Plan.Resumes = true
	j.Book.put(j, []LedgerEntry{entry(2, 6, 9, 25)})
	j.Update = 9
	if all := j.Ledger(); len(all) != 1 || all[0].Epoch != 2 || !all[0].Whole || all[0].Missing != 0 {
		t.Errorf("got %+v, want epoch 2 whole and nothing said of what was before", all)
	}
	j = smallJob()
	j.Book.put(j, []LedgerEntry{entry(2, 6, 9, 25)})
	j.Update = 9
	if all := j.Ledger(); len(all) != 3 || all[0].Missing != 25 || all[1].Missing != 25 || all[2].Missing != 0 {
		t.Errorf("a job that begins at the beginning: got %+v, want epochs 0 and 1 missing", all)
	}
}

func TestLedgerDoesNotGrowWithEpochs(t *testing.T) {
	j := smallJob()
	j.Plan.Epochs = 100_000
	for e := range uint32(10_000) {
		u := uint64(e) * 3
		j.Book.put(j, []LedgerEntry{entry(e, u, u+3, 25)})
	}
	if j.Book.Proven != 10_000 || len(j.Book.Open) != 0 {
		t.Errorf("got %d epochs proven and %d open, want 10000 and none", j.Book.Proven, len(j.Book.Open))
	}
}

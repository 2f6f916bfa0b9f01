package membership

import (
	"cmp"
	"fmt"
	"slices"
)

// Book is what a job's ledger keeps: the epochs proven whole as a number, the others in detail. Its size does not grow with
// the number of epochs.
type Book struct {
	First  uint32 `json:"first,omitempty"`  // epoch in which the job began (it may resume another's checkpoint)
	Proven uint32 `json:"proven,omitempty"` // epochs First..Proven-1 are whole, without a sample missing or repeated
	Open   []Page `json:"open,omitempty"`   // the others of which something is known, in order
}

// Page is one epoch that is not proven.
type Page struct {
	Epoch uint32        `json:"epoch"`
	Parts []LedgerEntry `json:"parts"` // by From, of which each occurs once; a worker's longer word replaces a shorter one
}

// Ledger is the proof of one epoch; see mppb.Ledger.
type Ledger struct {
	Epoch          uint32
	Images         uint64
	ExpectedImages uint64 // of the updates done; of a whole epoch: all
	Missing        uint64 // at least: where only the hash disagrees, one is missing and one repeated
	Repeated       uint64
	Hash           uint64
	ExpectedHash   uint64 // of a whole epoch; 0 before
	Whole          bool   // the epoch has ended
}

const (
	maxPages  = 64 // epochs in detail; more than a few means that something is badly wrong
	maxParts  = 16 // of an epoch
	maxImages = 1 << 48
)

// check says whether put can take the entries.
func (b *Book) check(j *Job, entries []LedgerEntry) error {
	steps := j.steps()
	for _, e := range entries {
		start := uint64(e.Epoch) * steps
		if e.Epoch >= j.Plan.Epochs || e.From >= e.To || e.From < start || e.To > start+steps || e.Images > maxImages {
			return fmt.Errorf("ledger of epoch %d says updates %d to %d with %d images; the epoch has updates %d to %d: %w", e.Epoch, e.From, e.To, e.Images, start, start+steps, ErrCommand)
		}
	}
	if len(entries) > maxPages || len(b.Open)+len(entries) > 2*maxPages {
		return fmt.Errorf("ledger of %d epochs at once beside %d unproven: %w", len(entries), len(b.Open), ErrCommand)
	}
	return nil
}

// put takes in what a worker reported.
func (b *Book) put(j *Job, entries []LedgerEntry) {
	if len(entries) > 0 && len(b.Open) == 0 && b.Proven == 0 && j.Plan.Resumes {
		first := slices.MinFunc(entries, func(x, y LedgerEntry) int { return cmp.Compare(x.Epoch, y.Epoch) }).Epoch
		b.First, b.Proven = first, first
	}
	for _, e := range entries {
		if e.Epoch < b.Proven {
			continue
		}
		i, ok := slices.BinarySearchFunc(b.Open, e.Epoch, func(p Page, epoch uint32) int { return cmp.Compare(p.Epoch, epoch) })
		if !ok {
			b.Open = slices.Insert(b.Open, i, Page{Epoch: e.Epoch})
		}
		b.Open[i].put(e)
	}
	for len(b.Open) > 0 && b.Open[0].Epoch == b.Proven {
		l := b.Open[0].proof(j, 0)
		if !l.Whole || l.Missing != 0 || l.Repeated != 0 {
			return
		}
		b.Proven++
		b.Open = slices.Delete(b.Open, 0, 1)
	}
}

// lacks says whether put would take the entry in.
func (b *Book) lacks(e LedgerEntry) bool {
	if e.Epoch < b.Proven {
		return false
	}
	for i := range b.Open {
		if p := &b.Open[i]; p.Epoch == e.Epoch {
			for _, x := range p.Parts {
				if x.From <= e.From && x.To >= e.To {
					return false
				}
			}
			return len(p.Parts) < maxParts
		}
	}
	return true
}

func (p *Page) put(e LedgerEntry) {
	i, ok := slices.BinarySearchFunc(p.Parts, e.From, func(x LedgerEntry, from uint64) int { return cmp.Compare(x.From, from) })
	switch {
	case ok && e.To < p.Parts[i].To:
		return // an older word
	case ok:
		p.Parts[i] = e
	case len(p.Parts) >= maxParts:
		return // its samples stay missing, which is told
	default:
		p.Parts = slices.Insert(p.Parts, i, e)
	}
	// What lies wholly inside a longer word was part of it.
	p.Parts = slices.DeleteFunc(p.Parts, func(x LedgerEntry) bool { return x.From > e.From && x.To <= e.To })
}

// truncate forgets what happened after an update. Of the epoch in its middle the workers report all again.
func (b *Book) truncate(j *Job, update uint64) {
	steps := j.steps()
	if steps == 0 {
		return
	}
	epoch := uint32(update / steps)
	b.Open = slices.DeleteFunc(b.Open, func(p Page) bool { return p.Epoch >= epoch })
	b.Proven = min(b.Proven, epoch)
	b.First = min(b.First, b.Proven)
}

// images is the number of samples of updates [from, to) of an epoch that starts at update start.
func (j *Job) images(start, from, to uint64) uint64 {
	n, batch := j.trained(), uint64(j.Plan.Batch)
	return min((to-start)*batch, n) - min((from-start)*batch, n)
}

// proof compares an epoch's parts with what must be, up to an update or to the last that is reported.
func (p *Page) proof(j *Job, update uint64) Ledger {
	steps := j.steps()
	start := uint64(p.Epoch) * steps
	l := Ledger{Epoch: p.Epoch}
	end := max(start, min(update, start+steps))
	reached := start
	for _, x := range p.Parts {
		end = max(end, x.To)
		l.Images += x.Images
		l.Hash += x.Hash
		if x.From > reached {
			l.Missing += j.images(start, reached, x.From)
		}
		if x.From < reached {
			l.Repeated += j.images(start, x.From, min(reached, x.To))
		}
		reached = max(reached, x.To)
		want := j.images(start, x.From, x.To)
		l.Missing += want - min(want, x.Images)
		l.Repeated += x.Images - min(want, x.Images)
	}
	l.Missing += j.images(start, reached, end)
	l.ExpectedImages = j.images(start, start, end)
	if l.Whole = end == start+steps; l.Whole {
		l.ExpectedHash = j.Hash
		if l.Missing == 0 && l.Repeated == 0 && l.Hash != l.ExpectedHash {
			l.Missing, l.Repeated = 1, 1
		}
	}
	return l
}

// Ledger returns the proof of every epoch that has begun, in order.
func (j *Job) Ledger() []Ledger {
	var all []Ledger
	if j.Book.Proven > j.Book.First {
		n, hash := j.trained(), j.Hash
		for e := j.Book.First; e < j.Book.Proven; e++ {
			all = append(all, Ledger{Epoch: e, Images: n, ExpectedImages: n, Hash: hash, ExpectedHash: hash, Whole: true})
		}
	}
	// An epoch of which nothing is known although later ones have begun is as missing as can be.
	end := j.Book.Proven
	if steps := j.steps(); steps > 0 {
		end = max(end, uint32((j.Update+steps-1)/steps))
	}
	open := j.Book.Open
	for e := j.Book.Proven; e < end || len(open) > 0; e++ {
		p := Page{Epoch: e}
		if len(open) > 0 && open[0].Epoch == e {
			p, open = open[0], open[1:]
		}
		all = append(all, p.proof(j, j.Update))
	}
	return all
}

package errand

import "slices"

// deal says which worker computes which part. It reads no clock, knows no network and is for one goroutine.
type deal struct {
	parts []dealt
	hands map[uint64][]int // the parts that each worker has, the one that it computes first
	todo  int              // parts that are not done
}

// dealt is what is known of a part.
type dealt struct {
	done    bool
	holders int
	ended   []uint64 // workers that ended while they computed it
}

// ahead is how many parts a worker has: one that it computes, and one that is there when it is done.
const ahead = 2

func newDeal(parts int) *deal {
	return &deal{parts: make([]dealt, parts), hands: map[uint64][]int{}, todo: parts}
}

// join takes a worker in.
func (d *deal) join(worker uint64) { d.hands[worker] = nil }

// next is a part for a worker, if it is to have one now: the first that nobody has. A second one it gets only while there is
// more than one for each worker; and where nobody waits for a hand any more, one that has nothing to do computes what another
// has had for longest, in case that one is slow or gone. The same part done twice gives the same bits.
func (d *deal) next(worker uint64) (part int, ok bool) {
	has, in := d.hands[worker]
	if !in || len(has) >= ahead {
		return 0, false
	}
	waiting := 0
	first := -1
	for i, p := range d.parts {
		if !p.done && p.holders == 0 {
			waiting++
			if first < 0 {
				first = i
			}
		}
	}
	switch {
	case first >= 0 && (len(has) == 0 || waiting > len(d.hands)):
	case len(has) > 0:
		return 0, false
	default:
		first = slices.IndexFunc(d.parts, func(p dealt) bool { return !p.done && p.holders == 1 })
	}
	if first < 0 {
		return 0, false
	}
	d.hands[worker] = append(has, first)
	d.parts[first].holders++
	return first, true
}

// done says that a worker has computed a part, and answers whether it is the first who has.
func (d *deal) done(worker uint64, part int) (first bool) {
	d.drop(worker, part)
	if d.parts[part].done {
		return false
	}
	d.parts[part].done = true
	d.todo--
	return true
}

func (d *deal) drop(worker uint64, part int) {
	has := d.hands[worker]
	if i := slices.Index(has, part); i >= 0 {
		d.hands[worker] = slices.Delete(has, i, i+1)
		d.parts[part].holders--
	}
}

// leave takes a worker out; its parts are for others. It returns the part that it was computing, -1 for none, and how many
// workers have ended with that one so far.
func (d *deal) leave(worker uint64) (computing, ends int) {
	computing = -1
	for i, part := range d.hands[worker] {
		p := &d.parts[part]
		if p.holders--; i == 0 {
			if !slices.Contains(p.ended, worker) {
				p.ended = append(p.ended, worker)
			}
			computing, ends = part, len(p.ended)
		}
	}
	delete(d.hands, worker)
	return computing, ends
}

package worker

import (
	"encoding/json"
	"fmt"
	"slices"
)

// standing is what a member says of itself when a view begins, before anything is computed.
type standing struct {
	Whole bool     `json:"whole"` // it holds a state, at At
	At    position `json:"at"`
	Last  counts   `json:"last"` // of its last validation
	// Clean and Robust are of the images held out, as they are and attacked.
	Clean  counts `json:"clean"`
	Robust counts `json:"robust"`

	Kept    []position `json:"kept,omitempty"` // the snapshots that it can give
	Copying position   `json:"copying"`        // of the snapshot that it is copying; nowhere: none
	Queued  position   `json:"queued"`         // how far the sums reach that it has received, to be applied after the copy

	Trouble string `json:"trouble,omitempty"` // why it could not begin
	Began   string `json:"began,omitempty"`   // SHA-256 of the state that it began with; empty once the run has moved on
}

// counts is a validation's tally as it travels.
type counts struct {
	Images, Top1, Top5, Loss, Unknown uint64
}

// plan is what a view does about its members' states: a pure function of what they said, so that all of them make the same.
type plan struct {
	begin  bool       // nobody has a usable state: everyone begins, then they agree again
	target position   // of the newest state
	donors []int      // ranks that are there, lowest first; the first of them writes checkpoints
	adopt  []bool     // by rank: lacks nothing but the result of the last validation
	copies []position // by rank: the snapshot that it copies, nowhere for none
	again  []bool     // by rank: what it has copied so far is of no use
}

// parse reads what the members said, in rank order.
func parse(said [][]byte) ([]standing, error) {
	out := make([]standing, len(said))
	for i, b := range said {
		if err := json.Unmarshal(b, &out[i]); err != nil {
			return nil, fmt.Errorf("rank %d says what it has: %w", i, err)
		}
	}
	return out, nil
}

// agree decides. known is the update that is known to be done: an older state counts as none. saved is the update of the
// run's newest checkpoint, -1 for none.
func agree(members []standing, known, saved int) plan {
	var p plan
	usable := func(m standing) bool { return m.Whole && m.At.Done >= known }
	found := false
	for _, m := range members {
		if usable(m) && (!found || p.target.before(m.At)) {
			p.target, found = m.At, true
		}
	}
	if !found || p.target.Done < saved {
		return plan{begin: true}
	}
	n := len(members)
	p.adopt, p.copies, p.again = make([]bool, n), slices.Repeat([]position{nowhere}, n), make([]bool, n)
	for rank, m := range members {
		if usable(m) && m.At == p.target {
			p.donors = append(p.donors, rank)
		}
	}
	for rank, m := range members {
		switch {
		case usable(m) && m.At == p.target:
		case usable(m) && m.At.Done == p.target.Done && m.At.Validated+1 == p.target.Validated && m.At.Replay == p.target.Replay:
			p.adopt[rank] = true
		case m.Copying != nowhere && m.Queued == p.target && len(p.givers(members, m.Copying)) > 0:
			p.copies[rank] = m.Copying // it lacks no sum since then
		default:
			p.copies[rank], p.again[rank] = p.target, true
		}
	}
	return p
}

// differing are the first two members at a position (nowhere: at any) who began with different states: from different files,
// or because one of them computes the first values in its own way. -1, -1: none do.
func differing(members []standing, at position) (one, other int) {
	one = -1
	for rank, m := range members {
		switch {
		case !m.Whole || m.Began == "" || at != nowhere && m.At != at:
		case one < 0:
			one = rank
		case m.Began != members[one].Began || m.At != members[one].At:
			return one, rank
		}
	}
	return -1, -1
}

// givers are the ranks from which a snapshot can be copied: all donors take one of the target.
func (p *plan) givers(members []standing, at position) []int {
	var out []int
	for _, r := range p.donors {
		if at == p.target || slices.Contains(members[r].Kept, at) {
			out = append(out, r)
		}
	}
	return out
}

// wanted says whether a snapshot is copied by anyone.
func (p *plan) wanted(at position) bool { return slices.Contains(p.copies, at) }

package worker

import (
	"reflect"
	"testing"
)

func TestMembersAgree(t *testing.T) {
	at := func(done, validated int) standing {
		return standing{Whole: true, At: position{done, validated, 0}, Copying: nowhere}
	}
	none := standing{Copying: nowhere}
	keeps := func(s standing, kept ...position) standing { s.Kept = kept; return s }
	copying := func(from position, done, validated int) standing {
		return standing{Copying: from, Queued: position{done, validated, 0}}
	}
	for _, c := range []struct {
		name         string
		members      []standing
		known, saved int
		want         plan
	}{
		{"nobody has a state", []standing{none, none}, 0, -1, plan{begin: true}},
		{"all states are older than what is known", []standing{at(3, 0), at(4, 0)}, 5, -1, plan{begin: true}},
		{"the checkpoint is newer than any state", []standing{at(3, 0), none}, 0, 5, plan{begin: true}},
		{"all alike", []standing{at(5, 1), at(5, 1)}, 5, 5, plan{
			target: position{5, 1, 0}, donors: []int{0, 1}, adopt: []bool{false, false}, copies: []position{nowhere, nowhere}, again: []bool{false, false}}},
		{"one committed before the ring broke", []standing{at(5, 1), at(6, 1), at(5, 1)}, 5, -1, plan{
			target: position{6, 1, 0}, donors: []int{1}, adopt: []bool{false, false, false}, copies: []position{{6, 1, 0}, nowhere, {6, 1, 0}}, again: []bool{true, false, true}}},
		{"one heard of the validation before the ring broke", []standing{at(6, 1), at(6, 0)}, 6, -1, plan{
			target: position{6, 1, 0}, donors: []int{0}, adopt: []bool{false, true}, copies: []position{nowhere, nowhere}, again: []bool{false, false}}},
		{"a joiner, a member that fell behind long ago", []standing{none, at(9, 1), at(2, 0)}, 9, -1, plan{
			target: position{9, 1, 0}, donors: []int{1}, adopt: []bool{false, false, false}, copies: []position{{9, 1, 0}, nowhere, {9, 1, 0}}, again: []bool{true, false, true}}},
		{"a copy goes on beside a new one", []standing{copying(position{4, 0, 0}, 9, 1), keeps(at(9, 1), position{4, 0, 0}), none}, 9, -1, plan{
			target: position{9, 1, 0}, donors: []int{1}, adopt: []bool{false, false, false}, copies: []position{{4, 0, 0}, nowhere, {9, 1, 0}}, again: []bool{false, false, true}}},
		{"a copy whose queue has a gap", []standing{copying(position{4, 0, 0}, 8, 1), keeps(at(9, 1), position{4, 0, 0})}, 9, -1, plan{
			target: position{9, 1, 0}, donors: []int{1}, adopt: []bool{false, false}, copies: []position{{9, 1, 0}, nowhere}, again: []bool{true, false}}},
		{"a copy whose donors are gone", []standing{copying(position{4, 0, 0}, 9, 1), at(9, 1)}, 9, -1, plan{
			target: position{9, 1, 0}, donors: []int{1}, adopt: []bool{false, false}, copies: []position{{9, 1, 0}, nowhere}, again: []bool{true, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := agree(c.members, c.known, c.saved); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestSnapshotsAreAskedOfThoseWhoHaveThem(t *testing.T) {
	members := []standing{
		{Whole: true, At: position{9, 0, 0}, Kept: []position{{4, 0, 0}}, Copying: nowhere},
		{Whole: true, At: position{9, 0, 0}, Copying: nowhere},
		{Copying: position{4, 0, 0}, Queued: position{9, 0, 0}},
		{Copying: nowhere},
	}
	p := agree(members, 9, -1)
	if got, want := p.givers(members, position{4, 0, 0}), []int{0}; !reflect.DeepEqual(got, want) {
		t.Errorf("of update 4: got ranks %v, want %v", got, want)
	}
	if got, want := p.givers(members, position{9, 0, 0}), []int{0, 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("of update 9: got ranks %v, want %v", got, want)
	}
	for at, want := range map[position]bool{{4, 0, 0}: true, {9, 0, 0}: true, {9, 1, 0}: false, {5, 0, 0}: false} {
		if got := p.wanted(at); got != want {
			t.Errorf("donors keep %v: got %v, want %v", at, got, want)
		}
	}
}

func TestWhoBeganWithOtherBitsIsFound(t *testing.T) {
	began := func(done int, sum string) standing {
		return standing{Whole: true, At: position{Done: done}, Began: sum, Copying: nowhere}
	}
	moved, none := began(4, ""), standing{Began: "a", Copying: nowhere}
	for _, c := range []struct {
		name       string
		members    []standing
		at         position
		one, other int
	}{
		{"all alike", []standing{began(4, "a"), began(4, "a"), moved}, nowhere, -1, -1},
		{"other bits", []standing{moved, began(4, "a"), none, began(4, "b")}, nowhere, 1, 3},
		{"other bits, seen later", []standing{began(4, "a"), began(4, "b")}, position{Done: 4}, 0, 1},
		{"another update", []standing{began(4, "a"), began(6, "a")}, nowhere, 0, 1},
		{"one that was left behind", []standing{began(4, "a"), began(6, "b"), began(6, "b")}, position{Done: 6}, -1, -1},
		{"one that has no state", []standing{began(4, "b"), none}, nowhere, -1, -1},
	} {
		if one, other := differing(c.members, c.at); one != c.one || other != c.other {
			t.Errorf("%s: got ranks %d and %d, want %d and %d", c.name, one, other, c.one, c.other)
		}
	}
}

package errand

import (
	"fmt"
	"strings"
	"testing"
)

// Every line is a script of what happens and what the deal answers.
func TestWhoGetsWhichPart(t *testing.T) {
	for _, c := range []struct{ name, parts, script, want string }{
		{"one worker has two at a time, in order", "4", "+1 ?1 ?1 ?1 !1/0 ?1 !1/1 ?1 !1/2 ?1 !1/3 ?1", "0 1 - first 2 first - first 3 first - left 0"},
		{"two share, and leave the last ones to whoever is free", "5", "+1 +2 ?1 ?2 ?1 ?2 !1/0 ?1", "0 1 2 - first - left 4"},
		{"a stranger gets nothing", "2", "?7", "- left 2"},
		{"who dies gives its parts back", "4", "+1 +2 ?1 ?1 ?2 -1 !2/2 ?2 ?2", "0 1 2 ends 1 of 0 first 0 1 left 3"},
		{"who is idle takes what another still has", "2", "+1 +2 ?1 ?2 !2/1 ?2 ?2 !2/0 ?2 !1/0", "0 1 first 0 - first - late left 0"},
		{"a third one does not", "1", "+1 +2 +3 ?1 ?2 ?3", "0 0 - left 1"},
		{"a part that ends worker after worker is known by that", "2", "+1 ?1 -1 +2 ?2 -2 +3 ?3 -3", "0 ends 1 of 0 0 ends 2 of 0 0 ends 3 of 0 left 2"},
		{"one worker that ends again and again is one", "1", "+1 ?1 -1 +1 ?1 -1", "0 ends 1 of 0 0 ends 1 of 0 left 1"},
		{"who dies idle ends with nothing", "1", "+1 -1", "idle left 1"},
	} {
		var parts int
		fmt.Sscan(c.parts, &parts)
		d := newDeal(parts)
		var got []string
		for _, word := range strings.Fields(c.script) {
			var worker uint64
			var part int
			fmt.Sscanf(word[1:], "%d/%d", &worker, &part)
			switch word[0] {
			case '+':
				d.join(worker)
			case '?':
				if i, ok := d.next(worker); ok {
					got = append(got, fmt.Sprint(i))
				} else {
					got = append(got, "-")
				}
			case '!':
				got = append(got, map[bool]string{true: "first", false: "late"}[d.done(worker, part)])
			case '-':
				if i, ends := d.leave(worker); i >= 0 {
					got = append(got, fmt.Sprintf("ends %d of %d", ends, i))
				} else {
					got = append(got, "idle")
				}
			}
		}
		got = append(got, fmt.Sprintf("left %d", d.todo))
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, text, c.want)
		}
	}
}

// Whatever workers do, every part is done in the end, and none is with more than two.
func TestEveryPartIsDone(t *testing.T) {
	const parts, workers = 37, 5
	for seed := range uint64(50) {
		d, done := newDeal(parts), 0
		for w := range uint64(workers) {
			d.join(w)
		}
		for step := uint64(0); d.todo > 0; step++ {
			if step > 10000 {
				t.Fatalf("seed %d: %d parts are left", seed, d.todo)
			}
			lot := (step + seed*1009) * 0x9e3779b97f4a7c15 >> 33
			w := lot % workers
			switch has := d.hands[w]; {
			case lot/workers%11 == 0:
				d.leave(w)
				d.join(w)
			case len(has) > 0 && lot/workers%3 == 0:
				if d.done(w, has[0]) {
					done++
				}
			default:
				d.next(w)
			}
			for i, p := range d.parts {
				if p.holders < 0 || p.holders > 2 {
					t.Fatalf("seed %d: part %d is with %d workers", seed, i, p.holders)
				}
			}
		}
		if done != parts {
			t.Errorf("seed %d: %d parts were done first, want %d", seed, done, parts)
		}
	}
}

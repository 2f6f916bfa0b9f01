package data

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// labels is a list of images of so many classes.
type labels struct {
	of      []int
	classes int
}

func (l labels) Len() int          { return len(l.of) }
func (l labels) Classes() []string { return strings.Fields(strings.Repeat("c ", l.classes)) }
func (l labels) Label(i int) int   { return l.of[i] }

// sorted is a list with so many images a class, class by class.
func sorted(perClass ...int) labels {
	l := labels{classes: len(perClass)}
	for class, n := range perClass {
		l.of = append(l.of, slices.Repeat([]int{class}, n)...)
	}
	return l
}

func TestHoldOutTakesEachClassItsShareOfASortedList(t *testing.T) {
	for _, c := range []struct{ classes, perClass, n, want int }{{100, 200, 500, 5}, {10, 1000, 10, 1}, {4, 8, 16, 4}} {
		l := sorted(slices.Repeat([]int{c.perClass}, c.classes)...)
		held, err := HoldOut(l, c.n)
		if err != nil {
			t.Fatal(err)
		}
		of := make([]int, c.classes)
		for _, id := range held {
			of[l.of[id]]++
		}
		if len(held) != c.n || !slices.IsSorted(held) || len(slices.Compact(slices.Clone(held))) != c.n {
			t.Errorf("%+v: held out are %v, want %d, ascending and distinct", c, held, c.n)
		}
		for class, n := range of {
			if n != c.want {
				t.Errorf("%+v: %d of class %d, want %d", c, n, class, c.want)
			}
		}
	}
}

// A list that is not a multiple of the number held out has stretches whose lengths differ by one.
func TestHoldOutAgainstLookingAtEachStretch(t *testing.T) {
	for size := range 40 {
		for n := range size + 1 {
			held, at := heldOut(size, n), 0
			for k, id := range held {
				length := (k+1)*size/n - k*size/n
				if length != size/n && length != size/n+1 {
					t.Fatalf("%d of %d: stretch %d has %d images", n, size, k, length)
				}
				best := int32(at)
				for i := at; i < at+length; i++ {
					if Fingerprint(int32(i)) < Fingerprint(best) {
						best = int32(i)
					}
				}
				if id != best {
					t.Errorf("%d of %d: image %d is held out of stretch %d, want %d", n, size, id, k, best)
				}
				at += length
			}
			if at != size && n > 0 {
				t.Errorf("%d of %d: the stretches end at %d", n, size, at)
			}
		}
	}
}

// The coordinator has the same function; both are held to these numbers.
func TestHoldOutIsWhatCoordinatorsTakeItFor(t *testing.T) {
	for _, c := range []struct {
		size, n int
		want    uint64
	}{{10, 0, 0}, {10, 3, 0xdc6f45454b017445}, {45, 6, 0x9722fcefbabf19f2}, {100_000, 500, 0x8529bf8d94d4abe1}} {
		sum := uint64(0)
		for _, id := range heldOut(c.size, c.n) {
			sum += Fingerprint(id)
		}
		if sum != c.want {
			t.Errorf("%d of %d: got %#x, want %#x", c.n, c.size, sum, c.want)
		}
	}
}

func TestHoldOutRefusesTooMany(t *testing.T) {
	for _, c := range []struct {
		of   labels
		n    int
		want string
	}{
		{sorted(5, 5), 6, "choose at most 5"},
		{sorted(5, 5), -1, "choose at most 5"},
		{sorted(), 1, "choose at most 0"},
		{sorted(98, 1, 1), 50, "all that class"},
	} {
		if _, err := HoldOut(c.of, c.n); !errors.Is(err, ErrData) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d of %d: got %v, want ErrData with %q", c.n, c.of.Len(), err, c.want)
		}
	}
	if held, err := HoldOut(sorted(1, 1), 0); held != nil || err != nil {
		t.Errorf("none: got %v, %v", held, err)
	}
	if _, err := HoldOut(labels{of: slices.Repeat([]int{-1}, 9), classes: 2}, 3); err != nil {
		t.Errorf("images without labels: %v", err)
	}
}

func TestSamplerLeavesOutWhatIsHeldOut(t *testing.T) {
	for _, c := range []struct{ list, n, batch int }{{45, 6, 8}, {100, 50, 7}, {3, 1, 1}, {1000, 10, 64}, {20, 0, 6}} {
		held := heldOut(c.list, c.n)
		s, err := NewSamplerWithout(held, 7, c.list, c.batch, false)
		if err != nil {
			t.Fatal(err)
		}
		if s.Images() != c.list-c.n || s.Steps() != (c.list-c.n-1)/c.batch+1 {
			t.Errorf("%+v: %d images in %d steps", c, s.Images(), s.Steps())
		}
		var hash uint64
		for epoch := range 3 {
			var all []int32
			for step := range s.Steps() {
				for shard := range 3 {
					all = append(all, s.Shard(epoch, step, shard, 3)...)
				}
			}
			if order := s.Order(epoch); !slices.Equal(all, order) || s.At(epoch, 1) != order[1] {
				t.Errorf("%+v: shards are not the order of epoch %d", c, epoch)
			}
			hash = 0
			for _, id := range all {
				hash += Fingerprint(id)
			}
			all = append(all, held...)
			slices.Sort(all)
			for i, id := range all {
				if int(id) != i {
					t.Fatalf("%+v, epoch %d: image %d is trained on and held out, or neither", c, epoch, i)
				}
			}
		}
		if s.Hash() != hash {
			t.Errorf("%+v: the hash is %#x, that of an epoch's images %#x", c, s.Hash(), hash)
		}
	}
	if _, err := NewSamplerWithout([]int32{0, 1}, 7, 2, 1, false); !errors.Is(err, ErrData) {
		t.Errorf("all held out: got %v, want ErrData", err)
	}
}

func TestSequenceOfSomeImages(t *testing.T) {
	s, err := NewSequenceOf([]int32{3, 5, 8}, 9, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := append(s.Batch(4, 0), s.Batch(4, 1)...); !slices.Equal(got, []int32{3, 5, 8}) || s.At(4, 2) != 8 || s.Steps() != 2 {
		t.Errorf("got %v, %d at last, in %d steps", got, s.At(4, 2), s.Steps())
	}
	m := newImages(9, 3)
	l := mustLoader(t, LoaderConfig{Images: m, Sampler: s, Recipe: mustRecipe(t, "none"), Epochs: 1})
	b, err := l.Next(t.Context())
	if err != nil || !slices.Equal(b.IDs, []int32{3, 5}) {
		t.Errorf("the loader delivers %v, %v", b.IDs, err)
	}
}

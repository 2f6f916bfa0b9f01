package allreduce_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"mp/allreduce"
	"mp/allreduce/inproc"
)

// elsewhere is a Source as a device is one, of vectors that Terms does not have. It fails where it is told to.
type elsewhere struct {
	vectors [][]float32
	fail    string
}

var errElsewhere = errors.New("the device is gone")

func (e *elsewhere) broken(what string) error {
	if e.fail == what {
		return errElsewhere
	}
	return nil
}

func (e *elsewhere) Exponents(exponents []byte, lo, hi int) error {
	for _, v := range e.vectors {
		allreduce.Kernels{}.WithDefaults().Exponents(exponents, v[lo:hi])
	}
	return e.broken("exponents")
}

func (e *elsewhere) Quantize(q []int32, exponents []byte, lo, bits int) error {
	clear(q)
	for _, v := range e.vectors {
		allreduce.Kernels{}.WithDefaults().Quantize(q, v[lo:lo+len(q)], exponents, bits, true)
	}
	return e.broken("quantise")
}

func (e *elsewhere) Vector(i int) ([]float32, error) { return e.vectors[i], e.broken("vector") }

// fromElsewhere moves the vectors of members that are odd to a source.
func fromElsewhere(fail string) func(member int, t *allreduce.Terms) {
	return func(m int, t *allreduce.Terms) {
		t.Bucket = 3 * allreduce.Block
		if m%2 == 1 {
			t.Source, t.Vectors = &elsewhere{t.Vectors, fail}, nil
		}
	}
}

// It makes no difference to the bits, or to what is found, where members have their vectors.
func TestSumOfASource(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 3))
	const shards, members = 5, 3
	vectors := gradients(r, shards, 20*allreduce.Block+5)
	dealt := [][]int{{0}, {3, 1}, {2, 4}}
	want := dumbSum(vectors)
	outs, errs := sumOver(inproc.New(members), dealt, vectors, fromElsewhere(""))
	for m := range members {
		if errs[m] != nil || !equalBits(outs[m], want) {
			t.Errorf("member %d: error %v, or other bits", m, errs[m])
		}
	}
	for _, fail := range []string{"exponents", "quantise"} {
		_, errs := sumOver(inproc.New(members), dealt, vectors, fromElsewhere(fail))
		if !errors.Is(errs[1], errElsewhere) || errs[0] == nil || errs[2] == nil {
			t.Errorf("%s fail at member 1: errors %v", fail, errs)
		}
	}
	vectors[1][700] = float32(math.Inf(1))
	_, errs = sumOver(inproc.New(members), dealt, vectors, fromElsewhere(""))
	for m, err := range errs {
		var found *allreduce.NotFiniteError
		if !errors.As(err, &found) || found.Rank != 1 || found.Shard != 1 || found.Element != 700 {
			t.Errorf("member %d: error %v, want element 700 of rank 1's shard 1", m, err)
		}
	}
	if _, errs := sumOver(inproc.New(members), dealt, vectors, fromElsewhere("vector")); !errors.Is(errs[1], errElsewhere) || errs[0] == nil {
		t.Errorf("a vector that cannot be fetched: errors %v", errs)
	}
}

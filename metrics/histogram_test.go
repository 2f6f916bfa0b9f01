package metrics

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func TestHistogramCountsEveryFiniteElementOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	values := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}
	var sum, squares float64
	for range 1000 {
		v := float32(random.NormFloat64())
		values, sum, squares = append(values, v), sum+float64(v), squares+float64(v)*float64(v)
	}
	h := NewHistogram("w", values)
	if h.Count != 1000 || h.Sum != sum || h.Squares != squares || h.Limit(len(h.Buckets)-1) != h.Max {
		t.Errorf("got %+v, want 1000 elements, sum %g, squares %g", h, sum, squares)
	}
	for i, n := range h.Buckets {
		lower, want := h.Min+(h.Max-h.Min)*float64(i)/float64(len(h.Buckets)), 0
		for _, x := range values {
			v := float64(x)
			if v >= lower && (v < h.Limit(i) || i == len(h.Buckets)-1 && v == h.Max) {
				want++
			}
		}
		if n < want-1 || n > want+1 { // an element at a limit may round to either side
			t.Errorf("part %d has %d elements, want %d", i, n, want)
		}
	}
	if h := NewHistogram("w", values[:3]); h.Count != 0 || h.Buckets != nil {
		t.Errorf("no number at all: got %+v", h)
	}
	if h := NewHistogram("w", []float32{2, 2}); h.Count != 2 || len(h.Buckets) != 1 || h.Limit(0) != 2 {
		t.Errorf("all the same: got %+v", h)
	}
}

// The histograms of a network of many layers are one message.
func TestHistogramsFitIntoAMessage(t *testing.T) {
	h := Histograms{}
	for i := range 200 { // three times as many parameters as the deepest network here has
		one := NewHistogram(fmt.Sprintf("layer4.1.a.long.name.of.a.parameter.%d.weight", i), []float32{-.123456789, 1. / 3})
		for k := range one.Buckets {
			one.Buckets[k] = 12_345_678
		}
		h.Weights, h.Gradients = append(h.Weights, one), append(h.Gradients, one)
	}
	text, err := json.Marshal(Event{Kind: KindHistograms, Histograms: &h})
	if err != nil || len(text) > 1_000_000 {
		t.Errorf("an event of %d bytes, %v; NATS takes 1 MiB", len(text), err)
	}
}

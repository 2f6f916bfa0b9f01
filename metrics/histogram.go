package metrics

import "math"

// Histograms are the distributions of a network's weights and gradients after an update.
type Histograms struct {
	Epoch     int         `json:"epoch"`
	Update    int         `json:"update"`
	Weights   []Histogram `json:"weights"`
	Gradients []Histogram `json:"gradients,omitempty"` // of that update, before clipping; none where a run goes on just there
}

// Histogram is the distribution of a tensor's finite elements: how many lie in each of equal parts from Min to Max.
type Histogram struct {
	Name    string  `json:"name"` // of the parameter, as PyTorch has it
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	Count   int     `json:"count"`
	Sum     float64 `json:"sum"`
	Squares float64 `json:"squares"` // sum of squares
	Buckets []int   `json:"buckets"`
}

// histogramBuckets is how many parts a Histogram has: few enough that those of any network here are one message of NATS.
const histogramBuckets = 48

// NewHistogram counts elements. Those that are no number, and infinities, are left out.
func NewHistogram(name string, values []float32) Histogram {
	h := Histogram{Name: name, Min: math.Inf(1), Max: math.Inf(-1)}
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	for _, x := range values {
		if v := float64(x); finite(v) {
			h.Min, h.Max, h.Sum, h.Squares = min(h.Min, v), max(h.Max, v), h.Sum+v, h.Squares+v*v
			h.Count++
		}
	}
	if h.Count == 0 {
		return Histogram{Name: name}
	}
	if h.Min == h.Max {
		h.Buckets = []int{h.Count}
		return h
	}
	h.Buckets = make([]int, histogramBuckets)
	scale := histogramBuckets / (h.Max - h.Min)
	for _, x := range values {
		if v := float64(x); finite(v) {
			h.Buckets[min(int((v-h.Min)*scale), histogramBuckets-1)]++
		}
	}
	return h
}

// Limit is the upper end of a bucket.
func (h Histogram) Limit(bucket int) float64 {
	return h.Min + (h.Max-h.Min)*float64(bucket+1)/float64(len(h.Buckets))
}

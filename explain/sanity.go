package explain

import (
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// RankCorrelation is the correlation of two maps' ranks (Spearman), equal values sharing their mean rank: 1 for the same order,
// 0 for none in common. It is NaN where a map is flat.
//
// It is the measure of the model-randomisation check (Adebayo et al., 2018, section 3.1): a map that hardly changes when the
// network's weights are drawn anew, from the last layer to the first, does not explain the network.
func RankCorrelation(a, b []float64) float64 {
	return correlation(meanRanks(a), meanRanks(b))
}

// Similarity compares maps [N 1 H W] of two networks for the same images: a rank correlation a sample.
func Similarity(s *ops.Scope, a, b torch.Tensor) []float64 {
	x, y := ops.Values[float64](s, a), ops.Values[float64](s, b)
	if s.Err() != nil {
		return nil
	}
	n := int(a.Shape()[0])
	pixels := len(x) / n
	out := make([]float64, n)
	for i := range out {
		out[i] = RankCorrelation(x[i*pixels:(i+1)*pixels], y[i*pixels:(i+1)*pixels])
	}
	return out
}

func meanRanks(m []float64) []float64 {
	order := descending(make([]int, len(m)), m)
	out := make([]float64, len(m))
	for from := 0; from < len(order); {
		to := from
		for to < len(order) && m[order[to]] == m[order[from]] {
			to++
		}
		if to == from { // NaN equals nothing
			to++
		}
		for _, at := range order[from:to] {
			out[at] = float64(from+to-1) / 2
		}
		from = to
	}
	return out
}

func correlation(a, b []float64) float64 {
	mean := func(v []float64) float64 {
		var sum float64
		for _, x := range v {
			sum += x
		}
		return sum / float64(len(v))
	}
	ma, mb := mean(a), mean(b)
	var ab, aa, bb float64
	for i := range a {
		ab += (a[i] - ma) * (b[i] - mb)
		aa += (a[i] - ma) * (a[i] - ma)
		bb += (b[i] - mb) * (b[i] - mb)
	}
	if slices.Contains([]float64{aa, bb}, 0) {
		return math.NaN()
	}
	return ab / math.Sqrt(aa*bb)
}

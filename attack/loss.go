package attack

import (
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// scorer maps logits [N K] to a number an image [N] that an attack makes greater.
type scorer func(s *ops.Scope, logits torch.Tensor) torch.Tensor

// crossEntropy is that of the classes to flee, or less that of the classes to seek.
func crossEntropy(classes []int64, seek bool) scorer {
	return func(s *ops.Scope, logits torch.Tensor) torch.Tensor {
		l := s.CrossEntropy(logits, ops.From(s, classes, int64(len(classes))), 0, ops.ReduceNone)
		if seek {
			return s.Scale(l, -1)
		}
		return l
	}
}

// dlr is the difference of logits ratio (Croce & Hein, "Reliable evaluation of adversarial robustness", 2020, equation 6):
// -(z_y - max_{i != y} z_i) / (z_1st - z_3rd).
func dlr(labels []int64) scorer {
	return func(s *ops.Scope, logits torch.Tensor) torch.Tensor {
		z := wide(s, logits)
		n := int64(len(labels))
		most, _ := s.TopK(z, 3) // [N 3]
		own := s.Pick(z, ops.From(s, labels, n, 1))
		first, second, third := s.Narrow(most, 1, 0, 1), s.Narrow(most, 1, 1, 1), s.Narrow(most, 1, 2, 1)
		other := s.Where(s.Less(own, first), first, second) // a tie leaves the gradient at the rival all the same
		return s.Reshape(s.Div(s.Sub(other, own), s.Offset(s.Sub(first, third), tiny)), n)
	}
}

// targetedDLR is the same towards a class t (equation 7): -(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2).
func targetedDLR(labels, targets []int64) scorer {
	return func(s *ops.Scope, logits torch.Tensor) torch.Tensor {
		z := wide(s, logits)
		n := int64(len(labels))
		most, _ := s.TopK(z, 4)
		own, target := s.Pick(z, ops.From(s, labels, n, 1)), s.Pick(z, ops.From(s, targets, n, 1))
		mean := s.Scale(s.Add(s.Narrow(most, 1, 2, 1), s.Narrow(most, 1, 3, 1)), .5)
		return s.Reshape(s.Div(s.Sub(target, own), s.Offset(s.Sub(s.Narrow(most, 1, 0, 1), mean), tiny)), n)
	}
}

// divergence is the Kullback-Leibler divergence of the probabilities from those of clean logits [N K].
func divergence(clean torch.Tensor) scorer {
	return func(s *ops.Scope, logits torch.Tensor) torch.Tensor {
		p := s.Softmax(clean, 1)
		d := s.Sub(s.LogSoftmax(clean, 1), s.LogSoftmax(wide(s, logits), 1))
		return s.Sum(s.Mul(p, d), 1)
	}
}

// best returns the position of the greatest element of a row, the first of equals; -1 where one is no number.
func best(row []float64) int {
	at := 0
	for i, v := range row {
		if math.IsNaN(v) {
			return -1
		}
		if v > row[at] {
			at = i
		}
	}
	return at
}

// least returns the position of the smallest element.
func least(row []float64) int {
	at := 0
	for i, v := range row {
		if v < row[at] {
			at = i
		}
	}
	return at
}

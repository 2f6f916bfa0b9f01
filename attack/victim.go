package attack

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Net is the Victim made of a network that takes normalised images.
type Net struct {
	// Forward returns logits [N K] of normalised images z [N C H W] of dtype DType.
	Forward func(s *ops.Scope, z torch.Tensor) torch.Tensor
	// Mean and Std of each channel of images in [0, 1]: z = (x - Mean) / Std. An empty Std leaves images as they are.
	Mean, Std []float64
	// DType in which the network computes; 0 means that of the images. Images stay in their own: one unit in the last place
	// of bfloat16 is an eps of 1/255.
	DType ops.DType
}

// Logits is Victim's.
func (n *Net) Logits(s *ops.Scope, x torch.Tensor) torch.Tensor {
	return n.normalised(s, n.Normalise(s, x))
}

// normalised returns the logits of normalised images of any float dtype.
func (n *Net) normalised(s *ops.Scope, z torch.Tensor) torch.Tensor {
	if n.DType != 0 {
		z = s.To(z, n.DType)
	}
	return n.Forward(s, z)
}

// Normalise returns (x - Mean) / Std of images x [N C H W] in [0, 1].
func (n *Net) Normalise(s *ops.Scope, x torch.Tensor) torch.Tensor {
	if len(n.Std) == 0 || s.Err() != nil || !ops.Defined(x) {
		return x
	}
	mean, std := n.channels(s, n.Mean, x.Dtype()), n.channels(s, n.Std, x.Dtype())
	return s.Div(s.Sub(x, mean), std)
}

// Pixels is Normalise's inverse: images in [0, 1] of normalised ones, as a loader gives them. bfloat16 becomes float32.
func (n *Net) Pixels(s *ops.Scope, z torch.Tensor) torch.Tensor {
	z = wide(s, z)
	if len(n.Std) == 0 || s.Err() != nil || !ops.Defined(z) {
		return z
	}
	mean, std := n.channels(s, n.Mean, z.Dtype()), n.channels(s, n.Std, z.Dtype())
	return s.Add(s.Mul(z, std), mean)
}

func (n *Net) channels(s *ops.Scope, v []float64, d ops.DType) torch.Tensor {
	return s.To(ops.From(s, v, 1, int64(len(v)), 1, 1), d)
}

// wide returns x in float32 where it is in less.
func wide(s *ops.Scope, x torch.Tensor) torch.Tensor {
	if s.Err() == nil && ops.Defined(x) && x.Dtype() != ops.Float64 {
		return s.To(x, ops.Float32)
	}
	return x
}

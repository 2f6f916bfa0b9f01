package ops

// #include "csrc/fusednorm.h"
import "C"

import (
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
	F "github.com/wangkuiyi/gotorch/nn/functional"
)

// Legend: N samples, C channels, H W height and width.

// Norm is a batch norm's state: weight, bias, running mean and running variance, all [C].
type Norm struct {
	Weight, Bias, Mean, Var torch.Tensor
}

// Constants of batch norm, PyTorch's defaults.
const (
	normMomentum = 0.1
	normEps      = 1e-5
)

// BatchNorm normalises x [N C H W] over N, H and W (Ioffe & Szegedy, 2015). When training it uses the batch's own
// statistics and moves the running ones in place, else the running ones.
func (s *Scope) BatchNorm(x torch.Tensor, n Norm, training bool) torch.Tensor {
	if y, ok := s.fusedNorm(x, n, torch.Tensor{}, training, false); ok {
		return y
	}
	return s.libraryBatchNorm(x, n, training)
}

// BatchNormReLU returns max(BatchNorm(x) + residual, 0), or max(BatchNorm(x), 0) where residual is not defined. On a CPU and
// for float32 that lies N H W C it is one operation, whose numbers are those of the three, bit for bit.
func (s *Scope) BatchNormReLU(x torch.Tensor, n Norm, residual torch.Tensor, training bool) torch.Tensor {
	if y, ok := s.fusedNorm(x, n, residual, training, true); ok {
		return y
	}
	y := s.BatchNorm(x, n, training)
	if Defined(residual) {
		y = s.AddInPlace(y, residual)
	}
	return s.ReLUInPlace(y)
}

func (s *Scope) libraryBatchNorm(x torch.Tensor, n Norm, training bool) torch.Tensor {
	return s.viaGotorch("batch_norm", []torch.Tensor{x, n.Weight, n.Bias, n.Mean, n.Var}, func() torch.Tensor {
		return F.BatchNorm(x, n.Mean, n.Var, n.Weight, n.Bias, training, normMomentum, normEps)
	})
}

// fusedNorm is our own batch norm with what follows it. ok is false where it leaves the work to others.
func (s *Scope) fusedNorm(x torch.Tensor, n Norm, residual torch.Tensor, training, rectify bool) (y torch.Tensor, ok bool) {
	inputs := []torch.Tensor{x, n.Weight, n.Bias, n.Mean, n.Var}
	if s.err != nil || !s.device.IsCPU() {
		return torch.Tensor{}, false
	}
	for _, t := range inputs {
		if !Defined(t) {
			return torch.Tensor{}, false
		}
	}
	rule := C.mp_norm_rule{
		weight: handle(n.Weight), bias: handle(n.Bias), mean: handle(n.Mean), variance: handle(n.Var),
		momentum: normMomentum, eps: normEps, training: C.int32_t(truth(training)), rectify: C.int32_t(truth(rectify)),
	}
	message := s.message()
	var made C.mp_tensor
	status := C.mp_fused_norm(handle(x), &rule, handle(residual), &made, &message[0])
	runtime.KeepAlive(inputs)
	runtime.KeepAlive(residual)
	if status != C.MP_OK {
		s.Fail(check(status, fmt.Sprint("batch norm ", shapes(inputs)), message))
		return torch.Tensor{}, true
	}
	if made == nil {
		return torch.Tensor{}, false
	}
	return s.own(adopt(made)), true
}

package ops

// #include "csrc/attack.h"
import "C"

import (
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// Uniform returns numbers in [-1, 1) in the shape, dtype and layout of like [N ...]. keys has one entry a sample: the numbers
// depend on a sample's key and on the position in the sample alone, on no worker, batch or device.
func (s *Scope) Uniform(like torch.Tensor, keys []uint64) torch.Tensor {
	return s.noise("uniform", like, keys, C.MP_UNIFORM)
}

// Normal returns standard normal numbers, keyed as Uniform's.
func (s *Scope) Normal(like torch.Tensor, keys []uint64) torch.Tensor {
	return s.noise("normal", like, keys, C.MP_NORMAL)
}

func (s *Scope) noise(name string, like torch.Tensor, keys []uint64, kind C.int) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if !Defined(like) || len(keys) == 0 {
		s.Fail(fmt.Errorf("%s: %d keys, input %s", name, len(keys), shapes([]torch.Tensor{like})))
		return torch.Tensor{}
	}
	message := s.message()
	var t C.mp_tensor
	status := C.mp_noise(handle(like), (*C.uint64_t)(&keys[0]), C.int(len(keys)), kind, &t, &message[0])
	runtime.KeepAlive(like)
	if status != C.MP_OK {
		s.Fail(check(status, name, message))
		return torch.Tensor{}
	}
	return s.own(adopt(t))
}

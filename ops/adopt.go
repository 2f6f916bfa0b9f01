package ops

import torch "github.com/wangkuiyi/gotorch"

// Adopt makes s the owner of a tensor that no scope owns, such as one that Release gave.
func (s *Scope) Adopt(t torch.Tensor) torch.Tensor { return s.own(t) }

package ops

import torch "github.com/wangkuiyi/gotorch"

// Sign returns -1, 0 or 1.
func (s *Scope) Sign(x torch.Tensor) torch.Tensor { return s.call("sign", x) }

// Abs returns |x|.
func (s *Scope) Abs(x torch.Tensor) torch.Tensor { return s.call("abs", x) }

// Div returns a / b element by element, broadcast.
func (s *Scope) Div(a, b torch.Tensor) torch.Tensor { return s.call("div.Tensor", a, b) }

// Sqrt returns the square root.
func (s *Scope) Sqrt(x torch.Tensor) torch.Tensor { return s.call("sqrt", x) }

// Tanh returns the hyperbolic tangent.
func (s *Scope) Tanh(x torch.Tensor) torch.Tensor { return s.call("tanh", x) }

// Atanh returns the inverse hyperbolic tangent of x in (-1, 1).
func (s *Scope) Atanh(x torch.Tensor) torch.Tensor { return s.call("atanh", x) }

package attack_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/attack/attacktest"
	"mp/ops"
)

// cases are all attacks at a size that a test can afford, with every norm and goal that they have.
func cases(t *testing.T) []attacktest.Case {
	t.Helper()
	var out []attacktest.Case
	for _, name := range attack.Names() {
		o, err := attack.Defaults(name)
		if err != nil {
			t.Fatal(err)
		}
		o.Steps = min(o.Steps, 8)
		if name == "square" {
			o.Steps = 60
		}
		if name == "cw" {
			o.Steps, o.StepSize = 30, .05
		}
		if name == "autoattack" {
			o.Steps = 4
		}
		o.Classes = min(o.Classes, 3)
		if o.Norm == attack.L2 {
			o.Eps = 3
		} else if name != "course" {
			o.Eps, o.StepSize = .1, o.StepSize*255/8*.1
		}
		for _, norm := range []attack.Norm{attack.Linf, attack.L2} {
			for _, goal := range []attack.Goal{attack.Untargeted, attack.LeastLikely, attack.Given} {
				if goal == attack.LeastLikely && name != "pgd" && name != "apgd-ce" { // the others come to it by the same way
					continue
				}
				c := attacktest.Case{Name: name, Options: o, Outside: name == "course"}
				c.Options.Norm, c.Options.Goal = norm, goal
				if norm == attack.L2 && o.Norm == attack.Linf {
					c.Options.Eps, c.Options.StepSize = 3, 0
				}
				if name == "nfgsm" {
					c.Reach = 3
				}
				if _, err := attack.New(name, c.Options); err == nil {
					out = append(out, c)
				}
			}
		}
	}
	return out
}

func TestConformance(t *testing.T) {
	for _, c := range cases(t) {
		t.Run(c.Name+" "+c.Options.Norm.String()+" "+c.Options.Goal.String(), func(t *testing.T) { attacktest.Run(t, c) })
	}
}

// linear is a network whose loss has one slope everywhere: what the best attack is, can be said.
func linear(weights []float64) *attack.Net {
	return &attack.Net{Forward: func(s *ops.Scope, z torch.Tensor) torch.Tensor {
		n := z.Shape()[0]
		w := s.To(ops.From(s, weights, int64(len(weights)), 1), z.Dtype())
		y := s.MatMul(s.Reshape(s.Contiguous(z), n, int64(len(weights))), w) // [N 1]
		zero := s.Scale(y, 0)
		up := s.To(ops.From(s, []float64{1, -1, 0, 0}, 1, 4), z.Dtype())
		return s.Offset(s.Mul(s.Add(y, zero), up), 0)
	}}
}

// On a linear network every attack in l-infinity must end at the corner of the ball, and none may do better.
func TestAscentReachesTheCorner(t *testing.T) {
	attacktest.Device(t, func(s *ops.Scope) error {
		const n = 3 * 4 * 4
		weights, x := make([]float64, n), make([]float64, n)
		for i := range weights {
			weights[i], x[i] = math.Sin(float64(3*i+1)), .5+.5*math.Cos(float64(i))
		}
		for _, name := range []string{"fgsm", "bim", "pgd", "mifgsm", "eotpgd", "apgd-ce", "apgd-dlr"} {
			o, err := attack.Defaults(name)
			if err != nil {
				return err
			}
			o.Eps, o.StepSize, o.Leave, o.Steps = .05, 0, false, 20
			if name == "apgd-dlr" { // whose loss is flat in this network
				continue
			}
			a, err := attack.New(name, o)
			if err != nil {
				return err
			}
			res, err := a.Perturb(context.Background(), s, linear(weights), attack.Batch{X: ops.From(s, x, 1, 3, 4, 4), Labels: []int64{0}, Keys: []uint64{5}})
			if err != nil {
				return err
			}
			far := 0.0
			for i, v := range ops.Values[float64](s, res.X) {
				want := min(max(x[i]-.05*sign(weights[i]), 0), 1)
				far = max(far, math.Abs(v-want))
			}
			if !(far <= 1e-9) {
				t.Errorf("%s ends %g from the corner that is best", name, far)
			}
		}
		return s.Err()
	})
}

func sign(v float64) float64 {
	if v < 0 {
		return -1
	}
	return 1
}

// outcome is how many samples are fooled, and the mean loss of their labels.
func outcome(s *ops.Scope, v attack.Victim, x torch.Tensor, labels []int64) (fooled int, loss float64) {
	s.NoGrad(func() {
		logits := v.Logits(s, x)
		loss = s.Item(s.CrossEntropy(logits, ops.From(s, labels, int64(len(labels))), 0, ops.ReduceMean))
		_, at := s.TopK(logits, 1)
		for i, k := range ops.Values[int64](s, at) {
			if k != labels[i] {
				fooled++
			}
		}
	})
	return fooled, loss
}

func perturb(t *testing.T, s *ops.Scope, v attack.Victim, b attack.Batch, c attacktest.Case) torch.Tensor {
	t.Helper()
	a, err := attack.New(c.Name, c.Options)
	if err != nil {
		t.Fatal(err)
	}
	res, err := a.Perturb(context.Background(), s, v, b)
	if err != nil {
		t.Fatal(err)
	}
	return res.X
}

func onNetwork(t *testing.T, f func(s *ops.Scope, v *attack.Net, b attack.Batch)) {
	t.Helper()
	attacktest.Device(t, func(s *ops.Scope) error {
		n, err := attacktest.NewNetwork(s, ops.Float64)
		if err != nil {
			return err
		}
		defer n.Free()
		f(s, n.Net(0), n.Batch(s))
		return s.Err()
	})
}

// What must not get worse: the loss with an attack, with more restarts, with a greater ball of one step's start; the verdict
// with samples that leave.
func TestMoreIsNotLess(t *testing.T) {
	onNetwork(t, func(s *ops.Scope, v *attack.Net, b attack.Batch) {
		_, clean := outcome(s, v, b.X, b.Labels)
		base := attack.Options{Eps: .02, Steps: 5, Start: attack.StartUniform}
		last := clean
		for _, restarts := range []int{1, 2, 4} {
			o := base
			o.Restarts = restarts
			_, loss := outcome(s, v, perturb(t, s, v, b, attacktest.Case{Name: "pgd", Options: o}), b.Labels)
			if !(loss >= last) {
				t.Errorf("pgd with %d restarts reaches a loss of %g, with fewer %g", restarts, loss, last)
			}
			last = loss
		}
		for _, name := range []string{"pgd", "bim"} {
			o := attack.Options{Eps: .01, Steps: 10}
			stay, _ := outcome(s, v, perturb(t, s, v, b, attacktest.Case{Name: name, Options: o}), b.Labels)
			o.Leave = true
			leave, _ := outcome(s, v, perturb(t, s, v, b, attacktest.Case{Name: name, Options: o}), b.Labels)
			if leave < stay {
				t.Errorf("%s fools %d samples, %d when they leave early", name, stay, leave)
			}
		}
		apgd := attack.Options{Eps: .02, Steps: 30}
		_, loss := outcome(s, v, perturb(t, s, v, b, attacktest.Case{Name: "apgd-ce", Options: apgd}), b.Labels)
		if !(loss >= .98*last) {
			t.Errorf("apgd-ce with 30 steps reaches a loss of %g, pgd with 5 and 4 restarts %g", loss, last)
		}
	})
}

// Each attack must fool what can be fooled: the network's margin is far below what these radii move.
func TestAttacksFool(t *testing.T) {
	onNetwork(t, func(s *ops.Scope, v *attack.Net, b attack.Batch) {
		for _, c := range cases(t) {
			aimed := c.Options.Goal == attack.LeastLikely
			if c.Name == "course" || c.Options.Goal != attack.Untargeted && !aimed {
				continue
			}
			if c.Options.StepSize > 0 && c.Name != "cw" {
				c.Options.StepSize = 0
			}
			c.Options.Steps = max(c.Options.Steps, 20)
			want := len(b.Labels) - 1
			if strings.Contains(c.Name, "fgsm") || c.Name == "square" {
				want = 4 // one step, steps against another view, no gradient
			}
			if fooled, _ := outcome(s, v, perturb(t, s, v, b, c), b.Labels); fooled < want {
				t.Errorf("%s %s %s fools %d of %d samples, want %d", c.Name, c.Options.Norm, c.Options.Goal, fooled, len(b.Labels), want)
			}
		}
	})
}

// The course's variants differ only in what they say: the least confident label's loss falls, the mistake's rises.
func TestCourseDirection(t *testing.T) {
	onNetwork(t, func(s *ops.Scope, v *attack.Net, b attack.Batch) {
		var lowest []int64
		s.NoGrad(func() {
			_, at := s.TopK(s.Scale(v.Logits(s, b.X), -1), 1)
			lowest = ops.Values[int64](s, at)
		})
		_, before := outcome(s, v, b.X, lowest)
		o := attack.Options{Eps: .1, Steps: 10, StepSize: .01, Fixed: true}
		_, right := outcome(s, v, perturb(t, s, v, b, attacktest.Case{Name: "course", Options: o}), lowest)
		o.Ascend = true
		_, mistake := outcome(s, v, perturb(t, s, v, b, attacktest.Case{Name: "course", Options: o}), lowest)
		if !(right < before && mistake > before) {
			t.Errorf("the loss of the least confident label is %g, after the attack %g (want less), after the mistake %g (want more)", before, right, mistake)
		}
	})
}

func TestOtherKeysOtherStarts(t *testing.T) {
	onNetwork(t, func(s *ops.Scope, v *attack.Net, b attack.Batch) {
		c := attacktest.Case{Name: "fgsm-rs", Options: attack.Options{Eps: .02, Steps: 1, StepSize: .005, Start: attack.StartUniform}}
		one := ops.Values[float64](s, perturb(t, s, v, b, c))
		b.Keys = attack.Keys(1, 3, make([]int32, len(b.Labels)))
		two := ops.Values[float64](s, perturb(t, s, v, b, c))
		same := 0
		for i := range one {
			if one[i] == two[i] {
				same++
			}
		}
		if same > len(one)*9/10 {
			t.Errorf("%d of %d values are the same with other keys", same, len(one))
		}
	})
}

func TestAutoAttackWarns(t *testing.T) {
	onNetwork(t, func(s *ops.Scope, v *attack.Net, b attack.Batch) {
		o := attack.Options{Eps: .05, Steps: 4, Classes: 2, Leave: true}
		facts := func(v attack.Victim) attack.Facts {
			a, err := attack.New("autoattack", o)
			if err != nil {
				t.Fatal(err)
			}
			res, err := a.Perturb(context.Background(), s, v, b)
			if err != nil {
				t.Fatal(err)
			}
			return res.Facts
		}
		if w := facts(v).Warnings(); len(w) > 0 {
			t.Errorf("an ordinary network is warned of: %q", w)
		}
		calls := uint64(0)
		inner := *v
		for _, c := range []struct {
			word    string
			forward func(s *ops.Scope, z torch.Tensor) torch.Tensor
		}{
			{"randomised", func(s *ops.Scope, z torch.Tensor) torch.Tensor {
				y := inner.Forward(s, z)
				calls++
				keys := make([]uint64, y.Shape()[0])
				for i := range keys {
					keys[i] = calls
				}
				return s.Add(y, s.Uniform(y, keys))
			}},
			{"probabilities", func(s *ops.Scope, z torch.Tensor) torch.Tensor { return s.Softmax(inner.Forward(s, z), 1) }},
			{"zero gradients", func(s *ops.Scope, z torch.Tensor) torch.Tensor { return inner.Forward(s, staircase(s, z)) }},
			{"gradient masking", func(s *ops.Scope, z torch.Tensor) torch.Tensor { return inner.Forward(s, staircase(s, z)) }},
		} {
			w := strings.Join(facts(&attack.Net{Mean: v.Mean, Std: v.Std, Forward: c.forward}).Warnings(), "; ")
			if !strings.Contains(w, c.word) {
				t.Errorf("warnings %q, want one of %s", w, c.word)
			}
		}
	})
}

// staircase keeps every value's place and takes its slope away: the sign of the value times 0.02 of whole steps.
func staircase(s *ops.Scope, z torch.Tensor) torch.Tensor {
	zero := s.Scale(z, 0)
	out := zero
	for _, edge := range []float64{-1.6, -1.2, -.8, -.4, 0, .4, .8, 1.2, 1.6} {
		step := s.Scale(s.Sign(s.Offset(z, -edge)), .2)
		out = s.Add(out, step)
	}
	return out
}

func TestNewSaysWhatItCannot(t *testing.T) {
	for _, c := range []struct {
		name string
		o    attack.Options
		want string
	}{
		{"pdg", attack.Options{}, "no attack"},
		{"course", attack.Options{Eps: .1, Steps: 1, Norm: attack.L2}, "no l2 norm"},
		{"apgd-t", attack.Options{Eps: .1, Steps: 1, Goal: attack.Given}, "cannot be targeted"},
		{"pgd", attack.Options{Eps: .1, Steps: 1, Goal: attack.Given, Loss: attack.KL}, "no target"},
	} {
		if _, err := attack.New(c.name, c.o); !errors.Is(err, attack.ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one about %q", c.name, err, c.want)
		}
	}
}

package devicecheck

import (
	"context"
	"fmt"
	"math"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/explain"
	"mp/model"
	"mp/ops"
)

// A network under attack is small, so that the CPU keeps up.
const (
	attackedArch = "simplenet"
	attackedSide = 32
)

// attacks makes every attack in float32 on the device and in float64 on the CPU, on the same images with the same keys, and
// compares how great the loss becomes, as the CPU's float64 network sees it. Rounding flips the sign of a few gradients, so
// the images themselves are not the same. An image outside its ball counts as trouble.
func (c *check) attacks(ctx context.Context) error {
	for _, name := range attack.Names() {
		o, err := attack.Defaults(name)
		if err != nil {
			return err
		}
		o.Steps, o.Restarts, o.Classes, o.Leave = min(o.Steps, 8), min(o.Restarts, 2), min(o.Classes, 3), false
		want, err := c.attacked(ctx, c.Host, ops.Float64, name, o)
		if err != nil {
			return fmt.Errorf("attack by %s on the CPU: %w", name, err)
		}
		limit := .02
		if strings.HasPrefix(name, "apgd") || name == "autoattack" { // they halve their steps where the loss, to the last bit, says so
			limit = .1
		}
		err = c.hold(ctx, "attacks, float32", name, limit, func() (float64, error) {
			got, err := c.attacked(ctx, c.Device, ops.Float32, name, o)
			return math.Abs(got-want) / want, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// attacked returns the CPU's loss of what an attack makes of the images on a device.
func (c *check) attacked(ctx context.Context, d *ops.Device, dtype ops.DType, name string, o attack.Options) (float64, error) {
	a, err := attack.New(name, o)
	if err != nil {
		return 0, err
	}
	var changed []float64
	err = withVictim(ctx, d, dtype, func(s *ops.Scope, v *attack.Net) error {
		b := attack.Batch{X: pictures(s, dtype), Labels: make([]int64, samples), Keys: attack.Keys(1, 2, []int32{0, 1, 2, 3})}
		for i := range b.Labels {
			b.Labels[i] = int64(3 * i)
		}
		found, err := a.Perturb(ctx, s, v, b)
		if err != nil {
			return err
		}
		changed = ops.Values[float64](s, found.X)
		if d == c.Device {
			c.keep(s, "attacks/"+name, found.X)
			c.keep(s, "attacked", b.X)
		}
		return s.Err()
	})
	if err != nil {
		return 0, err
	}
	var loss float64
	err = withVictim(ctx, c.Host, ops.Float64, func(s *ops.Scope, v *attack.Net) error {
		clean := ops.Values[float64](s, pictures(s, ops.Float64))
		if err := inBall(changed, clean, name, o); err != nil {
			return err
		}
		x := ops.From(s, changed, samples, 3, attackedSide, attackedSide)
		s.NoGrad(func() {
			loss = s.Item(s.CrossEntropy(v.Logits(s, x), ops.From(s, []int64{0, 3, 6, 9}, samples), 0, ops.ReduceMean))
		})
		return s.Err()
	})
	return loss, err
}

// inBall says whether an attack has kept to its radius. The course's is in normalised units, and nfgsm leaves the ball.
func inBall(changed, clean []float64, name string, o attack.Options) error {
	if name == "course" || name == "nfgsm" {
		return nil
	}
	for i, n := 0, len(clean)/samples; i < samples; i++ {
		far, square := 0.0, 0.0
		for j := i * n; j < (i+1)*n; j++ {
			d := math.Abs(changed[j] - clean[j])
			far, square = max(far, d), square+d*d
		}
		if o.Norm == attack.L2 {
			far = math.Sqrt(square)
		}
		if !(far <= o.Eps*1.0001+1e-6) {
			return fmt.Errorf("image %d was moved by %g, beyond %g", i, far, o.Eps)
		}
	}
	return nil
}

// pictures are images [N 3 S S] in [0, 1].
func pictures(s *ops.Scope, d ops.DType) torch.Tensor {
	return s.Offset(s.Scale(tensor(s, "pictures", d, samples, 3, attackedSide, attackedSide), .4), .5)
}

// withVictim runs f with the network that is attacked and explained.
func withVictim(ctx context.Context, d *ops.Device, dtype ops.DType, f func(*ops.Scope, *attack.Net) error) error {
	return withModel(ctx, d, attackedArch, model.Options{DType: dtype}, func(s *ops.Scope, m *model.Model) error {
		return f(s, &attack.Net{Mean: []float64{.5, .4, .6}, Std: []float64{.25, .2, .3}, Forward: func(s *ops.Scope, z torch.Tensor) torch.Tensor {
			return m.Forward(s, z, model.Mode{})
		}})
	})
}

// explanations makes every explanation in float32 on the device and in float64 on the CPU.
func (c *check) explanations(ctx context.Context) error {
	settings := explain.DefaultConfig()
	settings.Samples, settings.Steps, settings.Masks = 3, 5, 20
	for _, e := range explain.Methods() {
		arch := attackedArch
		if e.Name == "rollout" {
			arch = dropsPaths
		}
		method := e.New(settings)
		want, err := explained(ctx, c.Host, arch, ops.Float64, method)
		if err != nil {
			return fmt.Errorf("explain by %s on the CPU: %w", e.Name, err)
		}
		err = c.hold(ctx, "explanations, float32", e.Name, 2e-2, func() (float64, error) {
			got, err := explained(ctx, c.Device, arch, ops.Float32, method)
			return distance(got, want), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func explained(ctx context.Context, d *ops.Device, arch string, dtype ops.DType, method explain.Method) (out []float64, err error) {
	err = withModel(ctx, d, arch, model.Options{DType: dtype}, func(s *ops.Scope, m *model.Model) error {
		n, size := seen{m}, int64(attackedSide)
		if n.Traits().Attention {
			size = side
		}
		if err := method.Check(n); err != nil {
			return err
		}
		x := tensor(s, "explained", dtype, 2, 3, size, size)
		out = ops.Values[float64](s, method.Attribute(s, n, explain.Batch{Images: x, Labels: []int64{3, 4}, Keys: []uint64{5, 6}}))
		return s.Err()
	})
	return out, err
}

// seen is a network as explanations see it.
type seen struct{ m *model.Model }

func (n seen) Logits(s *ops.Scope, x torch.Tensor, p *explain.Probe) torch.Tensor {
	return n.m.Forward(s, x, model.Mode{Probe: (*model.Probe)(p)})
}
func (n seen) Layers() []string { return n.m.Layers() }
func (n seen) Traits() explain.Traits {
	attends := n.m.Arch == dropsPaths
	return explain.Traits{Rectifiers: !attends, Attention: attends}
}

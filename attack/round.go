package attack

import (
	"context"
	"fmt"
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// round is a batch, or some of its samples, under one attack.
type round struct {
	ctx     context.Context
	v       Victim
	x       torch.Tensor // [N C H W]: the clean images, float32 or float64
	labels  []int64
	targets []int64 // nil: any class but the label
	rivals  []int64 // nil, or the classes towards which an untargeted attack goes
	keys    []uint64
	queries []int
	rows    []int  // where its samples are in the batch that it was taken of
	whole   *round // that batch, nil for the whole
	own     slot   // x, where it was taken of a batch
}

// begin checks a batch.
func begin(ctx context.Context, s *ops.Scope, v Victim, b Batch, g Goal) (*round, error) {
	info, err := ops.Describe(b.X)
	if err != nil {
		return nil, fmt.Errorf("attack: %w", err)
	}
	n := len(b.Labels)
	if len(info.Shape) != 4 || info.Shape[0] != int64(n) || n == 0 {
		return nil, fmt.Errorf("attack: images of shape %v with %d labels, want [N C H W] and N of at least 1: %w", info.Shape, n, ErrConfig)
	}
	if b.Keys != nil && len(b.Keys) != n || b.Targets != nil && len(b.Targets) != n {
		return nil, fmt.Errorf("attack: %d keys and %d targets for %d images: %w", len(b.Keys), len(b.Targets), n, ErrConfig)
	}
	r := &round{ctx: ctx, v: v, x: wide(s, b.X), labels: b.Labels, keys: b.Keys, queries: make([]int, n)}
	if r.keys == nil {
		r.keys = make([]uint64, n)
	}
	switch g {
	case Given:
		if b.Targets == nil {
			return nil, fmt.Errorf("attack: targeted without targets: %w", ErrConfig)
		}
		r.targets = b.Targets
	case LeastLikely:
		logits := r.see(s, r.x)
		r.targets = make([]int64, n)
		for i, row := range logits {
			r.targets[i] = int64(least(row))
		}
	}
	return r, s.Err()
}

// take returns the samples rows, as positions in r. Free it.
func (r *round) take(s *ops.Scope, rows []int) *round {
	t := &round{ctx: r.ctx, v: r.v, rows: rows, whole: r, queries: make([]int, len(rows))}
	t.own.set(s, pick(s, r.x, rows))
	t.x = t.own.t
	for _, i := range rows {
		t.labels, t.keys = append(t.labels, r.labels[i]), append(t.keys, r.keys[i])
		if r.targets != nil {
			t.targets = append(t.targets, r.targets[i])
		}
		if r.rivals != nil {
			t.rivals = append(t.rivals, r.rivals[i])
		}
	}
	return t
}

func (r *round) free() { r.own.free() }

// count says that the victim has seen every sample of the round once more.
func (r *round) count() {
	for i := range r.queries {
		r.queries[i]++
		for at, w := i, r; w.whole != nil; w = w.whole {
			at = w.rows[at]
			w.whole.queries[at]++
		}
	}
}

// halted is ctx's error or the scope's.
func (r *round) halted(s *ops.Scope) error {
	if err := r.ctx.Err(); err != nil {
		s.Fail(err)
	}
	return s.Err()
}

// see returns the logits of x as rows of K numbers, without a gradient.
func (r *round) see(s *ops.Scope, x torch.Tensor) [][]float64 {
	if r.halted(s) != nil {
		return nil
	}
	r.count()
	c := s.Child()
	defer c.Close()
	var out [][]float64
	c.NoGrad(func() { out = r.host(c, r.v.Logits(c, x)) })
	return out
}

// host reads logits [N K] and refuses what is no number and labels that are no class.
func (r *round) host(s *ops.Scope, logits torch.Tensor) [][]float64 {
	flat := ops.Values[float64](s, logits)
	if s.Err() != nil {
		return nil
	}
	n := len(r.labels)
	if len(flat) == 0 || len(flat)%n != 0 {
		s.Fail(fmt.Errorf("attack: the network gives %d logits for %d images", len(flat), n))
		return nil
	}
	k := len(flat) / n
	out := make([][]float64, n)
	for i := range out {
		out[i] = flat[i*k : (i+1)*k]
		for _, v := range out[i] {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				s.Fail(fmt.Errorf("attack: a logit of sample %d is %v", i, v))
				return nil
			}
		}
		if l := r.labels[i]; l < 0 || l >= int64(k) || r.targets != nil && (r.targets[i] < 0 || r.targets[i] >= int64(k)) {
			s.Fail(fmt.Errorf("attack: sample %d has class %d or a target that none of the network's %d classes is: %w", i, l, k, ErrConfig))
			return nil
		}
	}
	return out
}

// fooled says whether sample i's logits are a success.
func (r *round) fooled(i int, row []float64) bool {
	if r.targets != nil {
		return int64(best(row)) == r.targets[i]
	}
	return int64(best(row)) != r.labels[i]
}

// sight is what a gradient attack learns at a point. The tensors belong to the scope that look was given.
type sight struct {
	grad   torch.Tensor // [N C H W] of the sum of the scores: each image's is its own alone
	logits torch.Tensor // [N K]
	score  torch.Tensor // [N]
}

// look returns the scores at x and their gradient, which is computed for x and nothing else.
func (r *round) look(s *ops.Scope, x torch.Tensor, score scorer) sight {
	if r.halted(s) != nil {
		return sight{}
	}
	r.count()
	c := s.Child()
	defer c.Close()
	leaf := c.Leaf(x)
	logits := r.v.Logits(c, leaf)
	scores := score(c, logits)
	grad := c.Grad(c.Sum(scores), leaf)[0]
	return sight{keep(s, c, grad), keep(s, c, logits), keep(s, c, scores)}
}

// keep moves a tensor from a child scope to its parent.
func keep(s, c *ops.Scope, t torch.Tensor) torch.Tensor {
	if c.Err() != nil {
		return torch.Tensor{}
	}
	return s.Adopt(c.Release(t))
}

// pick returns rows of x.
func pick(s *ops.Scope, x torch.Tensor, rows []int) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	return s.Rows(x, index(s, rows))
}

func index(s *ops.Scope, rows []int) torch.Tensor {
	v := make([]int64, len(rows))
	for i, r := range rows {
		v[i] = int64(r)
	}
	return ops.From(s, v, int64(len(v)))
}

// copyOf returns a tensor of its own with x's elements, which PutRows may overwrite.
func copyOf(s *ops.Scope, x torch.Tensor) torch.Tensor { return s.Scale(x, 1) }

// all are the positions 0 to n-1.
func all(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

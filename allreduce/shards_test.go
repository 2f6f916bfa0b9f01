package allreduce_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"mp/allreduce"
	"mp/allreduce/inproc"
)

// gradients draws shards' vectors as training has them: blocks of very different scale, most of it noise that differs from
// shard to shard.
func gradients(r *rand.Rand, shards, length int) [][]float32 {
	vectors := make([][]float32, shards)
	for s := range vectors {
		vectors[s] = make([]float32, length)
	}
	scale, mean := 1.0, 0.0
	for i := range length {
		if i%100 == 0 {
			scale = math.Exp(2*r.NormFloat64() - 6)
		}
		mean = scale * r.NormFloat64() / 3
		for s := range vectors {
			vectors[s][i] = float32((mean + scale*r.NormFloat64()) / float64(shards))
		}
	}
	return vectors
}

// deal gives every shard to a member by chance, in an order by chance.
func deal(r *rand.Rand, shards, members int) [][]int {
	dealt := make([][]int, members)
	for _, s := range r.Perm(shards) {
		m := r.IntN(members)
		dealt[m] = append(dealt[m], s)
	}
	return dealt
}

// sumOver lets members sum the shards dealt to them and returns everyone's result and error.
func sumOver(groups []allreduce.Group, dealt [][]int, vectors [][]float32, change func(member int, t *allreduce.Terms)) ([][]float32, []error) {
	outs, errs := make([][]float32, len(groups)), make([]error, len(groups))
	var wg sync.WaitGroup
	for m, g := range groups {
		terms := allreduce.Terms{Total: len(vectors), Shards: dealt[m]}
		for _, s := range dealt[m] {
			terms.Vectors = append(terms.Vectors, vectors[s])
		}
		if change != nil {
			change(m, &terms)
		}
		outs[m] = make([]float32, len(vectors[0]))
		wg.Go(func() { errs[m] = allreduce.SumShards(context.Background(), g, terms, outs[m]) })
	}
	wg.Wait()
	return outs, errs
}

// dumbSum is the sum in fixed point, without any loop that SumShards has.
func dumbSum(vectors [][]float32) []float32 {
	n := len(vectors[0])
	out := make([]float32, n)
	digits := 31 - bits.Len(uint(len(vectors)))
	for lo := 0; lo < n; lo += allreduce.Block {
		hi := min(lo+allreduce.Block, n)
		exponent := 32 - 126
		for _, v := range vectors {
			for _, x := range v[lo:hi] {
				if _, e := math.Frexp(float64(x)); x != 0 {
					exponent = max(exponent, e)
				}
			}
		}
		for i := lo; i < hi; i++ {
			var sum int64
			for _, v := range vectors {
				sum += int64(math.RoundToEven(math.Ldexp(float64(v[i]), digits-exponent)))
			}
			out[i] = float32(math.Ldexp(float64(sum), exponent-digits))
		}
	}
	return out
}

func equalBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

func TestSumDependsOnTheShardsAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, length := range []int{0, 1, 255, 256, 257, 5000} {
		for _, shards := range []int{1, 2, 3, 8, 23} {
			vectors := gradients(r, shards, length)
			if length > 0 { // extremes share blocks with gradients
				for _, v := range vectors {
					v[r.IntN(length)] = []float32{0, float32(math.Copysign(0, -1)), 1e-45, -1e-39, 1e30, -3e37 / float32(shards)}[r.IntN(6)]
				}
			}
			want := dumbSum(vectors)
			for members := 1; members <= 7; members++ {
				bucket := allreduce.Block * (1 + r.IntN(9))
				outs, errs := sumOver(inproc.New(members), deal(r, shards, members), vectors, func(_ int, t *allreduce.Terms) { t.Bucket = bucket })
				for m := range outs {
					if errs[m] != nil {
						t.Fatal(errs[m])
					}
					if !equalBits(outs[m], want) {
						t.Fatalf("%d shards of %d elements: member %d of %d has other bits than the plain sum", shards, length, m, members)
					}
				}
			}
		}
	}
}

func TestAccuracy(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, c := range []struct {
		shards, length int
		limit          float64 // of the error's root mean square beside the sum's
	}{{1, 1 << 14, 3e-8}, {4, 1 << 14, 6e-8}, {32, 1 << 12, 1e-7}, {1024, 1 << 9, 1e-6}, {4096, 1 << 9, 2e-6}} {
		vectors := gradients(r, c.shards, c.length)
		fixed := dumbSum(vectors)
		var fixedErr, floatErr, energy float64
		for i := range fixed {
			var exact float64
			var float float32
			for _, v := range vectors {
				exact += float64(v[i])
				float += v[i]
			}
			a, b := float64(fixed[i])-exact, float64(float)-exact
			fixedErr, floatErr, energy = fixedErr+a*a, floatErr+b*b, energy+exact*exact
		}
		got := math.Sqrt(fixedErr / energy)
		t.Logf("%4d shards: error against float64, root mean square relative to the sum's: fixed point %.1e, float32 in order %.1e",
			c.shards, got, math.Sqrt(floatErr/energy))
		if got > c.limit {
			t.Errorf("%d shards: relative error %.2g, want at most %.2g", c.shards, got, c.limit)
		}
	}
}

func TestSmallIntegersAreExact(t *testing.T) {
	const shards = 4096
	vectors := make([][]float32, shards)
	want := make([]uint64, 2*allreduce.Block)
	for s := range vectors {
		vectors[s] = make([]float32, len(want))
		for i := range want {
			limb := uint64(s*31+i*7) % 256
			vectors[s][i] = float32(limb)
			want[i] += limb
		}
	}
	outs, errs := sumOver(inproc.New(1), [][]int{slices.Collect(func(yield func(int) bool) {
		for s := range shards {
			yield(s)
		}
	})}, vectors, nil)
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	for i, w := range want {
		if uint64(outs[0][i]) != w {
			t.Fatalf("element %d is %g, want %d", i, outs[0][i], w)
		}
	}
}

func TestAValueThatIsNoNumber(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		r := rand.New(rand.NewPCG(7, 8))
		vectors := gradients(r, 6, 3000)
		vectors[4][2000], vectors[1][2001], vectors[5][2000] = bad, bad, bad
		for members := 1; members <= 4; members++ {
			groups, dealt := inproc.New(members), deal(r, 6, members)
			_, errs := sumOver(groups, dealt, vectors, func(_ int, t *allreduce.Terms) { t.Bucket = 2 * allreduce.Block })
			for m, err := range errs {
				var e *allreduce.NotFiniteError
				if !errors.As(err, &e) || !errors.Is(err, allreduce.ErrNotFinite) || e.Shard != 4 || e.Element != 2000 || !slices.Contains(dealt[e.Rank], 4) {
					t.Fatalf("member %d of %d got %v, want shard 4, element 2000, and its owner", m, members, err)
				}
			}
			vectors := gradients(r, 6, 10)
			if _, errs := sumOver(groups, dealt, vectors, nil); errors.Join(errs...) != nil {
				t.Fatalf("the next sum got %v", errors.Join(errs...))
			}
		}
	}
}

func TestASumAboveFloat32(t *testing.T) {
	vectors := [][]float32{make([]float32, 700), make([]float32, 700)}
	vectors[0][600], vectors[1][600] = math.MaxFloat32, math.MaxFloat32/2
	_, errs := sumOver(inproc.New(2), [][]int{{0}, {1}}, vectors, nil)
	for m, err := range errs {
		var e *allreduce.NotFiniteError
		if !errors.As(err, &e) || e.Rank != -1 || e.Element != 600 {
			t.Errorf("member %d got %v, want a sum at element 600 that exceeds float32", m, err)
		}
	}
}

func TestReadyIsAskedFromTheEnd(t *testing.T) {
	vectors := gradients(rand.New(rand.NewPCG(1, 1)), 2, 5*allreduce.Block+3)
	var asked []int
	_, errs := sumOver(inproc.New(2), [][]int{{0}, {1}}, vectors, func(m int, t *allreduce.Terms) {
		t.Bucket = 2 * allreduce.Block
		if m == 0 {
			t.Ready = func(_ context.Context, lo int) error {
				asked = append(asked, lo)
				return nil
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if want := []int{4 * allreduce.Block, 2 * allreduce.Block, 0}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

func TestReadyThatFailsBreaksTheGroup(t *testing.T) {
	broke := errors.New("backward broke")
	groups := inproc.New(2)
	vectors := gradients(rand.New(rand.NewPCG(1, 1)), 2, 3*allreduce.Block)
	_, errs := sumOver(groups, [][]int{{0}, {1}}, vectors, func(m int, t *allreduce.Terms) {
		t.Bucket = allreduce.Block
		if m == 0 {
			t.Ready = func(_ context.Context, lo int) error {
				if lo == 0 {
					return broke
				}
				return nil
			}
		}
	})
	if !errors.Is(errs[0], broke) {
		t.Errorf("the member got %v, want Ready's error", errs[0])
	}
	if !errors.Is(errs[1], allreduce.ErrBroken) {
		t.Errorf("the other got %v, want ErrBroken", errs[1])
	}
}

func TestACancelledSumIsAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	terms := allreduce.Terms{Total: 1, Shards: []int{0}, Vectors: [][]float32{make([]float32, 3*allreduce.Block)}, Bucket: allreduce.Block,
		Ready: func(ctx context.Context, lo int) error {
			if lo > 0 {
				return nil
			}
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}}
	g := inproc.New(1)[0]
	if err := allreduce.SumShards(ctx, g, terms, make([]float32, 3*allreduce.Block)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestTermsThatCannotBe(t *testing.T) {
	g := inproc.New(1)[0]
	for name, terms := range map[string]allreduce.Terms{
		"no shards in the step": {},
		"too many shards":       {Total: allreduce.MaxShards + 1},
		"more than all":         {Total: 1, Shards: []int{0, 1}, Vectors: [][]float32{make([]float32, 10), make([]float32, 10)}},
		"unnamed":               {Total: 1, Vectors: [][]float32{make([]float32, 10)}},
		"a length":              {Total: 1, Shards: []int{0}, Vectors: [][]float32{make([]float32, 9)}},
		"a bucket":              {Total: 1, Bucket: 100},
		"a residual":            {Total: 1, Residual: make([]float32, 5)},
		"a source and vectors":  {Total: 1, Shards: []int{0}, Source: &elsewhere{}, Vectors: [][]float32{make([]float32, 10)}},
		"a source's residual":   {Total: 1, Source: &elsewhere{}, Residual: make([]float32, 10)},
	} {
		if err := allreduce.SumShards(context.Background(), g, terms, make([]float32, 10)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := g.Sum(context.Background(), nil); err != nil {
		t.Errorf("the group got %v afterwards, want it whole", err)
	}
}

// meter counts the bytes that a member gives its group.
type meter struct {
	allreduce.Group
	sent int
}

func (m *meter) Sum(ctx context.Context, x []int32) error {
	m.sent += 4 * len(x)
	return m.Group.Sum(ctx, x)
}

func TestSixteenBits(t *testing.T) {
	const shards, members, length, steps = 6, 3, 40*allreduce.Block + 77, 50
	const short = 40 * allreduce.Block
	r := rand.New(rand.NewPCG(9, 9))
	dealt := deal(r, shards, members)
	groups := inproc.New(members)
	meters := make([]*meter, members)
	for m := range groups {
		meters[m] = &meter{Group: groups[m]}
		groups[m] = meters[m]
	}
	residuals := make([][]float32, members)
	for m := range residuals {
		residuals[m] = make([]float32, short)
	}
	vectors := gradients(r, shards, length)
	total, exact := make([]float64, length), make([]float64, length)
	var once, energy float64
	for step := range steps {
		for _, v := range vectors {
			for i := short; i < length; i++ {
				v[i] = float32(i % 100)
			}
		}
		outs, errs := sumOver(groups, dealt, vectors, func(m int, t *allreduce.Terms) { t.Residual, t.Bucket = residuals[m], 7*allreduce.Block })
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for i, x := range outs[0] {
			var want float64
			for _, v := range vectors {
				want += float64(v[i])
			}
			if i >= short && float64(x) != want {
				t.Fatalf("element %d behind the short ones is %g, want %g", i, x, want)
			}
			if step == 0 && i < short {
				once, energy = once+(float64(x)-want)*(float64(x)-want), energy+want*want
			}
			total[i] += float64(x)
			exact[i] += want
		}
		for m := range outs {
			if !equalBits(outs[m], outs[0]) {
				t.Fatalf("step %d: member %d has other bits than member 0", step, m)
			}
		}
	}
	var many, manyEnergy float64
	for i := range total[:short] {
		many += (total[i] - exact[i]) * (total[i] - exact[i])
		manyEnergy += exact[i] * exact[i]
	}
	first, all := math.Sqrt(once/energy), math.Sqrt(many/manyEnergy)
	t.Logf("%d members: relative error of one sum %.1e, of %d sums together %.1e; %d bytes instead of %d", members, first, steps, all, meters[0].sent/steps, 4*length)
	if first > 1e-3 || all > first/10 {
		t.Errorf("relative errors %.2g once and %.2g over %d sums: want at most 1e-3, and what is left out to come later", first, all, steps)
	}
	if want := 2*short + 4*(length-short); meters[0].sent != steps*want {
		t.Errorf("a sum took %d bytes, want %d", meters[0].sent/steps, want)
	}
}

// dumbShort is the sum in 16 bits, without any loop that SumShards has. It changes the members' residuals.
func dumbShort(residuals [][]float32, vectors [][][]float32) []float32 {
	n, digits := len(residuals[0]), 15-bits.Len(uint(len(residuals)))
	out := make([]float32, n)
	for m, r := range residuals {
		for _, v := range vectors[m] {
			for i := range r {
				r[i] += v[i]
			}
		}
	}
	for lo := 0; lo < n; lo += allreduce.Block {
		hi := min(lo+allreduce.Block, n)
		exponent := 32 - 126
		for _, r := range residuals {
			for _, x := range r[lo:hi] {
				if _, e := math.Frexp(float64(x)); x != 0 {
					exponent = max(exponent, e)
				}
			}
		}
		for i := lo; i < hi; i++ {
			var sum float64
			for _, r := range residuals {
				whole := math.RoundToEven(math.Ldexp(float64(r[i]), digits-exponent))
				sum += whole
				r[i] = float32(float64(r[i]) - math.Ldexp(whole, exponent-digits))
			}
			out[i] = float32(math.Ldexp(sum, exponent-digits))
		}
	}
	return out
}

func TestSixteenBitsAreThePlainSum(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for _, length := range []int{1, 2, 255, 256, 257, 511, 512, 513, 20*allreduce.Block + 33} {
		for members := 1; members <= 4; members++ {
			shards := 1 + r.IntN(6)
			dealt := deal(r, shards, members)
			residuals, dumb := make([][]float32, members), make([][]float32, members)
			for m := range members {
				residuals[m], dumb[m] = make([]float32, length), make([]float32, length)
			}
			groups := inproc.New(members)
			for step := range 3 {
				vectors := gradients(r, shards, length)
				brought := make([][][]float32, members)
				for m := range brought {
					for _, s := range dealt[m] {
						brought[m] = append(brought[m], vectors[s])
					}
				}
				want := dumbShort(dumb, brought)
				bucket := allreduce.Block * (1 + r.IntN(9))
				outs, errs := sumOver(groups, dealt, vectors, func(m int, t *allreduce.Terms) { t.Residual, t.Bucket = residuals[m], bucket })
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				for m := range outs {
					if !slices.Equal(outs[m], want) || !slices.Equal(residuals[m], dumb[m]) {
						t.Fatalf("%d elements, step %d: member %d of %d has another sum, or leaves out something else, than the plain sum", length, step, m, members)
					}
				}
			}
		}
	}
}

// FuzzPairs packs any float32s, one exponent for each block, and takes them apart.
func FuzzPairs(f *testing.F) {
	f.Add([]byte{}, 14)
	f.Add([]byte{0, 0, 128, 63, 0, 0, 0, 192, 255, 255, 127, 127}, 4)
	f.Fuzz(func(t *testing.T, b []byte, digits int) {
		digits = 4 + (digits%11+11)%11
		x := make([]float32, len(b)/4)
		for i := range x {
			if x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])); math.Abs(float64(x[i])) < math.MaxFloat32/2 {
				continue
			}
			x[i] = 1 // NaN, Inf, and what could round to it, never come this far
		}
		k := allreduce.Kernels{}.WithDefaults()
		e := make([]byte, (len(x)+allreduce.Block-1)/allreduce.Block)
		k.Exponents(e, x)
		pairs, left, got := make([]int32, allreduce.Pairs(len(x))), slices.Clone(x), make([]float32, len(x))
		k.Shorten(pairs, left, e, digits)
		k.Lengthen(got, pairs, e, digits)
		for i := range x {
			unit := math.Ldexp(1, max(int(e[i/allreduce.Block]), 32)-126-digits)
			if math.Abs(float64(left[i])) > unit/2 || got[i]+left[i] != x[i] {
				t.Fatalf("element %d of %d: %g became %g and leaves %g; a unit is %g", i, len(x), x[i], got[i], left[i], unit)
			}
		}
	})
}

func TestPlanIsARing(t *testing.T) {
	for _, size := range []int{2, 3, 4, 7, 16} {
		for _, length := range []int{0, 1, 10, 10007, 100_000} {
			for _, blocks := range []int{1, 3, 40} {
				checkPlan(t, size, length, blocks*allreduce.Block)
			}
		}
	}
}

// checkPlan plays a plan with sets of contributors in the place of sums.
func checkPlan(t *testing.T, size, length, piece int) {
	t.Helper()
	plan := func(rank int) allreduce.Plan {
		return allreduce.Plan{Rank: rank, Size: size, Length: length, Piece: piece}
	}
	p := plan(0)
	next := length // rounds go down, the segments of a round up
	for round := range p.Rounds() {
		covered, _ := p.Bounds(round, 0)
		begin := covered
		for s := range size {
			lo, hi := p.Bounds(round, s)
			if lo != covered || hi < lo || hi-lo > piece || lo < next && lo%allreduce.Block != 0 {
				t.Fatalf("segment %d of round %d is [%d, %d), the one before ends at %d", s, round, lo, hi, covered)
			}
			covered = hi
		}
		if covered != next {
			t.Fatalf("round %d ends at %d, want %d", round, covered, next)
		}
		next = begin
	}
	if next != 0 {
		t.Fatalf("segments begin at %d, want 0", next)
	}
	type place struct{ round, segment int }
	has := make([]map[place]uint32, size) // whose terms are in a member's segment
	for r := range has {
		has[r] = map[place]uint32{}
		for round := range p.Rounds() {
			for s := range size {
				has[r][place{round, s}] = 1 << r
			}
		}
	}
	steps := make([]int, p.Rounds()) // done
	for wave := range p.Waves() {
		first, last := p.UnderWay(wave)
		if last-first >= allreduce.MostUnderWay {
			t.Fatalf("rounds %d to %d are under way in wave %d", first, last, wave)
		}
		if b := p.Begins(wave); b >= 0 && (b != last || p.Start(b) != wave) {
			t.Fatalf("round %d begins with wave %d, %d is the last under way", b, wave, last)
		}
		for round := last; round >= first; round-- {
			step := wave - p.Start(round)
			if step != steps[round] {
				t.Fatalf("round %d is in step %d after %d", round, step, steps[round])
			}
			steps[round]++
			checkStep(t, plan, step,
				func(rank, segment int) uint32 { return has[rank][place{round, segment}] },
				func(rank, segment int, terms uint32) { has[rank][place{round, segment}] = terms })
		}
	}
	for r := range has {
		for at, terms := range has[r] {
			if terms != 1<<size-1 || steps[at.round] != p.Steps() {
				t.Fatalf("rank %d ends with terms %b in %+v after %d steps", r, terms, at, steps[at.round])
			}
		}
	}
}

// checkStep plays one step of one round.
func checkStep(t *testing.T, plan func(int) allreduce.Plan, step int, get func(rank, segment int) uint32, set func(rank, segment int, terms uint32)) {
	t.Helper()
	size := plan(0).Size
	sent := make([]uint32, size)
	for r := range size {
		sent[r] = get(r, plan(r).Send(step))
	}
	for r := range size {
		left := (r + size - 1) % size
		s := plan(r).Receive(step)
		if s != plan(left).Send(step) {
			t.Fatalf("step %d: rank %d sends segment %d, rank %d expects %d", step, left, plan(left).Send(step), r, s)
		}
		if plan(r).Gather(step) {
			if owner := plan(left).Owner(step); sent[left] != 1<<size-1 || step == size-1 && owner != left {
				t.Fatalf("step %d: rank %d gathers a segment of %b, completed by %d", step, r, sent[left], owner)
			}
			set(r, s, sent[left])
			continue
		}
		own := get(r, s)
		if own != 1<<r {
			t.Fatalf("step %d: rank %d adds terms to %b, which it did not make", step, r, own)
		}
		set(r, s, own|sent[left])
	}
}

func ExampleLateness() {
	// Member 2 came 3 s after the others: its left neighbour 1 was early by 3 s, and it was late for 0 by as much.
	fmt.Println(allreduce.Lateness([]time.Duration{-3 * time.Second, 0, 3 * time.Second}))
	// Output: [0s 0s 3s]
}

package worker

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"mp/allreduce"
	"mp/checkpoint"
	"mp/mppb"
)

// aSnapshot is a state of some megabytes.
func aSnapshot(at position) *snapshot {
	r := rand.New(rand.NewPCG(1, 2))
	tensor := func(name string, n int64) checkpoint.Tensor {
		data := make([]byte, 4*n)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		return checkpoint.Tensor{Name: name, DType: checkpoint.F32, Shape: []int64{n}, Data: data}
	}
	return &snapshot{
		at: at, last: tally{images: 12, top1: 3, loss: 77},
		epochs: []ledgerEntry{{Epoch: 0, From: 0, To: 6, Images: 45, Hash: 1 << 63}},
		best:   best{Score: Score{Images: 12, Top1: 25, Top5: 100, Loss: math.Inf(1)}, epoch: 1, update: 6, weights: []checkpoint.Tensor{tensor("a.weight", 200_000)}},
		state: &checkpoint.State{
			Meta:      checkpoint.Meta{Arch: "simplenet", Epoch: 1, Step: 6, Job: []byte(`{"seed":1}`)},
			Model:     []checkpoint.Tensor{tensor("a.weight", 200_000), tensor("empty", 0), tensor("odd", 3)},
			Optimizer: []checkpoint.Tensor{tensor("momentum.a.weight", 6_000_000), {Name: "step", DType: checkpoint.I64, Data: []byte{6, 0, 0, 0, 0, 0, 0, 0}}},
		},
	}
}

func bytesOfImage(t *testing.T, s *snapshot) []byte {
	t.Helper()
	i, err := newImage(s)
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for n := range i.parts() {
		all = append(all, i.part(n, make([]byte, mppb.PartBytes))...)
	}
	return all
}

func TestSnapshotsTravelUnchanged(t *testing.T) {
	s := aSnapshot(position{6, 1, 0})
	all := bytesOfImage(t, s)
	if again := bytesOfImage(t, aSnapshot(position{6, 1, 0})); !bytes.Equal(all, again) {
		t.Error("equal states are not equal bytes")
	}
	got, err := readImage(all)
	if err != nil {
		t.Fatal(err)
	}
	s.state.Model[1].Data, got.state.Model[1].Data = nil, nil // both empty
	if !reflect.DeepEqual(got, s) {
		t.Error("what arrives is not what was sent")
	}
	for _, n := range []int{0, 7, 8, 100, 2000, len(all) - 1} {
		if _, err := readImage(all[:n]); !errors.Is(err, errImage) {
			t.Errorf("cut to %d bytes: got %v, want errImage", n, err)
		}
	}
	if _, err := readImage(append(bytes.Clone(all), 1)); !errors.Is(err, errImage) {
		t.Errorf("a byte too many: got %v, want errImage", err)
	}
	huge := bytes.Clone(all)
	for i := range 8 {
		huge[i] = 0xff
	}
	if _, err := readImage(huge); !errors.Is(err, errImage) {
		t.Errorf("a header of 2^64-1 bytes: got %v, want errImage", err)
	}
}

// testGivers are donors of a test: each has a snapshot, and may change the parts that it sends.
type testGivers []testGiver

type testGiver struct {
	state  *snapshot
	change func(*mppb.StatePart) error
}

func (g testGivers) dial(m *mppb.Member) (mppb.PeerClient, func() error, error) {
	one := g[m.Worker]
	d := newDonor()
	if err := d.give("j", one.state); err != nil {
		return nil, nil, err
	}
	return servedBy{d, one.change}, func() error { return nil }, nil
}

type servedBy struct {
	donor  *donor
	change func(*mppb.StatePart) error
}

func (s servedBy) State(ctx context.Context, r *mppb.StateRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[mppb.StatePart], error) {
	h := &hand{}
	if s.change != nil {
		h.part = func(_ *hand, p *mppb.StatePart) error { return s.change(p) }
	}
	p := &pipe{ctx: ctx, hand: h, parts: make(chan *mppb.StatePart), end: make(chan error, 1)}
	go func() { p.end <- s.donor.State(r, pipeServer{pipe: p}) }()
	return p, nil
}

func (g testGivers) all() []giver {
	var out []giver
	for i := range g {
		out = append(out, giver{rank: i + 10, member: &mppb.Member{Worker: uint64(i), Name: "donor"}})
	}
	return out
}

func TestWhatDonorsMayDoWrong(t *testing.T) {
	at := position{6, 1, 0}
	right := aSnapshot(at)
	other := aSnapshot(at)
	other.state.Model[0].Data[5] ^= 1
	always := func(f func(*mppb.StatePart)) func(*mppb.StatePart) error {
		return func(p *mppb.StatePart) error { f(p); return nil }
	}
	for _, c := range []struct {
		name string
		bad  testGiver
		kind string
	}{
		{"a flipped bit", testGiver{right, always(func(p *mppb.StatePart) { p.Data[3] ^= 1 })}, allreduce.KindChecksum},
		{"a part cut short", testGiver{right, always(func(p *mppb.StatePart) { p.Data = p.Data[:9]; p.Crc32C = mppb.Checksum(p.Data) })}, allreduce.KindProtocol},
		{"another part", testGiver{right, always(func(p *mppb.StatePart) { p.Number++ })}, allreduce.KindProtocol},
		{"a state beyond all bounds", testGiver{right, always(func(p *mppb.StatePart) { p.Size = 1 << 62 })}, allreduce.KindProtocol},
		{"a broken stream", testGiver{right, func(*mppb.StatePart) error { return errors.New("reset") }}, allreduce.KindConnection},
	} {
		t.Run(c.name, func(t *testing.T) {
			var peer *allreduce.PeerError
			_, err := newDuplicate(at, func() {}).fetch(t.Context(), testGivers{c.bad}, "j", 3, testGivers{c.bad}.all())
			if !errors.As(err, &peer) || peer.Rank != 10 || peer.Kind != c.kind {
				t.Errorf("as the only donor: got %v, want rank 10 blamed for %q", err, c.kind)
			}
			g := testGivers{c.bad, {state: right}}
			got, err := newDuplicate(at, func() {}).fetch(t.Context(), g, "j", 3, g.all())
			if err != nil || got.at != at || !bytes.Equal(bytesOfImage(t, got), bytesOfImage(t, right)) {
				t.Errorf("beside a good one: %v", err)
			}
		})
	}
	t.Run("states that differ", func(t *testing.T) {
		g := testGivers{{state: right}, {state: other}}
		d := newDuplicate(at, func() {})
		got, err := d.fetch(t.Context(), g, "j", 3, g.all())
		if err != nil || !bytes.Equal(bytesOfImage(t, got), bytesOfImage(t, right)) {
			t.Errorf("the first donor's state does not arrive: %v", err)
		}
	})
	t.Run("of another update", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := testGivers{{state: right}}
		go cancel()
		if _, err := newDuplicate(position{7, 1, 0}, func() {}).fetch(ctx, g, "j", 3, g.all()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want it to wait until the view ends", err)
		}
	})
}

func TestWhatHasArrivedIsNotAskedForAgain(t *testing.T) {
	at := position{6, 1, 0}
	sent := map[uint32]int{}
	stop := errors.New("dies")
	first := testGivers{{aSnapshot(at), func(p *mppb.StatePart) error {
		if p.Number == 20 {
			return stop
		}
		sent[p.Number]++
		return nil
	}}}
	d := newDuplicate(at, func() {})
	if _, err := d.fetch(t.Context(), first, "j", 3, first.all()); err == nil || !strings.Contains(err.Error(), "dies") {
		t.Fatalf("got %v, want the donor's end", err)
	}
	if d.whole() || d.left == 0 {
		t.Fatal("nothing is left")
	}
	second := testGivers{{aSnapshot(at), func(p *mppb.StatePart) error { sent[p.Number]++; return nil }}}
	if _, err := d.fetch(t.Context(), second, "j", 4, second.all()); err != nil {
		t.Fatal(err)
	}
	for n, times := range sent {
		if times != 1 {
			t.Errorf("part %d was sent %d times", n, times)
		}
	}
	if len(sent) != len(d.state) {
		t.Errorf("%d parts were sent, the state has %d", len(sent), len(d.state))
	}
}

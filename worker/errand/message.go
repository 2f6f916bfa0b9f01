package errand

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

	"mp/mppb"
)

// Part is one piece of an errand: a batch, by the images' places in the pack.
type Part struct {
	Order    Order
	IDs      []int32
	Pictures Pictures
}

// message is a part as it travels.
func (p Part) message(number int) (*mppb.AttackPart, error) {
	order, err := json.Marshal(p.Order)
	if err != nil {
		return nil, fmt.Errorf("encode the attack %s: %w", p.Order.Attack, err)
	}
	return &mppb.AttackPart{
		Number: uint32(number), Order: order, Ids: p.IDs, Pictures: uint32(max(p.Pictures.First, 0)), AllPictures: p.Pictures.All,
	}, nil
}

// partOf is message's inverse.
func partOf(m *mppb.AttackPart) (Part, error) {
	p := Part{IDs: m.GetIds(), Pictures: Pictures{All: m.GetAllPictures(), First: int(m.GetPictures())}}
	if len(p.IDs) == 0 {
		return Part{}, fmt.Errorf("a part without images, or none at all")
	}
	if err := json.Unmarshal(m.Order, &p.Order); err != nil {
		return Part{}, fmt.Errorf("read what is to be done: %w", err)
	}
	return p, nil
}

// messages are what was found of a part, as it travels.
func (f Found) messages(number uint32) ([]*mppb.FromErrand, error) {
	facts, err := json.Marshal(f.Facts)
	if err != nil {
		return nil, fmt.Errorf("encode what was found: %w", err)
	}
	head := &mppb.AttackFound{
		Number: number, Clean: flat(f.Clean), After: flat(f.After), Linf: f.Linf, L2: f.L2, Queries: uint64(f.Queries), Facts: facts, Seconds: f.Seconds,
		ImageBytes: uint64(4 * len(f.Images)),
	}
	for _, i := range f.Kept {
		head.Kept = append(head.Kept, int32(i))
	}
	out := []*mppb.FromErrand{{Message: &mppb.FromErrand_Found{Found: head}}}
	if len(f.Images) == 0 {
		return out, nil
	}
	text := make([]byte, 0, 4*len(f.Images))
	for _, v := range f.Images {
		text = binary.LittleEndian.AppendUint32(text, math.Float32bits(v))
	}
	for _, p := range pieces(text) {
		out = append(out, &mppb.FromErrand{Message: &mppb.FromErrand_Images{Images: p}})
	}
	return out, nil
}

// foundOf reads what was found of a part of n images; its pictures follow.
func foundOf(m *mppb.AttackFound, n int) (Found, error) {
	f := Found{Linf: m.Linf, L2: m.L2, Queries: int(m.Queries), Seconds: m.Seconds}
	k := len(m.Clean) / n
	if k == 0 || len(m.Clean) != n*k || len(m.After) != n*k || len(f.Linf) != n || len(f.L2) != n {
		return f, fmt.Errorf("of %d images come %d and %d classes, %d and %d distances", n, len(m.Clean), len(m.After), len(f.Linf), len(f.L2))
	}
	f.Clean, f.After = rows(m.Clean, k), rows(m.After, k)
	for _, i := range m.Kept {
		if i < 0 || int(i) >= n {
			return f, fmt.Errorf("a picture of image %d of %d is announced", i, n)
		}
		f.Kept = append(f.Kept, int(i))
	}
	if m.ImageBytes != uint64(4*imageValues*len(f.Kept)) {
		return f, fmt.Errorf("%d pictures of %d bytes are announced", len(f.Kept), m.ImageBytes)
	}
	if err := json.Unmarshal(m.Facts, &f.Facts); err != nil {
		return f, fmt.Errorf("read what was found: %w", err)
	}
	return f, nil
}

// pictures reads the changed images.
func (f *Found) pictures(text []byte) {
	f.Images = make([]float32, len(text)/4)
	for i := range f.Images {
		f.Images[i] = math.Float32frombits(binary.LittleEndian.Uint32(text[4*i:]))
	}
}

func flat(all [][]int) []int32 {
	var out []int32
	for _, row := range all {
		for _, v := range row {
			out = append(out, int32(v))
		}
	}
	return out
}

func rows(flat []int32, k int) [][]int {
	var out [][]int
	for len(flat) > 0 {
		row := make([]int, k)
		for i := range row {
			row[i] = int(flat[i])
		}
		out, flat = append(out, row), flat[k:]
	}
	return out
}

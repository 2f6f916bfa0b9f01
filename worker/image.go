package worker

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"

	"mp/checkpoint"
	"mp/mppb"
)

// A snapshot travels as bytes: the length of the header (eight bytes, little-endian), the header as JSON, and the tensors'
// elements in the header's order, each part at a multiple of imageAlign. Snapshots of equal states are equal bytes.
const imageAlign = 64

// errImage is wrapped when bytes are no snapshot.
var errImage = errors.New("not a training state")

// imageHeader is what a snapshot holds beside elements.
type imageHeader struct {
	At         position
	Best       bestHeader
	Last       counts
	Clean      counts // of the images held out
	Robust     counts // likewise, attacked
	Ledger     []ledgerEntry
	Meta       checkpoint.Meta
	Model      []tensorHeader
	Optimizer  []tensorHeader
	BestTensor []tensorHeader
}

// bestHeader is a best without its weights; real numbers are bits, so that they travel whatever they are.
type bestHeader struct {
	Images, Epoch, Update int
	Loss, Top1, Top5      uint64
}

type tensorHeader struct {
	Name  string
	DType int
	Shape []int64
	Bytes int
}

// image is a snapshot as it travels. It may be read from any number of goroutines.
type image struct {
	chunks []chunk
	size   int64
	digest func() [sha256.Size]byte // computed once, when it is first asked for
}

// chunk is what lies at an offset.
type chunk struct {
	at   int64
	data []byte
}

// newImage lays a snapshot out. It shares the snapshot's memory.
func newImage(s *snapshot) (*image, error) {
	h := imageHeader{At: s.at, Last: countsOf(s.last), Clean: countsOf(s.watched.clean), Robust: countsOf(s.watched.robust), Ledger: s.epochs, Meta: s.state.Meta, Best: bestHeader{
		Images: s.best.Images, Epoch: s.best.epoch, Update: s.best.update,
		Loss: math.Float64bits(s.best.Loss), Top1: math.Float64bits(s.best.Top1), Top5: math.Float64bits(s.best.Top5),
	}}
	h.Model, h.Optimizer, h.BestTensor = headers(s.state.Model), headers(s.state.Optimizer), headers(s.best.weights)
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("describe a training state: %w", err)
	}
	i := &image{}
	i.add(binary.LittleEndian.AppendUint64(nil, uint64(len(text))))
	i.add(text)
	for _, tensors := range [][]checkpoint.Tensor{s.state.Model, s.state.Optimizer, s.best.weights} {
		for _, t := range tensors {
			i.add(t.Data)
		}
	}
	i.digest = sync.OnceValue(i.hash)
	return i, nil
}

func headers(tensors []checkpoint.Tensor) []tensorHeader {
	var out []tensorHeader
	for _, t := range tensors {
		out = append(out, tensorHeader{Name: t.Name, DType: int(t.DType), Shape: t.Shape, Bytes: len(t.Data)})
	}
	return out
}

func (i *image) add(data []byte) {
	i.size = aligned(i.size)
	i.chunks = append(i.chunks, chunk{i.size, data})
	i.size += int64(len(data))
}

func aligned(n int64) int64 { return (n + imageAlign - 1) / imageAlign * imageAlign }

func (i *image) hash() (sum [sha256.Size]byte) {
	h := sha256.New()
	buffer := make([]byte, mppb.PartBytes)
	for n := range i.parts() {
		h.Write(i.part(n, buffer))
	}
	h.Sum(sum[:0])
	return sum
}

// parts is the number of parts of up to mppb.PartBytes bytes.
func (i *image) parts() int { return int((i.size + mppb.PartBytes - 1) / mppb.PartBytes) }

// part writes part n into buffer, of mppb.PartBytes bytes, and returns what it fills.
func (i *image) part(n int, buffer []byte) []byte {
	from := int64(n) * mppb.PartBytes
	out := buffer[:min(i.size-from, mppb.PartBytes)]
	clear(out)
	to := from + int64(len(out))
	for _, c := range i.chunks {
		end := c.at + int64(len(c.data))
		if end <= from || c.at >= to {
			continue
		}
		if c.at < from {
			copy(out, c.data[from-c.at:])
		} else {
			copy(out[c.at-from:], c.data)
		}
	}
	return out
}

// readImage is newImage's inverse. The snapshot shares b's memory.
func readImage(b []byte) (*snapshot, error) {
	at := int64(0)
	take := func(n int64) ([]byte, error) {
		at = aligned(at)
		if n < 0 || n > int64(len(b))-at {
			return nil, fmt.Errorf("%d bytes at %d of %d: %w", n, at, len(b), errImage)
		}
		out := b[at : at+n : at+n]
		at += n
		return out, nil
	}
	length, err := take(8)
	if err != nil {
		return nil, err
	}
	text, err := take(int64(binary.LittleEndian.Uint64(length)))
	if err != nil {
		return nil, err
	}
	var h imageHeader
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("%w: %w", errImage, err)
	}
	s := &snapshot{at: h.At, last: h.Last.tally(), watched: watched{h.Clean.tally(), h.Robust.tally()}, epochs: h.Ledger, state: &checkpoint.State{Meta: h.Meta}, best: best{
		Score: Score{Images: h.Best.Images, Loss: math.Float64frombits(h.Best.Loss), Top1: math.Float64frombits(h.Best.Top1), Top5: math.Float64frombits(h.Best.Top5)},
		epoch: h.Best.Epoch, update: h.Best.Update,
	}}
	for _, list := range []struct {
		headers []tensorHeader
		into    *[]checkpoint.Tensor
	}{{h.Model, &s.state.Model}, {h.Optimizer, &s.state.Optimizer}, {h.BestTensor, &s.best.weights}} {
		for _, t := range list.headers {
			data, err := take(int64(t.Bytes))
			if err != nil {
				return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
			}
			*list.into = append(*list.into, checkpoint.Tensor{Name: t.Name, DType: checkpoint.DType(t.DType), Shape: t.Shape, Data: data})
		}
	}
	if at != int64(len(b)) {
		return nil, fmt.Errorf("%d bytes follow its end: %w", int64(len(b))-at, errImage)
	}
	return s, nil
}

func countsOf(t tally) counts { return counts{t.images, t.top1, t.top5, t.loss, t.unknown} }

func (c counts) tally() tally {
	return tally{images: c.Images, top1: c.Top1, top5: c.Top5, loss: c.Loss, unknown: c.Unknown}
}

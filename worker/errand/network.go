package errand

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"mp/model"
	"mp/mppb"
	"mp/ops"
)

// Network is an architecture and its weights: float32, by PyTorch's names.
type Network struct {
	Arch   string
	Arrays map[string]model.Array
}

// Build makes the model. Free it.
func (n Network) Build(s *ops.Scope, o model.Options) (*model.Model, error) {
	m, err := model.New(s, n.Arch, o)
	if err != nil {
		return nil, err
	}
	if _, err := m.Load(s, n.Arrays, model.Exact); err != nil {
		m.Free()
		return nil, err
	}
	return m, nil
}

// encode is the network as it travels: equal networks have equal bytes.
func (n Network) encode() ([]byte, error) {
	out := &mppb.Network{Arch: n.Arch}
	for _, name := range slices.Sorted(maps.Keys(n.Arrays)) {
		a := n.Arrays[name]
		out.Arrays = append(out.Arrays, &mppb.NetworkArray{Name: name, Shape: a.Shape, Data: a.Data})
	}
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode the weights of %s: %w", n.Arch, err)
	}
	return text, nil
}

// decode is encode's inverse.
func decode(text []byte) (Network, error) {
	in := &mppb.Network{}
	if err := proto.Unmarshal(text, in); err != nil {
		return Network{}, fmt.Errorf("decode weights of %d bytes: %w", len(text), err)
	}
	n := Network{Arch: in.Arch, Arrays: make(map[string]model.Array, len(in.Arrays))}
	for _, a := range in.Arrays {
		n.Arrays[a.Name] = model.Array{Shape: a.Shape, Data: a.Data}
	}
	return n, nil
}

// parcel is an encoded network and its name.
type parcel struct {
	name *mppb.NetworkName
	text []byte
}

func pack(n Network) (parcel, error) {
	text, err := n.encode()
	if err != nil {
		return parcel{}, err
	}
	return parcel{&mppb.NetworkName{Sha256: hexSum(text), Size: uint64(len(text))}, text}, nil
}

func hexSum(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// pieces are the messages that bring a parcel.
func (p parcel) pieces() []*mppb.FilePart {
	all := pieces(p.text)
	all[0].File = &mppb.FileState{Size: p.name.Size, Sha256: p.name.Sha256}
	return all
}

// pieces cuts bytes into messages that every peer takes, at least one.
func pieces(text []byte) []*mppb.FilePart {
	var out []*mppb.FilePart
	for at := 0; at == 0 || at < len(text); at += mppb.PartBytes {
		data := text[at:min(at+mppb.PartBytes, len(text))]
		out = append(out, &mppb.FilePart{Offset: uint64(at), Data: data, Crc32C: mppb.Checksum(data)})
	}
	return out
}

// gather appends the next piece to what has come of size bytes.
func gather(have []byte, p *mppb.FilePart, size uint64) ([]byte, error) {
	switch {
	case p == nil:
		return nil, fmt.Errorf("a message of another kind came after %d of %d bytes", len(have), size)
	case p.Offset != uint64(len(have)) || p.Offset+uint64(len(p.Data)) > size:
		return nil, fmt.Errorf("%d bytes for offset %d came where %d of %d bytes were there", len(p.Data), p.Offset, len(have), size)
	case mppb.Checksum(p.Data) != p.Crc32C:
		return nil, fmt.Errorf("%d bytes at %d have checksum %08x, not %08x: they changed on their way", len(p.Data), p.Offset, mppb.Checksum(p.Data), p.Crc32C)
	}
	return append(have, p.Data...), nil
}

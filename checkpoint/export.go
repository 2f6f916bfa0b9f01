package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"path/filepath"
	"strings"
)

// Keys of Export's metadata in a .safetensors file.
const (
	exportMetaKey   = "mp.meta"
	exportDigestKey = "mp.digest"
)

// Export writes the model of s, without the optimizer, to one file, replacing it in one step: a .safetensors file that
// also holds Meta and the weights' digest, or, for the endings .pth, .pt and .pth.tar, a file that torch.load reads
// (keys epoch, model_arch, state_dict, best_acc1). Nothing half-written is left behind.
func Export(path string, s *State) error {
	var fill func(io.Writer) error
	switch {
	case strings.HasSuffix(path, ".safetensors"):
		meta, err := json.Marshal(s.Meta)
		if err != nil {
			return fmt.Errorf("export %s: %w", path, err)
		}
		metadata := map[string]string{"format": "pt", exportMetaKey: string(meta), exportDigestKey: Digest(s.Model)}
		fill = func(w io.Writer) error { return encodeSafetensors(w, s.Model, metadata) }
	case TorchName(path):
		fill = func(w io.Writer) error { return encodeTorch(w, s) }
	default:
		return fmt.Errorf("export %s: %w: the name must end in .safetensors, .pth, .pt or .pth.tar", path, ErrFormat)
	}
	if err := replaceFile(createFile, path, fill); err != nil {
		return fmt.Errorf("export %s: %w", path, advise(err))
	}
	return nil
}

// TorchName tells whether a file name has one of the endings of torch.save's files.
func TorchName(path string) bool {
	base := filepath.Base(path)
	return strings.HasSuffix(base, ".pth") || strings.HasSuffix(base, ".pt") || strings.HasSuffix(base, ".pth.tar")
}

// encodeTorch writes the zip archive that torch.save would, pickle protocol 2, one storage for each tensor. Only names
// that torch.load(weights_only=True) takes are used.
func encodeTorch(w io.Writer, s *State) error {
	var p pickler
	p.raw("\x80\x02}(")
	p.text("epoch")
	p.int(int64(s.Meta.Epoch))
	p.text("model_arch")
	p.text(s.Meta.Arch)
	p.text("best_acc1")
	p.raw("G")
	p.b.Write(binary.BigEndian.AppendUint64(nil, math.Float64bits(s.Meta.BestTop1)))
	p.text("state_dict")
	p.raw("ccollections\nOrderedDict\n)R(")
	for i, t := range s.Model {
		if size, err := dataBytes(t.Shape, t.DType); err != nil || size != int64(len(t.Data)) {
			return fmt.Errorf("tensor %q: shape %v of %v does not fit %d bytes (%v)", t.Name, t.Shape, t.DType, len(t.Data), err)
		}
		p.text(t.Name)
		p.tensor(i, t)
	}
	p.raw("uu.")

	archive := zip.NewWriter(w)
	for _, e := range append([]archiveEntry{
		{"data.pkl", p.b.Bytes()}, {"byteorder", []byte("little")}, {"version", []byte("3\n")},
	}, storages(s.Model)...) {
		header := &zip.FileHeader{
			Name: "archive/" + e.name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(e.data),
			CompressedSize64: uint64(len(e.data)), UncompressedSize64: uint64(len(e.data)),
		}
		out, err := archive.CreateRaw(header)
		if err != nil {
			return err
		}
		if _, err := out.Write(e.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

type archiveEntry struct {
	name string
	data []byte
}

func storages(tensors []Tensor) []archiveEntry {
	out := make([]archiveEntry, len(tensors))
	for i, t := range tensors {
		out[i] = archiveEntry{fmt.Sprintf("data/%d", i), t.Data}
	}
	return out
}

// pickler writes the instructions that unpickle reads.
type pickler struct{ b bytes.Buffer }

func (p *pickler) raw(s string) { p.b.WriteString(s) }

func (p *pickler) text(s string) {
	p.raw("X")
	p.b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(s))))
	p.raw(s)
}

func (p *pickler) int(n int64) {
	p.raw("\x8a\x08")
	p.b.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func (p *pickler) ints(values []int64) {
	p.raw("(")
	for _, v := range values {
		p.int(v)
	}
	p.raw("t")
}

// tensor writes torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()).
func (p *pickler) tensor(key int, t Tensor) {
	p.raw("ctorch._utils\n_rebuild_tensor_v2\n((")
	p.text("storage")
	p.raw("ctorch\n" + torchStorage(t.DType) + "\n")
	p.text(fmt.Sprint(key))
	p.text("cpu")
	p.int(int64(t.Len()))
	p.raw("tQ")
	p.int(0)
	p.ints(t.Shape)
	stride := make([]int64, len(t.Shape))
	for d, next := len(stride)-1, int64(1); d >= 0; d-- {
		stride[d] = next
		next *= max(t.Shape[d], 1)
	}
	p.ints(stride)
	p.raw("\x89ccollections\nOrderedDict\n)RtR")
}

// torchStorage is the inverse of storageType.
func torchStorage(d DType) string {
	for _, name := range []string{"DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage", "ByteStorage", "BoolStorage"} {
		if got, _ := storageType(global{"torch", name}); got == d {
			return name
		}
	}
	return ""
}

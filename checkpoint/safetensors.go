package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"unicode/utf8"
)

// The safetensors format (https://github.com/huggingface/safetensors): 8 bytes with the length N of the header as
// little-endian u64; N bytes of JSON, padded with spaces so that the data starts at a multiple of 8, mapping each
// name to {"dtype", "shape", "data_offsets": [begin, end]} and "__metadata__" to a map of strings; then the data,
// which the tensors cover without holes or overlaps.

// metadataKey is the header's reserved name.
const metadataKey = "__metadata__"

// maxHeader is the reference implementation's limit on the header, in bytes.
const maxHeader = 100_000_000

// encodeSafetensors writes tensors, in any order, and metadata, which may be nil. The bytes are those that the
// reference implementation writes: the data by falling element type (so that everything is aligned), then by name.
func encodeSafetensors(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	order := append([]Tensor(nil), tensors...)
	sort.SliceStable(order, func(i, j int) bool {
		if a, b := dtypeRank(order[i].DType), dtypeRank(order[j].DType); a != b {
			return a > b
		}
		return order[i].Name < order[j].Name
	})
	head, err := safetensorsHeader(order, metadata)
	if err != nil {
		return err
	}
	if err := binary.Write(w, binary.LittleEndian, uint64(len(head))); err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for _, t := range order {
		if _, err := w.Write(t.Data); err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
	}
	return nil
}

// dtypeRank orders element types as the reference implementation's Dtype does.
func dtypeRank(d DType) int {
	for rank, x := range []DType{Bool, U8, F16, BF16, I32, F32, F64, I64} {
		if x == d {
			return rank
		}
	}
	return -1
}

func safetensorsHeader(order []Tensor, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	if len(metadata) > 0 {
		b.WriteString(`"` + metadataKey + `":`)
		if err := writeJSON(&b, metadata); err != nil {
			return nil, err
		}
	}
	seen := make(map[string]bool, len(order))
	offset := int64(0)
	for _, t := range order {
		switch size, err := dataBytes(t.Shape, t.DType); {
		case err != nil:
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		case size != int64(len(t.Data)):
			return nil, fmt.Errorf("tensor %q: shape %v of %v needs %d bytes, data has %d", t.Name, t.Shape, t.DType, size, len(t.Data))
		case t.Name == metadataKey || seen[t.Name] || !utf8.ValidString(t.Name):
			return nil, fmt.Errorf("tensor %q: the name is reserved, used twice or not UTF-8", t.Name)
		}
		seen[t.Name] = true
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		if err := writeJSON(&b, t.Name); err != nil {
			return nil, err
		}
		shape := t.Shape
		if shape == nil {
			shape = []int64{}
		}
		b.WriteString(`:{"dtype":"` + t.DType.String() + `","shape":`)
		if err := writeJSON(&b, shape); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, `,"data_offsets":[%d,%d]}`, offset, offset+int64(len(t.Data)))
		offset += int64(len(t.Data))
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > maxHeader {
		return nil, fmt.Errorf("header of %d bytes exceeds the format's %d", b.Len(), maxHeader)
	}
	return b.Bytes(), nil
}

// writeJSON appends v without a line end and without escaping what HTML would.
func writeJSON(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1)
	return nil
}

// decodeSafetensors reads a file of size bytes and returns its tensors in name order and its metadata (nil when there
// is none). Every error is one of the format, except what r itself returns. Memory: the file once.
func decodeSafetensors(r io.Reader, size int64) ([]Tensor, map[string]string, error) {
	var length [8]byte
	if size < 8 {
		return nil, nil, malformed("%d bytes are too few for a safetensors file", size)
	}
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, nil, shortRead(err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeader || int64(n) > size-8 {
		return nil, nil, malformed("a header of %d bytes does not fit a file of %d: not a safetensors file, or cut short", n, size)
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, nil, shortRead(err)
	}
	entries, metadata, err := parseHeader(head)
	if err != nil {
		return nil, nil, err
	}
	sort.SliceStable(entries, func(i, j int) bool {
		a, b := entries[i], entries[j]
		return a.begin < b.begin || a.begin == b.begin && a.end < b.end
	})
	at := int64(0)
	for _, e := range entries {
		if e.begin != at {
			return nil, nil, malformed("tensor %q starts at byte %d of the data, expected %d: a hole or an overlap", e.Name, e.begin, at)
		}
		at = e.end
	}
	if at != size-8-int64(n) {
		return nil, nil, malformed("the header describes %d bytes of data, the file holds %d: it is cut short or has something appended", at, size-8-int64(n))
	}
	data := make([]byte, at)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, nil, shortRead(err)
	}
	tensors := make([]Tensor, len(entries))
	for i, e := range entries {
		e.Data = data[e.begin:e.end:e.end]
		tensors[i] = e.Tensor
	}
	sortByName(tensors)
	return tensors, metadata, nil
}

// malformed returns an error that matches ErrFormat.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// shortRead tells a file that ended early, which is the file's fault, from an error of the device.
func shortRead(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("the file is cut short")
	}
	return err
}

// headerEntry is a tensor without its data, and where the data lies, relative to the end of the header.
type headerEntry struct {
	Tensor
	begin, end int64
}

// parseHeader reads the JSON token by token: the decoder for structs would take duplicate keys silently.
func parseHeader(head []byte) ([]headerEntry, map[string]string, error) {
	if !utf8.Valid(head) {
		return nil, nil, malformed("the header is not UTF-8")
	}
	if len(head) == 0 || head[0] != '{' {
		return nil, nil, malformed("the header does not start with {: not a safetensors file")
	}
	p := headerParser{json.NewDecoder(bytes.NewReader(head))}
	p.UseNumber()
	var entries []headerEntry
	var metadata map[string]string
	err := p.object(func(name string) error {
		if name == metadataKey {
			metadata = map[string]string{}
			return p.object(func(key string) error {
				var err error
				metadata[key], err = p.text()
				return err
			})
		}
		e, err := p.entry()
		e.Name = name
		entries = append(entries, e)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		return nil
	})
	if err == nil {
		if _, extra := p.Token(); extra != io.EOF {
			err = errors.New("something follows the closing brace")
		}
	}
	if err != nil {
		return nil, nil, malformed("header: %w", shortJSON(err))
	}
	return entries, metadata, nil
}

func shortJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON ends early")
	}
	return err
}

type headerParser struct{ *json.Decoder }

// object reads {...}, calling value after each key; value must consume the value. A key that comes twice is an error.
func (p headerParser) object(value func(key string) error) error {
	if err := p.delim('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for p.More() {
		key, err := p.text()
		if err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("key %q comes twice", key)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	return p.delim('}')
}

func (p headerParser) delim(want json.Delim) error {
	token, err := p.Token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("got %v, expected %v", token, want)
	}
	return nil
}

func (p headerParser) text() (string, error) {
	token, err := p.Token()
	if err != nil {
		return "", err
	}
	s, ok := token.(string)
	if !ok {
		return "", fmt.Errorf("got %v, expected a string", token)
	}
	return s, nil
}

// integers reads an array of at most limit integers >= 0.
func (p headerParser) integers(limit int) ([]int64, error) {
	if err := p.delim('['); err != nil {
		return nil, err
	}
	out := []int64{}
	for p.More() {
		token, err := p.Token()
		if err != nil {
			return nil, err
		}
		number, ok := token.(json.Number)
		if !ok {
			return nil, fmt.Errorf("got %v, expected a number", token)
		}
		n, err := strconv.ParseInt(number.String(), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s is not an integer >= 0", number)
		}
		if len(out) == limit {
			return nil, fmt.Errorf("more than %d numbers", limit)
		}
		out = append(out, n)
	}
	return out, p.delim(']')
}

func (p headerParser) entry() (headerEntry, error) {
	var e headerEntry
	var offsets []int64
	err := p.object(func(key string) (err error) {
		switch key {
		case "dtype":
			var name string
			if name, err = p.text(); err == nil {
				e.DType, err = dtypeNamed(name)
			}
		case "shape":
			e.Shape, err = p.integers(maxDims)
		case "data_offsets":
			offsets, err = p.integers(2)
		default:
			err = fmt.Errorf("unknown key %q", key)
		}
		return err
	})
	if err != nil {
		return e, err
	}
	if e.DType == 0 || e.Shape == nil || len(offsets) != 2 {
		return e, errors.New("dtype, shape or data_offsets is missing")
	}
	e.begin, e.end = offsets[0], offsets[1]
	size, err := dataBytes(e.Shape, e.DType)
	if err == nil && size != e.end-e.begin {
		err = fmt.Errorf("shape %v of %v needs %d bytes, data_offsets span %d", e.Shape, e.DType, size, e.end-e.begin)
	}
	return e, err
}

func dtypeNamed(name string) (DType, error) {
	for _, d := range allDTypes() {
		if d.String() == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("element type %q is not read here (only %v)", name, allDTypes())
}

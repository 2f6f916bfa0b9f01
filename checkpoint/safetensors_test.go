package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

func safetensorsFile(header, data string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func decodeBytes(b []byte) ([]Tensor, map[string]string, error) {
	return decodeSafetensors(bytes.NewReader(b), int64(len(b)))
}

// Our bytes are the ones that the safetensors library wrote for the same tensors.
func TestSafetensorsBytesEqualTheLibrarys(t *testing.T) {
	for _, name := range []string{"bare.model", "sgd.model", "sgd.optimizer", "adamw.optimizer"} {
		want, err := os.ReadFile("testdata/" + name + ".safetensors")
		if err != nil {
			t.Fatal(err)
		}
		tensors, metadata, err := decodeBytes(want)
		if err != nil {
			t.Fatal(err)
		}
		if len(metadata) != 1 || metadata["format"] != "pt" {
			t.Errorf("%s: got metadata %v", name, metadata)
		}
		var got bytes.Buffer
		if err := encodeSafetensors(&got, tensors, metadata); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: we write\n%.400q, the library\n%.400q", name, got.Bytes(), want)
		}
	}
}

func TestSafetensorsRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "", "fc.weight", `quote"back\slash`, "naïve/Ω\u2028<&>", "tab\t"}
	for range 200 {
		var want []Tensor
		for _, i := range r.Perm(len(names))[:r.IntN(len(names)+1)] {
			d := allDTypes()[r.IntN(8)]
			shape := []int64{}
			for range r.IntN(4) {
				shape = append(shape, r.Int64N(5))
			}
			size, err := dataBytes(shape, d)
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, size)
			for j := range data {
				data[j] = byte(r.Uint32())
			}
			want = append(want, Tensor{names[i], d, shape, data})
		}
		metadata := map[string]string{"k": "v\"", "": "<x>"}
		var b bytes.Buffer
		if err := encodeSafetensors(&b, want, metadata); err != nil {
			t.Fatal(err)
		}
		if n := binary.LittleEndian.Uint64(b.Bytes()); n%8 != 0 {
			t.Fatalf("the data starts at byte %d, want a multiple of 8", n+8)
		}
		got, gotMetadata, err := decodeBytes(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		sortByName(want)
		compareTensors(t, got, want)
		if len(gotMetadata) != 2 || gotMetadata["k"] != "v\"" || gotMetadata[""] != "<x>" {
			t.Fatalf("got metadata %q, want %q", gotMetadata, metadata)
		}
	}
}

func TestSafetensorsRefuses(t *testing.T) {
	const entry = `"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	for _, c := range []struct{ what, want, header, data string }{
		{"hole at the start", "hole", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, "12345678"},
		{"hole", "hole", `{` + entry + `,"b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}}`, "1234567890"},
		{"overlap", "overlap", `{` + entry + `,"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, "12345678"},
		{"cut data", "cut short", `{` + entry + `}`, "1234"},
		{"appended", "appended", `{` + entry + `}`, "123456789"},
		{"key twice", "twice", `{` + entry + `,` + entry + `}`, "12345678"},
		{"key twice, escaped", "twice", `{` + entry + `,"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}`, "12345678"},
		{"inner key twice", "twice", `{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, "12345678"},
		{"metadata twice", "twice", `{"__metadata__":{"a":"b","a":"c"},` + entry + `}`, "12345678"},
		{"metadata number", "expected a string", `{"__metadata__":{"a":1},` + entry + `}`, "12345678"},
		{"size", "needs 12 bytes", `{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, "12345678"},
		{"negative", "integer >= 0", `{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`, "12345678"},
		{"fraction", "integer >= 0", `{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}`, "12345678"},
		{"overflow", "overflows", `{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}`, "12345678"},
		{"overflow with an empty dimension", "overflows", `{"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}`, ""},
		{"backward offsets", "span", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, "12345678"},
		{"three offsets", "more than 2", `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}`, "12345678"},
		{"dtype", `"F8_E4M3" is not read`, `{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}`, "12345678"},
		{"no dtype", "missing", `{"a":{"shape":[8],"data_offsets":[0,8]}}`, "12345678"},
		{"unknown key", "unknown key", `{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1}}`, "12345678"},
		{"array", "does not start with {", `[]`, ""},
		{"early end", "ends early", `{"a":{"dtype":"F32"`, ""},
		{"rest", "closing brace", `{} {}`, ""},
		{"not UTF-8", "UTF-8", "{\"\xff\":1}", ""},
		{"empty header", "does not start", ``, ""},
	} {
		_, _, err := decodeBytes(safetensorsFile(c.header, c.data))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ErrFormat with %q", c.what, err, c.want)
		}
	}
	for _, b := range [][]byte{nil, []byte("short"), []byte("\xff\xff\xff\xff\xff\xff\xff\xff{}"), []byte("\x00\x00\x00\x00\x00\x00\x00\x10{}")} {
		if _, _, err := decodeBytes(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: got %v, want ErrFormat", b, err)
		}
	}
	if got, _, err := decodeBytes(safetensorsFile(`{`+entry+`}    `, "12345678")); err != nil || len(got) != 1 {
		t.Errorf("padded header: got %v, %v", got, err)
	}
}

func TestSafetensorsWriterRefuses(t *testing.T) {
	ok := FromFloat32s("a", []int64{1}, []float32{1})
	for what, tensors := range map[string][]Tensor{
		"name twice":    {ok, ok},
		"reserved name": {{metadataKey, U8, []int64{}, []byte{1}}},
		"not UTF-8":     {{"\xff", U8, []int64{}, []byte{1}}},
		"size":          {{"a", F32, []int64{2}, []byte{1}}},
		"type":          {{"a", 0, []int64{0}, nil}},
	} {
		if err := encodeSafetensors(&bytes.Buffer{}, tensors, nil); err == nil {
			t.Errorf("%s: got no error", what)
		}
	}
}

func TestStats(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	s := FromFloat32s("x", []int64{6}, []float32{1, nan, 2, inf, 3, 6}).Stats()
	if s.Mean != 3 || s.Min != 1 || s.Max != 6 || s.NonFinite != 2 || math.Abs(s.Std-math.Sqrt(3.5)) > 1e-12 {
		t.Errorf("got %+v, want mean 3, std %v, 1 to 6, 2 not finite", s, math.Sqrt(3.5))
	}
	if s := FromFloat32s("x", []int64{1}, []float32{nan}).Stats(); s != (Stats{NonFinite: 1}) {
		t.Errorf("got %+v, want zeros", s)
	}
	huge := Tensor{DType: F64, Shape: []int64{2}, Data: append(binary.LittleEndian.AppendUint64(nil, math.Float64bits(-1.7e308)), binary.LittleEndian.AppendUint64(nil, math.Float64bits(1.7e308))...)}
	if s := huge.Stats(); s.Mean != 0 || s.Std != 1.7e308 {
		t.Errorf("got %+v, want mean 0, std 1.7e308", s)
	}
	// Element types, against what PyTorch was given.
	tensors := mustRead(t, "testdata/bare.pth").Model
	for name, want := range map[string][]float32{
		"half": {1.5, -2.25, 5.9604645e-08, 65504}, "brain": {1.5, -3e38}, "long": {-1, 1 << 40}, "int": {-7, 9},
		"byte": {0, 255}, "bool": {1, 0, 1}, "scalar": {2.5}, "empty": {},
	} {
		x, _ := Find(tensors, name)
		got := x.Float32s()
		if len(got) != len(want) {
			t.Fatalf("%s: got %v, want %v", name, got, want)
		}
		for i := range want {
			if d := math.Abs(float64(got[i] - want[i])); d > 4e-3*math.Abs(float64(want[i])) {
				t.Errorf("%s: got %v, want %v", name, got, want)
			}
		}
	}
	for bits, want := range map[uint16]float64{0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0400: math.Ldexp(1, -14), 0x0001: math.Ldexp(1, -24), 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1)} {
		if got := float16(bits); got != want {
			t.Errorf("float16 %#x: got %v, want %v", bits, got, want)
		}
	}
}

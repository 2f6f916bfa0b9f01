package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// DType is the type of a tensor's elements.
type DType uint8

// The element types that checkpoints of image models use. Others are refused by name.
const (
	F64 DType = iota + 1
	F32
	F16
	BF16
	I64
	I32
	U8
	Bool
)

// allDTypes is the order of the constants above.
func allDTypes() []DType { return []DType{F64, F32, F16, BF16, I64, I32, U8, Bool} }

// String returns the type's name in a safetensors header: "F32", "BF16", "BOOL", ...
func (d DType) String() string {
	switch d {
	case F64:
		return "F64"
	case F32:
		return "F32"
	case F16:
		return "F16"
	case BF16:
		return "BF16"
	case I64:
		return "I64"
	case I32:
		return "I32"
	case U8:
		return "U8"
	case Bool:
		return "BOOL"
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

// Size returns the bytes of one element, 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case F64, I64:
		return 8
	case F32, I32:
		return 4
	case F16, BF16:
		return 2
	case U8, Bool:
		return 1
	}
	return 0
}

// Tensor is a named array: little-endian, C-contiguous, Data holding product(Shape) elements. An empty Shape is a
// scalar.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64
	Data  []byte
}

// Len returns the number of elements.
func (t Tensor) Len() int {
	if size := t.DType.Size(); size > 0 {
		return len(t.Data) / size
	}
	return 0
}

// FromFloat32s makes a tensor of type F32 from values; the product of shape must be len(values).
func FromFloat32s(name string, shape []int64, values []float32) Tensor {
	data := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
	}
	return Tensor{Name: name, DType: F32, Shape: shape, Data: data}
}

// Float32s returns the elements as float32, rounding wider types.
func (t Tensor) Float32s() []float32 {
	out := make([]float32, t.Len())
	for i := range out {
		out[i] = float32(t.at(i))
	}
	return out
}

// at returns element i as float64; integers beyond 2^53 are rounded.
func (t Tensor) at(i int) float64 {
	switch d := t.Data; t.DType {
	case F64:
		return math.Float64frombits(binary.LittleEndian.Uint64(d[8*i:]))
	case F32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(d[4*i:])))
	case F16:
		return float16(binary.LittleEndian.Uint16(d[2*i:]))
	case BF16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(d[2*i:])) << 16))
	case I64:
		return float64(int64(binary.LittleEndian.Uint64(d[8*i:])))
	case I32:
		return float64(int32(binary.LittleEndian.Uint32(d[4*i:])))
	default:
		return float64(d[i])
	}
}

// float16 converts IEEE 754 binary16: sign 1, exponent 5 (bias 15), fraction 10 bits.
func float16(bits uint16) float64 {
	sign := 1.0
	if bits>>15 == 1 {
		sign = -1
	}
	exponent, fraction := int(bits>>10&31), float64(bits&1023)
	switch exponent {
	case 0:
		return sign * math.Ldexp(fraction, -24)
	case 31:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// maxDims is PyTorch's own limit.
const maxDims = 64

// dataBytes returns the bytes that a tensor of this shape and type holds, or an error for a negative or overflowing
// shape.
func dataBytes(shape []int64, d DType) (int64, error) {
	if d.Size() == 0 {
		return 0, fmt.Errorf("unknown element type %v", d)
	}
	if len(shape) > maxDims {
		return 0, fmt.Errorf("%d dimensions, more than %d", len(shape), maxDims)
	}
	n, empty := int64(d.Size()), false
	for _, s := range shape {
		if s < 0 {
			return 0, fmt.Errorf("negative dimension %d", s)
		}
		if s == 0 {
			empty = true
			continue
		}
		if n > math.MaxInt64/s {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		n *= s
	}
	if empty {
		return 0, nil
	}
	return n, nil
}

// ShapeString returns "64x3x7x7", or "scalar".
func (t Tensor) ShapeString() string {
	if len(t.Shape) == 0 {
		return "scalar"
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(t.Shape), " ", "x"), "[]")
}

// Stats summarises a tensor's elements; the figures are over the finite ones.
type Stats struct {
	Mean, Std, Min, Max float64 // Std is the population's; all 0 when no element is finite
	NonFinite           int     // elements that are NaN or infinite
}

// Stats computes the summary in float64, in two passes over elements divided by the largest, so that nothing overflows.
func (t Tensor) Stats() Stats {
	s := Stats{Min: math.Inf(1), Max: math.Inf(-1)}
	var finite []float64
	for i := range t.Len() {
		v := t.at(i)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			s.NonFinite++
			continue
		}
		finite = append(finite, v)
		s.Min, s.Max = min(s.Min, v), max(s.Max, v)
	}
	if len(finite) == 0 {
		return Stats{NonFinite: s.NonFinite}
	}
	largest := max(-s.Min, s.Max)
	if largest == 0 {
		return s
	}
	n, sum, squares := float64(len(finite)), 0.0, 0.0
	for _, v := range finite {
		sum += v / largest
	}
	mean := sum / n
	for _, v := range finite {
		squares += (v/largest - mean) * (v/largest - mean)
	}
	s.Mean, s.Std = mean*largest, math.Sqrt(squares/n)*largest
	return s
}

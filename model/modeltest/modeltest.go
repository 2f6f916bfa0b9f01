// Package modeltest makes the fixed start of PyTorch's goldens (model/testdata/generate.py) in Go, bit for bit: weights,
// images and labels from formulas, and the goldens themselves.
//
// It is for tests only, those of optimizers included, and imports model and ops. Start reading at Read.
package modeltest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/model"
	"mp/ops"
)

// Golden is what PyTorch computed for one architecture; generate.py describes the fields.
type Golden struct {
	Arch        string      `json:"arch"`
	Classes     int         `json:"classes"`
	Batch       int64       `json:"batch"`
	Size        int64       `json:"size"`
	LogitsEval  [][]float64 `json:"logits_eval"`
	LogitsTrain [][]float64 `json:"logits_train"`
	Loss        float64     `json:"loss"`
	Gradients   []Tensor    `json:"gradients"`
	Buffers     []Tensor    `json:"buffers"`
	Runs        []Run       `json:"runs"`
}

// Tensor is a named tensor by its norm and, for gradients, its product with Uniform(name + "/probe").
type Tensor struct {
	Name  string  `json:"name"`
	Shape []int64 `json:"shape"`
	Norm  float64 `json:"norm"`
	Probe float64 `json:"probe"`
}

// Run is a training from the start on one batch.
type Run struct {
	Optimizer   string    `json:"optimizer"` // sgd or adamw
	LR          float64   `json:"lr"`
	Momentum    float64   `json:"momentum"`
	Nesterov    bool      `json:"nesterov"`
	Beta1       float64   `json:"beta1"`
	Beta2       float64   `json:"beta2"`
	Eps         float64   `json:"eps"`
	WeightDecay float64   `json:"weight_decay"`
	Clip        float64   `json:"clip"`      // largest norm of all gradients together; 0 means none
	DecayAll    bool      `json:"decay_all"` // weight decay also where Model.NoDecay
	Losses      []float64 `json:"losses"`    // float32, before each update
	Losses64    []float64 `json:"losses_float64"`
}

// Read loads a golden, such as ../model/testdata/simplenet.json.
func Read(path string) (*Golden, error) {
	bytes, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read golden: %w", err)
	}
	var g Golden
	if err := json.Unmarshal(bytes, &g); err != nil {
		return nil, fmt.Errorf("read golden %s: %w", path, err)
	}
	return &g, nil
}

// Uniform returns the first n numbers in [-1, 1) of the stream called name.
func Uniform(name string, n int64) []float64 {
	h := uint64(0xcbf29ce484222325)
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	v := make([]float64, n)
	for i := range v {
		z := h + uint64(i+1)*0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		v[i] = float64(z>>11)*0x1p-52 - 1
	}
	return v
}

// New returns g's architecture at its start. Classes of o are g's.
func (g *Golden) New(s *ops.Scope, o model.Options) (*model.Model, error) {
	o.Classes = g.Classes
	m, err := model.New(s, g.Arch, o)
	if err != nil {
		return nil, err
	}
	start := map[string]model.Array{}
	for _, flat := range []*ops.Flat{m.Params, m.Buffers} {
		for _, p := range flat.Params() {
			start[p.Name] = startValue(p.Name, p.Shape)
		}
	}
	if _, err := m.Load(s, start, model.Exact); err != nil {
		m.Free()
		return nil, err
	}
	return m, nil
}

func startValue(name string, shape []int64) model.Array {
	n := ops.Numel(shape)
	scale, offset := 0.1, 0.0
	switch {
	case name == "pos_embed":
		scale = 0.5
	case len(shape) == 4:
		scale = math.Sqrt(3 * 2 / float64(n/shape[0]))
	case len(shape) == 2:
		scale = math.Sqrt(3 / float64(n/shape[0]))
	case strings.HasSuffix(name, ".running_var"):
		scale, offset = 0.5, 1
	case strings.HasSuffix(name, ".weight"):
		scale, offset = 0.25, 1
	}
	data := make([]byte, 0, 4*n)
	for _, u := range Uniform(name, n) {
		product := scale * u // named, so that no processor fuses it with the sum
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(offset+product)))
	}
	return model.Array{Shape: shape, Data: data}
}

// Images returns the batch [N 3 S S] in dtype d.
func (g *Golden) Images(s *ops.Scope, d ops.DType) torch.Tensor {
	n, side := g.Batch, g.Size
	x := Uniform("images", n*3*side*side)
	blocks := Uniform("blocks", n*3*(side/16)*(side/16))
	v := make([]float32, len(x))
	for i := range v {
		plane, row, column := int64(i)/side/side, int64(i)/side%side, int64(i)%side
		v[i] = float32(x[i]*0.5 + blocks[(plane*(side/16)+row/16)*(side/16)+column/16])
	}
	return s.To(ops.From(s, v, n, 3, side, side), d)
}

// Labels returns the batch's classes, int64 [N].
func (g *Golden) Labels(s *ops.Scope) torch.Tensor {
	v := make([]int64, g.Batch)
	for i := range v {
		v[i] = int64((37*i + 11) % g.Classes)
	}
	return ops.From(s, v, g.Batch)
}

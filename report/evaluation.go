package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Files of RUN/report that hold what only the network can tell. Whoever computes them writes them; Digest says of which
// weights they are.
const (
	Folder         = "report" // in a run's directory
	EvaluationFile = "evaluation.json"
	SaliencyFile   = "saliency.json"
	PicturesFolder = "pictures" // in Folder
	AttackFile     = "attack.json"
	ExplainFile    = "explain.json"
	BenchConvFile  = "bench-conv.json"
)

// FormatVersion is the version of EvaluationFile and SaliencyFile; files of others are made anew.
const FormatVersion = 1

// Source says of what a file was computed. It is used again while all of it is the same.
type Source struct {
	Version    int    `json:"version"`
	Digest     string `json:"digest"` // of the best checkpoint's tensors
	Data       string `json:"data"`   // digest of the validation images
	Images     int    `json:"images"` // of the validation list, from its beginning
	Checkpoint string `json:"checkpoint"`
}

// Evaluation is how the best checkpoint did on the validation images.
type Evaluation struct {
	Source
	Model      string         `json:"model"`
	Parameters int64          `json:"parameters"`
	Top1       float64        `json:"top1"` // per cent
	Top5       float64        `json:"top5"`
	Loss       float64        `json:"loss"`
	Classes    []string       `json:"classes"`
	Cells      []Cell         `json:"cells"` // of the confusion matrix; those that are not here are 0
	Pairs      []ConfusedPair `json:"pairs"` // with pictures, the most confused first
}

// Cell is how many images of one class were taken for a class.
type Cell struct {
	True  int `json:"true"`
	Said  int `json:"said"`
	Count int `json:"count"`
}

// ConfusedPair is two classes that are taken for one another.
type ConfusedPair struct {
	A        int           `json:"a"`
	B        int           `json:"b"`
	AsB      int           `json:"a_as_b"` // images of A taken for B
	AsA      int           `json:"b_as_a"`
	Pictures []PairPicture `json:"pictures"`
}

// PairPicture is an image of one class of a pair that was taken for the other.
type PairPicture struct {
	File string  `json:"file"` // in Folder, with slashes
	Name string  `json:"name"` // in the data set
	True int     `json:"true"`
	Said int     `json:"said"`
	Sure float64 `json:"sure"` // the network's probability of what it said
}

// Saliency is where the best checkpoint looks.
type Saliency struct {
	Source
	Methods []string        `json:"methods"`
	Classes []string        `json:"classes"`
	Images  []SaliencyImage `json:"pictures"`
}

// SaliencyImage is one image with a map of each method.
type SaliencyImage struct {
	File string   `json:"file"`
	Name string   `json:"name"`
	True int      `json:"true"` // -1: unknown
	Said int      `json:"said"`
	Sure float64  `json:"sure"`
	Maps []string `json:"maps"` // files, in the order of Methods
}

// Confused returns the n pairs of classes that are taken for one another most often, without pictures.
func Confused(cells []Cell, n int) []ConfusedPair {
	at := map[[2]int]*ConfusedPair{}
	for _, c := range cells {
		if c.True == c.Said || c.Count == 0 {
			continue
		}
		key := [2]int{min(c.True, c.Said), max(c.True, c.Said)}
		if at[key] == nil {
			at[key] = &ConfusedPair{A: key[0], B: key[1]}
		}
		if c.True == key[0] {
			at[key].AsB += c.Count
		} else {
			at[key].AsA += c.Count
		}
	}
	var all []ConfusedPair
	for _, p := range at {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b ConfusedPair) int {
		return cmp.Or(cmp.Compare(b.AsB+b.AsA, a.AsB+a.AsA), cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B))
	})
	return all[:min(n, len(all))]
}

// Matrix is the confusion matrix, a row a true class.
func (e *Evaluation) Matrix() [][]int {
	m := make([][]int, len(e.Classes))
	for i := range m {
		m[i] = make([]int, len(e.Classes))
	}
	for _, c := range e.Cells {
		m[c.True][c.Said] = c.Count
	}
	return m
}

// recall is the share of each class's images that are recognised, in per cent; -1 for a class without images.
func (e *Evaluation) recall() []float64 {
	out := make([]float64, len(e.Classes))
	for i, row := range e.Matrix() {
		sum := 0
		for _, n := range row {
			sum += n
		}
		if out[i] = -1; sum > 0 {
			out[i] = 100 * float64(row[i]) / float64(sum)
		}
	}
	return out
}

// check refuses what a file of this format cannot say, so that nobody reads beyond an end.
func (e *Evaluation) check() error {
	n := len(e.Classes)
	for _, c := range e.Cells {
		if c.True < 0 || c.True >= n || c.Said < 0 || c.Said >= n || c.Count < 0 {
			return fmt.Errorf("a cell of classes %d and %d among %d", c.True, c.Said, n)
		}
	}
	for _, p := range e.Pairs {
		if p.A < 0 || p.A >= n || p.B < 0 || p.B >= n {
			return fmt.Errorf("a pair of classes %d and %d among %d", p.A, p.B, n)
		}
		for _, m := range p.Pictures {
			if m.True < 0 || m.True >= n || m.Said < 0 || m.Said >= n {
				return fmt.Errorf("a picture of classes %d and %d among %d", m.True, m.Said, n)
			}
		}
	}
	return nil
}

func (s *Saliency) check() error {
	for _, m := range s.Images {
		if m.True >= len(s.Classes) || m.Said < 0 || m.Said >= len(s.Classes) || len(m.Maps) != len(s.Methods) {
			return fmt.Errorf("picture %s has class %d said among %d, and %d maps of %d methods", m.Name, m.Said, len(s.Classes), len(m.Maps), len(s.Methods))
		}
	}
	return nil
}

// ReadEvaluation reads what was computed for a run; nil where nothing was.
func ReadEvaluation(run string) (*Evaluation, error) {
	e := &Evaluation{}
	ok, err := readJSON(filepath.Join(run, Folder, EvaluationFile), e)
	if err == nil && ok {
		err = e.check()
	}
	if err != nil || !ok {
		return nil, described(err, EvaluationFile)
	}
	return e, nil
}

// ReadSaliency reads what was computed for a run; nil where nothing was.
func ReadSaliency(run string) (*Saliency, error) {
	s := &Saliency{}
	ok, err := readJSON(filepath.Join(run, Folder, SaliencyFile), s)
	if err == nil && ok {
		err = s.check()
	}
	if err != nil || !ok {
		return nil, described(err, SaliencyFile)
	}
	return s, nil
}

func described(err error, file string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read %s/%s: %w", Folder, file, err)
}

// readJSON reads a file into v; false where it is not there.
func readJSON(path string, v any) (bool, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return false, fmt.Errorf("damaged or of another program: %w", err)
	}
	return true, nil
}

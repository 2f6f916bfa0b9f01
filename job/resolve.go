package job

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Layer writes the options that its source gives into a run and leaves all others as they are.
type Layer func(*Spec) error

// Resolve lays sources over the recipe's defaults; later ones win. The sources themselves choose the recipe and the
// model whose defaults lie below. The result is not validated.
func Resolve(layers ...Layer) (Spec, error) {
	var choice Spec
	for _, lay := range layers {
		if err := lay(&choice); err != nil {
			return Spec{}, err
		}
	}
	s, err := Default(choice)
	if err != nil {
		return Spec{}, err
	}
	for _, lay := range layers {
		if err := lay(&s); err != nil {
			return Spec{}, err
		}
	}
	return s, nil
}

// File is the layer of a job file: one YAML mapping from names in Options to values. Unknown keys, repeated keys and
// values that the option cannot have are refused with the line; name is used in messages only.
func File(name string, content []byte) Layer {
	return func(s *Spec) error {
		tree, err := parser.ParseBytes(content, 0)
		if err != nil {
			return refuse(name, err)
		}
		if len(tree.Docs) > 1 {
			return fmt.Errorf("%w: job file %s holds %d documents: keep one", ErrConfig, name, len(tree.Docs))
		}
		if len(tree.Docs) == 0 || tree.Docs[0].Body == nil {
			return nil
		}
		body := tree.Docs[0].Body
		mapping, ok := body.(*ast.MappingNode)
		if !ok {
			return fmt.Errorf("%w: job file %s line %d: want lines such as \"epochs: 12\"", ErrConfig, name, line(body))
		}
		for _, entry := range mapping.Values {
			if err := set(s, entry); err != nil {
				return fmt.Errorf("%w: job file %s line %d: %w", ErrConfig, name, line(entry.Key), err)
			}
		}
		return nil
	}
}

// set writes one line of a job file into s.
func set(s *Spec, entry *ast.MappingValueNode) error {
	key := entry.Key.GetToken().Value
	for _, o := range Options() {
		if o.Name != key {
			continue
		}
		if _, ok := entry.Value.(ast.ScalarNode); !ok || entry.Value.Type() == ast.NullType {
			return fmt.Errorf("%s: want one value", key)
		}
		return o.Set(s, entry.Value.GetToken().Value)
	}
	if near := nearest(key); near != "" {
		return fmt.Errorf("unknown key %q: did you mean %q?", key, near)
	}
	return fmt.Errorf("unknown key %q: the keys are the flags of `mp train` without dashes in front", key)
}

// line is the number of the line where a node stands; 0 when the parser does not say.
func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// refuse shortens the parser's error, which quotes the file, to the line and what is wrong there.
func refuse(name string, err error) error {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		return fmt.Errorf("%w: job file %s line %d: %s", ErrConfig, name, at.GetToken().Position.Line, at.GetMessage())
	}
	return fmt.Errorf("%w: job file %s: %w", ErrConfig, name, err)
}

// nearest names the option most like a misspelt one, or none.
func nearest(key string) string {
	best, distance := "", min(3, 1+len(key)/2)
	for _, o := range Options() {
		if d := edits(strings.ReplaceAll(key, "_", "-"), o.Name); d < distance {
			best, distance = o.Name, d
		}
	}
	return best
}

// edits counts the letters to insert, delete or replace that lead from a to b (Levenshtein).
func edits(a, b string) int {
	above := make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		left := i + 1
		for j := range len(b) {
			here := above[j]
			if a[i] != b[j] {
				here = 1 + min(here, above[j+1], left)
			}
			above[j], left = left, here
		}
		above[len(b)] = left
	}
	return above[len(b)]
}

// YAML writes the run as a job file that File reads back to the same run.
func (s Spec) YAML() ([]byte, error) {
	out, err := yaml.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write job as YAML: %w", err)
	}
	return out, nil
}

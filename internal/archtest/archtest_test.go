package archtest

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestTheHouseKeepsItsRules(t *testing.T) {
	files, err := parse(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(f source) bool { return f.name == "main.go" }) {
		t.Fatalf("main.go is not among %d files: the test looks in the wrong folder", len(files))
	}
	for _, b := range check(files) {
		t.Error(b)
	}
	for where := range pure() {
		if !slices.ContainsFunc(files, func(f source) bool { return f.name == where || f.pkg == where }) {
			t.Errorf("pure() names %s, which is not there: its rule guards nothing", where)
		}
	}
}

// Every rule must be able to fail.
func TestEveryRuleCanBreak(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"main.go", "package main\nimport _ \"mp/worker\"", "main.go only calls cmd"},
		{"worker/w.go", "package worker\nimport _ \"mp/cmd\"", "imports mp/cmd"},
		{"worker/w.go", "package worker\nimport _ \"mp/coordinator\"", "meets a coordinator in mppb only"},
		{"worker/w.go", "package worker\nimport _ \"C\"", "only ops and ops/pixel import"},
		{"worker/w.go", "package worker\nimport \"os\"\nvar x = os.Getenv(\"A\")", "only cmd reads"},
		{"worker/w.go", "package worker\nimport _ \"os/signal\"", "only cmd reads"},
		{"model/m.go", "package model\nimport _ \"flag\"", "only cmd reads"},
		{"model/m.go", "package model\nimport _ \"mp/data\"", "knows nothing of data"},
		{"model/m.go", "package model\nimport _ \"mp/internal/shared\"", "for tests only"},
		{"data/d.go", "package data\nimport _ \"mp/ops\"", "data must not need libtorch"},
		{"data/d.go", "package data\nimport _ \"github.com/wangkuiyi/gotorch\"", "data must not need libtorch"},
		{"checkpoint/c.go", "package checkpoint\nimport _ \"golang.org/x/sys/unix\"", "plain bytes"},
		{"job/j.go", "package job\nimport _ \"os\"", "it is pure"},
		{"optim/schedule.go", "package optim\nimport _ \"time\"", "it is pure"},
		{"worker/w.go", "package worker\nimport \"math/rand/v2\"\nvar x = rand.IntN(3)", "comes from the run's seed"},
		{"model/m.go", "package model\nvar seen map[string]int", "without a value"},
		{"model/m.go", "package model\nvar n = 1\nfunc f() { n++ }", "changes the package's variable n"},
		{"model/m.go", "package model\nvar t = map[int]struct{ x []int }{}\nfunc f() { t[1].x[2] = 3 }", "changes the package's variable t"},
		{"util/u.go", "package util", "a package without a rule"},
		{"metrics/m.go", "package metrics\nfunc init() {}", "no init() functions"},
		{"ops/pixel/p.go", "package pixel\nimport _ \"mp/ops\"", "without libtorch"},
	} {
		files, err := parse(fstest.MapFS{c.file: {Data: []byte(c.text)}})
		if err != nil {
			t.Fatal(err)
		}
		if got := check(files); len(got) != 1 || !strings.Contains(got[0], c.want) || !strings.HasPrefix(got[0], c.file+" ") {
			t.Errorf("%s with %q: got %q, want one complaint about %q", c.file, c.text, got, c.want)
		}
	}
}

func TestWhatIsAllowed(t *testing.T) {
	files, err := parse(fstest.MapFS{
		"main.go":           {Data: []byte("package main\nimport (\n\"os\"\n\"mp/cmd\"\n)\nvar _ = os.Args")},
		"cmd/c.go":          {Data: []byte("package cmd\nimport (\n\"os\"\n_ \"os/signal\"\n_ \"github.com/spf13/cobra\"\n_ \"mp/worker\"\n)\nvar _ = os.Args")},
		"data/d.go":         {Data: []byte("package data\nimport _ \"mp/ops/pixel\"")},
		"ops/o.go":          {Data: []byte("package ops\nimport \"C\"\nimport _ \"github.com/wangkuiyi/gotorch\"")},
		"data/rand.go":      {Data: []byte("package data\nimport \"math/rand/v2\"\nfunc f() int { return rand.New(rand.NewPCG(1, 2)).IntN(3) }\nfunc g(rand struct{ X int }) int { return rand.X }")},
		"optim/sgd.go":      {Data: []byte("package optim\nimport _ \"time\"\nimport _ \"mp/ops\"")},
		"model/m.go":        {Data: []byte("package model\nimport (\n\"errors\"\n_ \"embed\"\n)\nvar e = errors.New(\"x\")\nvar t = []int{1}\n//go:embed a\nvar b []byte\nfunc f(t []int) { e := t[0]; t[0] = 1; e = 2; _ = e }")},
		"data/d_test.go":    {Data: []byte("package data\nimport _ \"mp/ops\"")},
		"build/x/y.go":      {Data: []byte("package y\nimport \"C\"")},
		"worker/w.go":       {Data: []byte("package worker\nimport _ \"mp/allreduce/inproc\"\nimport _ \"mp/allreduce\"\nimport _ \"mp/ops\"")},
		"internal/shared/s": {Data: []byte("not Go")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range check(files) {
		t.Error(b)
	}
}

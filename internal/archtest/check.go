package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// source is one file outside tests.
type source struct {
	name    string // below the module's root
	pkg     string // its folder; "" at the root
	imports []string
	tree    *ast.File
}

// parse reads every Go file of the tree that is not a test, a build output or hidden.
func parse(tree fs.FS) ([]source, error) {
	var files []source
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || base == "build" || base == "testdata" || base == "runs") {
				return fs.SkipDir
			}
			if _, err := fs.Stat(tree, path.Join(name, "go.mod")); name != "." && err == nil { // a module of its own, which nothing here can import
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		f := source{name: name, pkg: path.Dir(name), tree: parsed}
		if f.pkg == "." {
			f.pkg = ""
		}
		for _, i := range parsed.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, p)
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

// check returns every broken rule as one line with its reason.
func check(files []source) []string {
	var broken []string
	report := func(f source, format string, args ...any) {
		broken = append(broken, f.name+" "+fmt.Sprintf(format, args...))
	}
	var ours []source
	for _, f := range files {
		checkImports(f, report)
		if ast.IsGenerated(f.tree) { // its shape is its generator's
			continue
		}
		ours = append(ours, f)
		checkOuter(f, report)
		for _, d := range f.tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				report(f, "has an init function: %s", whyInit)
			}
		}
	}
	checkState(ours, report)
	return broken
}

type reporter func(f source, format string, args ...any)

func checkImports(f source, report reporter) {
	all := rooms()
	i := slices.IndexFunc(all, func(r room) bool { return r.path == f.pkg })
	if i < 0 {
		report(f, "is in a package without a rule: add a row to rooms() that says what %s may import and why", f.pkg)
		return
	}
	r := all[i]
	for _, p := range f.imports {
		inside, isInside := strings.CutPrefix(p, module+"/")
		first, _, _ := strings.Cut(p, "/")
		switch {
		case p == "C":
			if !slices.Contains(cgo(), f.pkg) {
				report(f, "imports \"C\": %s", whyC)
			}
		case isInside && slices.Contains(testOnly(), inside):
			report(f, "imports %s, which is for tests only", p)
		case isInside && !matches(r.inside, inside), !isInside && strings.Contains(first, ".") && !matches(r.outside, p):
			report(f, "imports %s: %s", p, r.why)
		}
		for _, where := range []string{f.name, f.pkg} {
			if slices.Contains(pure()[where], p) {
				report(f, "imports %s: %s", p, whyPure)
			}
		}
		if f.pkg != "cmd" && slices.Contains(outerImports(), p) {
			report(f, "imports %s: %s", p, whyOuter)
		}
	}
}

// matches says whether a path is in a list of paths and of patterns that end in "...".
func matches(list []string, p string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		below, ok := strings.CutSuffix(entry, "...")
		if !ok {
			return p == entry
		}
		return strings.HasPrefix(p, below) || p == strings.TrimSuffix(below, "/")
	})
}

// checkOuter finds uses of the process's arguments, environment and random generator where they do not belong.
func checkOuter(f source, report reporter) {
	random := slices.Contains(f.imports, "math/rand") || slices.Contains(f.imports, "math/rand/v2")
	ast.Inspect(f.tree, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := s.X.(*ast.Ident)
		if !ok || x.Obj != nil { // x.Obj: a variable of that name, not the package
			return true
		}
		name := s.Sel.Name
		switch {
		case x.Name == "rand" && random && !slices.Contains(seeded(), name):
			report(f, "uses rand.%s: %s", name, whySeeded)
		case x.Name != "os" || !slices.Contains(outerNames(), name):
		case f.pkg == "cmd" || slices.Contains(testOnly(), f.pkg) || f.name == "main.go" && name == "Args":
		default:
			report(f, "uses os.%s: %s", name, whyOuter)
		}
		return true
	})
}

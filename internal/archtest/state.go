package archtest

import (
	"go/ast"
	"go/token"
)

// checkState finds package variables that change: those without a value from the start, and those assigned to later.
// Tables and errors that are only read may stay variables.
func checkState(files []source, report reporter) {
	variables := map[string]map[string]*ast.ValueSpec{} // by package and name
	for _, f := range files {
		if variables[f.pkg] == nil {
			variables[f.pkg] = map[string]*ast.ValueSpec{}
		}
		for _, d := range f.tree.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				v, ok := s.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for _, name := range v.Names {
					if name.Name == "_" {
						continue
					}
					variables[f.pkg][name.Name] = v
					if len(v.Values) == 0 && !embeds(g.Doc) && !embeds(v.Doc) {
						report(f, "has a variable %s without a value: %s", name.Name, whyState)
					}
				}
			}
		}
	}
	for _, f := range files {
		ast.Inspect(f.tree, func(n ast.Node) bool {
			var changed []ast.Expr
			switch s := n.(type) {
			case *ast.AssignStmt:
				if s.Tok != token.DEFINE {
					changed = s.Lhs
				}
			case *ast.IncDecStmt:
				changed = []ast.Expr{s.X}
			}
			for _, e := range changed {
				id := rootOf(e)
				if id == nil {
					continue
				}
				v, ok := variables[f.pkg][id.Name]
				// Obj is nil for names declared in another file of the package, and the declaration for those of this file.
				if ok && (id.Obj == nil || id.Obj.Decl == v) {
					report(f, "changes the package's variable %s: %s", id.Name, whyState)
				}
			}
			return true
		})
	}
}

// rootOf is the x of x, x.f, x[i] and *x.
func rootOf(e ast.Expr) *ast.Ident {
	for {
		switch t := e.(type) {
		case *ast.Ident:
			return t
		case *ast.SelectorExpr:
			e = t.X
		case *ast.IndexExpr:
			e = t.X
		case *ast.StarExpr:
			e = t.X
		case *ast.ParenExpr:
			e = t.X
		default:
			return nil
		}
	}
}

// embeds says whether a comment is a go:embed directive, which gives a variable its value.
func embeds(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if len(c.Text) > 10 && c.Text[:10] == "//go:embed" {
			return true
		}
	}
	return false
}

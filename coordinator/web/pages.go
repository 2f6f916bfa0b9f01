package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static
var static embed.FS

// pages serves what is embedded.
type pages struct {
	files map[string]page // by path below /static/
}

type page struct {
	content []byte
	kind    string // content type
	tag     string // entity tag: its hash
}

func newPages() (*pages, error) {
	p := &pages{files: map[string]page{}}
	err := fs.WalkDir(static, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		kind := mime.TypeByExtension(path.Ext(name))
		switch path.Ext(name) { // whatever the machine's own table says
		case ".js":
			kind = "text/javascript; charset=utf-8"
		case ".css":
			kind = "text/css; charset=utf-8"
		case ".html":
			kind = "text/html; charset=utf-8"
		case ".svg":
			kind = "image/svg+xml"
		case "":
			kind = "text/plain; charset=utf-8"
		}
		sum := sha256.Sum256(content)
		p.files[strings.TrimPrefix(name, "static/")] = page{content, kind, `"` + hex.EncodeToString(sum[:8]) + `"`}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the embedded pages: %w", err)
	}
	return p, nil
}

// ServeHTTP finds the page of an address. Which run is meant, the page itself reads there.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "%s %s: pages are only read", r.Method, r.URL.Path)
		return
	}
	name, isStatic := strings.CutPrefix(r.URL.Path, "/static/")
	status := http.StatusOK
	switch {
	case isStatic:
	case r.URL.Path == "/":
		name = "index.html"
	case r.URL.Path == "/compare":
		name = "compare.html"
	case strings.HasPrefix(r.URL.Path, "/runs/") && strings.Count(r.URL.Path, "/") == 2:
		name = "run.html"
	case r.URL.Path == "/favicon.ico":
		name = "icon.svg"
	default:
		name, status = "missing.html", http.StatusNotFound
	}
	f, ok := p.files[name]
	if !ok {
		f, status = p.files["missing.html"], http.StatusNotFound
	}
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("Cache-Control", "no-cache") // the tag says whether it is still the same
	if status != http.StatusOK {
		w.WriteHeader(status)
		_, _ = w.Write(f.content)
		return
	}
	w.Header().Set("ETag", f.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

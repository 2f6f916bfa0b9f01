package report

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

var update = flag.Bool("update", false, "write the golden text anew")

// made is when reports of tests are made.
func made() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

// copied is the run of testdata in a folder of its own, under a name as mp train gives it.
func copied(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "20260102-030000-scenenet")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "run"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// replace changes a file of a run.
func replace(t *testing.T, path, old, now string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s holds no %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, now)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// make_ makes a document of runs.
func documentOf(t *testing.T, dirs ...string) *Document {
	t.Helper()
	r := Request{Made: made(), Portable: true, Machine: []Fact{{"program", "mp of a test"}}}
	for _, d := range dirs {
		r.Runs = append(r.Runs, Input{Directory: d, Design: "Three `blocks`.\n\n### Decisions\n\n- One is *enough*.\n\n| side | images |\n|---|---|\n| 64 | 145.1 |\n", Command: "mp train miniplaces --model scenenet"})
	}
	d, _, err := Make(r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// textOf is what people read of an HTML page, a line a block; figures and images are their alternative texts.
func textOf(t *testing.T, page string) string {
	t.Helper()
	var b strings.Builder
	skip := 0
	for z := html.NewTokenizer(strings.NewReader(page)); ; {
		switch z.Next() {
		case html.ErrorToken:
			if z.Err() != io.EOF {
				t.Fatal(z.Err())
			}
			var lines []string
			for _, line := range strings.Split(b.String(), "\n") {
				if line = strings.Join(strings.Fields(line), " "); line != "" && line != "|" {
					lines = append(lines, strings.TrimSuffix(line, " |"))
				}
			}
			return strings.Join(lines, "\n") + "\n"
		case html.TextToken:
			if skip == 0 {
				b.WriteString(string(z.Text()))
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			tag := z.Token()
			switch tag.Data {
			case "style", "title":
				skip++
			case "svg":
				skip++
				b.WriteString("\n[" + attribute(tag, "aria-label") + "]\n")
			case "img":
				b.WriteString("\n[" + attribute(tag, "alt") + "]\n")
			case "h1", "h2", "h3", "h4":
				b.WriteString("\n" + strings.Repeat("#", int(tag.Data[1]-'0')) + " ")
			}
		case html.EndTagToken:
			switch tag := z.Token(); tag.Data {
			case "style", "title", "svg":
				skip--
			case "td", "th":
				b.WriteString(" | ")
			case "p", "li", "tr", "caption", "figcaption", "dt", "dd", "h1", "h2", "h3", "h4":
				b.WriteString("\n")
			}
		}
	}
}

func attribute(tag html.Token, name string) string {
	for _, a := range tag.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func htmlOf(t *testing.T, d *Document) string {
	t.Helper()
	var b bytes.Buffer
	if err := d.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The report of a small run says what the golden text says.
func TestGoldenText(t *testing.T) {
	got := textOf(t, htmlOf(t, documentOf(t, copied(t))))
	golden := filepath.Join("testdata", "run.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Fatalf("line %d:\ngot  %s\nwant %s\n(go test -update writes the text anew)", i+1, g[i], w[i])
			}
		}
		t.Fatalf("got %d lines, want %d", len(g), len(w))
	}
}

// The page asks for nothing from elsewhere, and each of its images and tables says what it is.
func TestPageStandsAlone(t *testing.T) {
	page := htmlOf(t, documentOf(t, copied(t)))
	for z := html.NewTokenizer(strings.NewReader(page)); ; {
		kind := z.Next()
		if kind == html.ErrorToken {
			break
		}
		tag := z.Token()
		if kind != html.StartTagToken && kind != html.SelfClosingTagToken {
			continue
		}
		for _, name := range []string{"src", "href"} {
			if v := attribute(tag, name); v != "" && !strings.HasPrefix(v, "data:image/") && !strings.HasPrefix(v, "#") {
				t.Errorf("<%s> asks for %.60s", tag.Data, v)
			}
		}
		if tag.Data == "img" && attribute(tag, "alt") == "" {
			t.Errorf("an image without an alternative text")
		}
	}
	if tables, captions := strings.Count(page, "<table"), strings.Count(page, "<caption>"); tables < 5 || tables != captions {
		t.Errorf("%d tables with %d captions", tables, captions)
	}
	if strings.Contains(page, "ZgotmplZ") {
		t.Error("the template refused something")
	}
}

// What a run's directory lacks is named, with the command that makes it, and what is damaged is told; the report comes all the same,
// in both forms.
func TestIncompleteRuns(t *testing.T) {
	cut := func(t *testing.T, path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text[:len(text)-30], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, path string) {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		hurt func(t *testing.T, dir string)
		want []string
	}{
		{"no metrics", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "metrics.jsonl")) }, []string{"No epoch is recorded", "no validation is recorded", "as evaluated for this report"}},
		{"no events", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "events.jsonl")) }, []string{"Training and validation by epoch"}},
		{"no job", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "job.yaml")) }, []string{"There is no job.yaml", "The options of the run are not known"}},
		{"a damaged job", func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "job.yaml"), "seed: 7", "seed: [7") }, []string{"job.yaml cannot be read"}},
		{"a half-written last line", func(t *testing.T, dir string) { cut(t, filepath.Join(dir, "metrics.jsonl")) }, []string{"The last line of metrics.jsonl is half-written", "22.50 % top-1"}},
		{"a damaged line", func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "metrics.jsonl"), `"update":20,"images"`, `"update":20,images`)
		}, []string{"1 line of metrics.jsonl cannot be read and left out, the first is line 4"}},
		{"nothing computed", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "report")) }, []string{"No confusion matrix", "No saliency maps", "No attack table: run mp attack miniplaces --checkpoint"}},
		{"a damaged evaluation", func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "report", "evaluation.json"), `"true": 3`, `"true": 4`)
		}, []string{"report/evaluation.json: a cell of classes 4 and", "No confusion matrix"}},
		{"an unreadable picture", func(t *testing.T, dir string) { cut(t, filepath.Join(dir, "report", "attack", "pgd.png")) }, []string{"Picture report/attack/pgd.png is left out", "Accuracy under attack"}},
		{"a picture that is none", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "report", "attack", "pgd.png"), []byte("hello"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"it is neither PNG nor JPEG"}},
		{"a picture elsewhere", func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "report", "saliency.json"), "pictures/0123456789ab/look-01.png", "../../../../etc/passwd")
		}, []string{"it is not in the run's folder"}},
		{"no number", func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "metrics.jsonl"), `"loss":3.2`, `"loss":null`)
		}, []string{"Training and validation by epoch"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copied(t)
			c.hurt(t, dir)
			d := documentOf(t, dir)
			text := textOf(t, htmlOf(t, d))
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
			var b bytes.Buffer
			if err := d.PDF(&b); err != nil {
				t.Error(err)
			}
		})
	}
}

// A path that is no run is named, in the report of the others and in the error.
func TestPathsThatAreNoRuns(t *testing.T) {
	good, empty, file := copied(t), t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{empty: "is no run: it has neither job.yaml nor metrics.jsonl nor events.jsonl", file: "is a file: a run is a directory", filepath.Join(empty, "x"): "there is no such directory"} {
		d, runs, err := Make(Request{Runs: []Input{{Directory: path}}, Made: made()})
		if d != nil || len(runs) > 0 || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("alone: got %v, %v; want ErrConfig and %q", d, err, want)
		}
		d, runs, err = Make(Request{Runs: []Input{{Directory: path}, {Directory: good}}, Made: made()})
		if d == nil || len(runs) != 1 || !errors.Is(err, ErrConfig) {
			t.Fatalf("beside a run: got %v, %v", d, err)
		}
		if text := textOf(t, htmlOf(t, d)); !strings.Contains(text, want) || !strings.Contains(text, "22.50 % top-1") {
			t.Errorf("beside a run: no %q in\n%s", want, text)
		}
	}
	if _, _, err := Make(Request{}); !errors.Is(err, ErrConfig) {
		t.Errorf("no run: got %v", err)
	}
}

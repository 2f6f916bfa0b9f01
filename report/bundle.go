package report

import (
	"archive/zip"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mp/chart"
)

// Bundle is what is handed in: code/, writeup/ and results/, without data, logs and models.
type Bundle struct {
	Code     fs.FS // the program's source; folders of data, runs and builds in it are left out
	Document *Document
	Runs     []*Run
	Made     time.Time // of all files
}

// sources are the names, or their ends, of files that belong to code.
func sources() []string {
	return []string{".go", ".mod", ".sum", ".c", ".cc", ".h", ".cu", ".proto", ".py", ".sh", ".md", ".yaml", ".yml", ".html", ".css", ".js", ".svg", ".txt", ".json", ".service",
		"Makefile", "Dockerfile", "LICENSE", ".gitignore", ".dockerignore"}
}

// noCode are folders that hold no code, wherever they are; those that begin with a dot, but for CI's, are left out too.
func noCode() []string {
	return []string{"build", "runs", "images", "objects", "miniplaces", "report", "checkpoints", "venv", "node_modules"}
}

// maxSource is the size in bytes beyond which a file of any name is data.
const maxSource = 1 << 20

// Write writes the bundle as a zip file. All names in it are relative.
func (b Bundle) Write(w io.Writer) error {
	z := &zipper{zip: zip.NewWriter(w), made: b.Made}
	for _, write := range []func(*zipper) error{b.code, b.writeup, b.results, (*zipper).close} {
		if err := write(z); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
	}
	return nil
}

type zipper struct {
	zip  *zip.Writer
	made time.Time
}

func (z *zipper) close() error { return z.zip.Close() }

func (z *zipper) add(name string, content []byte) error {
	f, err := z.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: z.made})
	if err == nil {
		_, err = f.Write(content)
	}
	return err
}

// code copies the sources.
func (b Bundle) code(z *zipper) error {
	found := false
	err := fs.WalkDir(b.Code, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			// Our own package of this name is code; a run's folder of this name lies in a run.
			isPackage := base == "report" && hasGo(b.Code, name)
			if name != "." && (strings.HasPrefix(base, ".") && base != ".ci" || slices.Contains(noCode(), base) && !isPackage || isRun(b.Code, name)) {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil || !d.Type().IsRegular() || info.Size() > maxSource || !isSource(base, name) {
			return err
		}
		content, err := fs.ReadFile(b.Code, name)
		if err != nil {
			return err
		}
		found = true
		return z.add("code/"+name, content)
	})
	if err == nil && !found {
		err = errors.New("there is no source: name the program's folder with --code")
	}
	return err
}

func isSource(base, name string) bool {
	if base == "run" && path.Base(path.Dir(name)) == ".ci" {
		return true
	}
	if list := []string{"train.txt", "val.txt", "test.txt", "categories.txt"}; slices.Contains(list, base) && path.Dir(name) == "." {
		return false // of a data set
	}
	return slices.ContainsFunc(sources(), func(end string) bool { return strings.HasSuffix(base, end) })
}

func hasGo(f fs.FS, dir string) bool {
	found, err := fs.Glob(f, path.Join(dir, "*.go"))
	return err == nil && len(found) > 0
}

// isRun says whether a folder is a run's directory.
func isRun(f fs.FS, dir string) bool {
	_, err := fs.Stat(f, path.Join(dir, "metrics.jsonl"))
	return err == nil && !strings.Contains(dir, "testdata")
}

// writeup adds the report in both of its forms.
func (b Bundle) writeup(z *zipper) error {
	for _, form := range []struct {
		name  string
		write func(io.Writer) error
	}{{"writeup/report.pdf", b.Document.PDF}, {"writeup/report.html", b.Document.HTML}} {
		var content bytes.Buffer
		if err := form.write(&content); err != nil {
			return err
		}
		if err := z.add(form.name, content.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// results adds each run's figures as tables and curves.
func (b Bundle) results(z *zipper) error {
	for _, r := range b.Runs {
		files, err := r.results()
		if err != nil {
			return fmt.Errorf("results of %s: %w", r.Name, err)
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := z.add("results/"+fileName(r.Name)+"/"+name, files[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// results are the run's files by name.
func (r *Run) results() (map[string][]byte, error) {
	files := map[string][]byte{}
	var err error
	if files["job.yaml"], err = r.portableJob(); err != nil {
		return nil, err
	}
	if files["epochs.csv"], err = r.csv(); err != nil {
		return nil, err
	}
	for _, c := range r.epochCurves(chart.Series(0), "") {
		picture, err := chart.PNG(c.figure, 2)
		if errors.Is(err, chart.ErrEmpty) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[c.name+".png"] = picture
	}
	if r.evaluation != nil {
		slim := *r.evaluation
		slim.Pairs = slices.Clone(slim.Pairs)
		for i := range slim.Pairs {
			slim.Pairs[i].Pictures = nil // images of the data set
		}
		if files[EvaluationFile], err = json.MarshalIndent(slim, "", " "); err != nil {
			return nil, err
		}
	}
	if len(r.bench) > 0 {
		if files[BenchConvFile], err = json.MarshalIndent(map[string][]benchRow{"rows": r.bench}, "", " "); err != nil {
			return nil, err
		}
	}
	if rows := r.attackRows(); len(rows) > 0 {
		if files[AttackFile], err = json.MarshalIndent(attackFound{Rows: rows}, "", " "); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// fileName is a run's name as part of a path.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r == ':' || r < ' ' {
			return '-'
		}
		return r
	}, strings.TrimLeft(name, "."))
}

// portableJob is the run's job file without folders of this machine.
func (r *Run) portableJob() ([]byte, error) {
	var b strings.Builder
	for _, item := range r.options {
		value := valueText(item.Value)
		if filepath.IsAbs(value) {
			value = filepath.Base(value)
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		if _, word := item.Value.(string); !word {
			text = []byte(value)
		}
		fmt.Fprintf(&b, "%v: %s\n", item.Key, text)
	}
	return []byte(b.String()), nil
}

// csv is the table of epochs for other programs.
func (r *Run) csv() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{{"epoch", "train_loss", "train_top1", "train_top5", "train_seconds", "images_per_second", "val_loss", "val_top1", "val_top5", "robust_top1"}}
	cell := func(v float64) string {
		if math.IsNaN(v) {
			return ""
		}
		return fmt.Sprintf("%.6g", v)
	}
	at := map[int]int{}
	row := func(epoch int) []string {
		if at[epoch] == 0 {
			at[epoch] = len(rows)
			rows = append(rows, append([]string{fmt.Sprint(epoch)}, make([]string, len(rows[0])-1)...))
		}
		return rows[at[epoch]]
	}
	for _, e := range r.epochs {
		c := row(e.Epoch)
		c[1], c[2], c[3], c[4], c[5] = cell(float64(e.Loss)), cell(e.Top1), cell(e.Top5), cell(e.Seconds), cell(e.ImagesPerSecond)
	}
	for _, v := range r.validations {
		c := row(v.Epoch)
		c[6], c[7], c[8] = cell(float64(v.Loss)), cell(v.Top1), cell(v.Top5)
		if v.Robust != nil {
			c[9] = cell(v.Robust.Top1)
		}
	}
	err := w.WriteAll(rows)
	return b.Bytes(), err
}

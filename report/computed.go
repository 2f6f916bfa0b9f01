package report

import (
	"bytes"
	"fmt"
	"image"
	_ "image/jpeg" // pictures may be either
	_ "image/png"
	"os"
	"path/filepath"
	"strings"
)

// attackRow is a row of what `mp attack --json` prints; its format is that verb's.
type attackRow struct {
	Attack   string   `json:"attack"`
	Norm     string   `json:"norm"`
	Eps      float64  `json:"eps"`
	Steps    int      `json:"steps"`
	Images   int      `json:"images"`
	Clean1   float64  `json:"clean_top1"`
	Clean5   float64  `json:"clean_top5"`
	Top1     float64  `json:"top1"`
	Top5     float64  `json:"top5"`
	Success  float64  `json:"success"`
	Linf     float64  `json:"linf"`
	L2       float64  `json:"l2"`
	Seconds  float64  `json:"seconds"`
	Warnings []string `json:"warnings"`
}

// attackFound is one result of `mp attack` in the run's folder.
type attackFound struct {
	folder string      // in Folder, where the pictures are
	Rows   []attackRow `json:"rows"`
	Curve  []attackRow `json:"curve"`
}

// explainedRow is a row of what `mp explain --scores` leaves.
type explainedRow struct {
	Method     string   `json:"method"`
	Images     int      `json:"images"`
	Seconds    float64  `json:"seconds"`
	Deletion   *float64 `json:"deletion_auc"`
	Insertion  *float64 `json:"insertion_auc"`
	Infidelity *float64 `json:"infidelity"`
}

// benchRow is a row of what `mp bench conv --json` prints.
type benchRow struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"`
	Peer  string  `json:"peer"`
}

// readComputed reads what was computed about the run after it.
func (r *Run) readComputed() {
	var err error
	if r.evaluation, err = ReadEvaluation(r.Directory); err != nil {
		r.remark("%v.", err)
	}
	if r.saliency, err = ReadSaliency(r.Directory); err != nil {
		r.remark("%v.", err)
	}
	folder := filepath.Join(r.Directory, Folder)
	found, err := filepath.Glob(filepath.Join(folder, "*", AttackFile))
	if err != nil { // the folder's name is a bad pattern
		r.remark("Folders of attacks cannot be looked for (%v).", err)
	}
	alone, _ := filepath.Glob(filepath.Join(folder, "attack*.json")) // the same pattern but for its end
	for _, path := range append(found, alone...) {
		a := attackFound{}
		ok, err := readJSON(path, &a)
		inside, _ := filepath.Rel(folder, path)
		if err != nil {
			r.remark("`%s/%s`: %v.", Folder, filepath.ToSlash(inside), err)
			continue
		}
		if ok && len(a.Rows) > 0 {
			a.folder = filepath.Dir(path)
			r.attacks = append(r.attacks, a)
		}
	}
	scores, _ := filepath.Glob(filepath.Join(folder, "*", ExplainFile))
	for _, path := range scores {
		var e struct {
			Rows []explainedRow `json:"rows"`
		}
		if _, err := readJSON(path, &e); err != nil {
			r.remark("`%s`: %v.", ExplainFile, err)
		}
		r.explained = append(r.explained, e.Rows...)
	}
	var b struct {
		Rows []benchRow `json:"rows"`
	}
	if _, err := readJSON(filepath.Join(folder, BenchConvFile), &b); err != nil {
		r.remark("`%s/%s`: %v.", Folder, BenchConvFile, err)
	}
	r.bench = b.Rows
}

// image reads a picture of the run, all of it, so that a damaged one is noticed here and not by whoever looks at the report.
func (r *Run) image(path, alt string) (Image, bool) {
	text, err := os.ReadFile(path)
	if err == nil {
		var m image.Image
		var kind string
		if m, kind, err = image.Decode(bytes.NewReader(text)); err == nil {
			return Image{Bytes: text, Type: kind, Width: m.Bounds().Dx(), Height: m.Bounds().Dy(), Alt: alt}, true
		}
	}
	inside, relative := filepath.Rel(r.Directory, path)
	if relative != nil {
		inside = path
	}
	r.remark("Picture `%s` is left out: %s.", filepath.ToSlash(inside), cause(err))
	return Image{}, false
}

// computedImage is a picture in Folder, by its name with slashes.
func (r *Run) computedImage(name, alt string) (Image, bool) {
	local := filepath.FromSlash(name)
	if !filepath.IsLocal(local) {
		r.remark("Picture `%s` is left out: it is not in the run's folder.", name)
		return Image{}, false
	}
	return r.image(filepath.Join(r.Directory, Folder, local), alt)
}

// cause is why a picture cannot be read.
func cause(err error) string {
	switch {
	case os.IsNotExist(err):
		return "it is not there"
	case strings.Contains(err.Error(), "unknown format"):
		return "it is neither PNG nor JPEG"
	}
	return fmt.Sprintf("it cannot be read (%v)", err)
}

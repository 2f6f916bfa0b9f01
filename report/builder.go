package report

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"mp/chart"
)

// builder puts a document together, a section after another.
type builder struct {
	made     time.Time
	machine  []Fact
	runs     []*Run
	warnings []string // about what was asked for
	doc      Document
	missing  []string
}

// build writes all sections. What they find missing is listed at the end, what is wrong at the beginning.
func (b *builder) build() *Document {
	b.doc = Document{Made: b.made}
	for _, write := range []func(){b.inShort, b.what, b.learning, b.mistakes, b.looking, b.attacked, b.convolutions, b.transformer, b.ownDesign, b.robustness, b.way, b.repeat, b.missingParts} {
		write()
	}
	b.complain()
	b.doc.Missing = b.missing
	return &b.doc
}

// several says whether runs are compared.
func (b *builder) several() bool { return len(b.runs) > 1 }

// section begins a section; what add is given stands in it.
func (b *builder) section(level int, id, title string) {
	b.doc.Sections = append(b.doc.Sections, Section{ID: id, Title: title, Level: level})
}

// part begins a part of a chapter about one run, where there are several.
func (b *builder) part(r *Run, id string) {
	if b.several() {
		b.section(3, fmt.Sprintf("%s-%d", id, b.index(r)+1), r.Name)
	}
}

func (b *builder) add(blocks ...Block) {
	s := &b.doc.Sections[len(b.doc.Sections)-1]
	s.Blocks = append(s.Blocks, blocks...)
}

// lacks names what is not there, here and in the list at the end.
func (b *builder) lacks(r *Run, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.add(Note{NoteMissing, spans(text)})
	if r != nil && b.several() {
		text = r.Name + ": " + text
	}
	b.missing = append(b.missing, text)
}

// index is the place of a run among those compared, which also chooses its colour.
func (b *builder) index(r *Run) int {
	for i, o := range b.runs {
		if o == r {
			return i
		}
	}
	return 0
}

func (b *builder) ink(r *Run) chart.Ink { return chart.Series(b.index(r)) }

// data is the folder of images as the run's job names it, for commands to type.
func (r *Run) data() string {
	if d := r.option("data"); d != "" {
		return d
	}
	return "DATA"
}

// place is the run's directory, for commands to type.
func (r *Run) place() string {
	if r.portable && !filepath.IsLocal(r.Directory) {
		return "runs/" + filepath.Base(r.Directory)
	}
	return r.Directory
}

// plot adds curves, unless there is nothing to draw.
func (b *builder) plot(caption string, c chart.Lines) bool {
	for _, l := range c.Curves {
		if len(l.Points) > 0 {
			b.add(Plot{Figure: c, Caption: caption})
			return true
		}
	}
	return false
}

// missingParts lists what is not in the report.
func (b *builder) missingParts() {
	b.section(2, "missing", "What is missing")
	if len(b.missing) == 0 {
		b.add(prose("Nothing that this report knows of."))
		return
	}
	b.add(prose("Each part that could not be made, and how to make it. Made parts appear when the report is made again."))
	var l List
	for _, m := range b.missing {
		l.Items = append(l.Items, spans(m))
	}
	b.add(l)
}

// complain says at the beginning what is wrong with the files: all sections have read them by then.
func (b *builder) complain() {
	var notes []Block
	for _, w := range append(b.warnings, b.differences()...) {
		notes = append(notes, Note{NoteWarning, spans(w)})
	}
	for _, r := range b.runs {
		for _, text := range r.Remarks {
			if b.several() {
				text = r.Name + ": " + text
			}
			notes = append(notes, Note{NoteWarning, spans(text)})
		}
	}
	first := &b.doc.Sections[0]
	first.Blocks = append(notes, first.Blocks...)
}

// differences says where runs are not of the same images: their figures cannot be compared then.
func (b *builder) differences() []string {
	var out []string
	images, digests := map[int][]string{}, map[string][]string{}
	for _, r := range b.runs {
		if n := len(r.validations); n > 0 {
			images[r.validations[n-1].Images] = append(images[r.validations[n-1].Images], r.Name)
		}
		if r.evaluation != nil {
			digests[r.evaluation.Data] = append(digests[r.evaluation.Data], r.Name)
		}
	}
	switch {
	case len(images) > 1:
		var parts []string
		for _, r := range b.runs {
			if n := len(r.validations); n > 0 {
				parts = append(parts, fmt.Sprintf("%s on %s", r.Name, count(r.validations[n-1].Images, "image")))
			}
		}
		out = append(out, fmt.Sprintf("The runs were validated on different data sets (%s): their accuracies cannot be compared.", strings.Join(parts, ", ")))
	case len(digests) > 1:
		out = append(out, "The runs were evaluated on different validation images, though as many: their accuracies cannot be compared.")
	}
	folders := map[string]bool{}
	for _, r := range b.runs {
		folders[r.option("data")] = true
	}
	if len(out) == 0 && len(folders) > 1 && len(digests) != 1 {
		out = append(out, "The runs name different folders of images, of the same size: whether they hold the same images is not known.")
	}
	return out
}

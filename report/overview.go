package report

import (
	"fmt"
	"math"
)

// inShort is the first chapter: what came out.
func (b *builder) inShort() {
	b.section(2, "in-short", "In short")
	if b.several() {
		b.doc.Title = fmt.Sprintf("%d runs compared", len(b.runs))
		var names []string
		for _, r := range b.runs {
			names = append(names, r.Name)
		}
		b.doc.Subtitle = joined(names)
	} else {
		r := b.runs[0]
		b.doc.Title = r.Name
		b.doc.Subtitle = sentence(r)
	}
	b.keys()
	var l List
	for _, r := range b.runs {
		l.Items = append(l.Items, b.finding(r)...)
	}
	if len(l.Items) > 0 {
		b.add(l)
	}
	if b.several() {
		b.glance()
	}
}

// sentence says in a line what a run is.
func sentence(r *Run) string {
	text := r.option("model")
	if text == "" {
		return "a run whose job is not known"
	}
	text += ", "
	if r.option("conv") == "own" {
		text += "own convolution, "
	}
	if r.adversarial() {
		text += fmt.Sprintf("trained against %s, ", r.option("adversarial"))
	}
	return text + fmt.Sprintf("recipe %s, %s epochs", r.option("recipe"), r.option("epochs"))
}

// keys are the figures in large letters: of the run, or of the best of several.
func (b *builder) keys() {
	r := b.leader()
	if r == nil {
		return
	}
	v := r.best()
	of := ""
	if b.several() {
		of = ", " + r.Name
	}
	b.doc.Keys = append(b.doc.Keys, Key{percent(v.Top1), "%", "best validation top-1" + of}, Key{percent(v.Top5), "%", "top-5 of the same epoch"})
	if v.Robust != nil {
		b.doc.Keys = append(b.doc.Keys, Key{percent(v.Robust.Top1), "%", "top-1 under attack"})
	}
	if b.several() {
		return
	}
	b.doc.Keys = append(b.doc.Keys, Key{fmt.Sprint(v.Epoch), fmt.Sprintf("of %d", v.Epochs), "the best epoch"})
	if s := r.seconds(); s > 0 {
		b.doc.Keys = append(b.doc.Keys, Key{span(s), "", "training and validation"})
	}
	if r.evaluation != nil {
		b.doc.Keys = append(b.doc.Keys, Key{figure(float64(r.evaluation.Parameters)/1e6, 2), "million", "parameters"})
	}
}

// leader is the run with the best top-1.
func (b *builder) leader() *Run {
	var out *Run
	for _, r := range b.runs {
		if r.best() != nil && (out == nil || r.best().Top1 > out.best().Top1) {
			out = r
		}
	}
	return out
}

// finding says in words what the figures of a run show.
func (b *builder) finding(r *Run) [][]Span {
	v := r.best()
	if v == nil {
		b.missing = append(b.missing, r.Name+": no validation is recorded: the run ended before its first epoch did, or its files were lost.")
		if e := r.evaluation; e != nil {
			return [][]Span{spans(fmt.Sprintf("%s: %s %% top-1 and %s %% top-5 on %s, as evaluated for this report; no validation of the training is recorded.", r.Name, percent(e.Top1), percent(e.Top5), count(e.Images, "validation image")))}
		}
		return [][]Span{spans(fmt.Sprintf("%s: no validation is recorded, so there is no result.", r.Name))}
	}
	text := fmt.Sprintf("%s: %s %% top-1 and %s %% top-5 on %s after epoch %d of %d", r.Name, percent(v.Top1), percent(v.Top5), count(v.Images, "validation image"), v.Epoch, v.Epochs)
	text += fmt.Sprintf(" (± %s, one standard error).", figure(standardError(v.Top1, v.Images), 2))
	if last := r.validations[len(r.validations)-1]; last.Epoch < last.Epochs {
		text += fmt.Sprintf(" The run has done %d of its %d epochs.", last.Epoch, last.Epochs)
	} else if e := r.lastEpoch(); e != nil && last.Update == e.Update {
		gap := e.Top1 - last.Top1
		switch {
		case gap > 5:
			text += fmt.Sprintf(" At the end it is right %s points more often on the images it learns from: it overfits.", figure(gap, 1))
		case gap < -5:
			text += fmt.Sprintf(" At the end it is right %s points less often on the varied images it learns from: it is held back, not overfitted.", figure(-gap, 1))
		default:
			text += " At the end training and validation are level within five points."
		}
	}
	out := [][]Span{spans(text)}
	if e := r.evaluation; e != nil && e.Images == v.Images && math.Abs(e.Top1-v.Top1) > .5 {
		out = append(out, spans(fmt.Sprintf("%s: evaluated again for this report, the best checkpoint has %s %%; training said %s %%.", r.Name, percent(e.Top1), percent(v.Top1))))
	}
	return out
}

// standardError is how far, in points, an accuracy measured on so many images lies from that on all images like them.
func standardError(top1 float64, images int) float64 {
	p := top1 / 100
	return 100 * math.Sqrt(p*(1-p)/float64(max(images, 1)))
}

func (r *Run) lastEpoch() *lastEpoch {
	if n := len(r.epochs); n > 0 {
		return &lastEpoch{r.epochs[n-1].Update, r.epochs[n-1].Top1}
	}
	return nil
}

// lastEpoch is the training side of the end of a run.
type lastEpoch struct {
	Update int
	Top1   float64
}

// glance is a table of all runs.
func (b *builder) glance() {
	t := Table{Caption: "The runs at a glance: validation of the best epoch.", Columns: []Column{
		{"run", false}, {"model", false}, {"conv", false}, {"epochs", true}, {"best", true}, {"top-1", true}, {"top-5", true}, {"loss", true}, {"attacked top-1", true}, {"images/s", true}, {"memory", true}, {"time", true},
	}}
	for i, r := range b.runs {
		row := []string{r.Name, r.option("model"), r.option("conv"), r.option("epochs"), "–", "–", "–", "–", "–", rate(r.speed()), mebibytes(r.memory()), "–"}
		if v := r.best(); v != nil {
			row[4], row[5], row[6], row[7] = fmt.Sprint(v.Epoch), percent(v.Top1), percent(v.Top5), figure(float64(v.Loss), 3)
			if v.Robust != nil {
				row[8] = percent(v.Robust.Top1)
			}
		}
		if s := r.seconds(); s > 0 {
			row[11] = span(s)
		}
		if r == b.leader() {
			t.Best = i + 1
		}
		t.Rows = append(t.Rows, row)
	}
	b.add(dropEmpty(t))
}

// dropEmpty leaves out columns in which nothing is known.
func dropEmpty(t Table) Table {
	out := Table{Caption: t.Caption, Best: t.Best, Rows: make([][]string, len(t.Rows))}
	for i, c := range t.Columns {
		known := i == 0
		for _, row := range t.Rows {
			known = known || row[i] != "–" && row[i] != ""
		}
		if !known {
			continue
		}
		out.Columns = append(out.Columns, c)
		for j, row := range t.Rows {
			out.Rows[j] = append(out.Rows[j], row[i])
		}
	}
	return out
}

package report

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mp/chart"
	"mp/metrics"
)

// attacked is the chapter on attacks.
func (b *builder) attacked() {
	b.section(2, "attacks", "Under attack")
	for _, r := range b.runs {
		b.part(r, "attacks")
		if len(r.attacks) == 0 {
			b.lacks(r, "No attack table: run `mp attack %s --checkpoint %s --attack course,pgd --eps 1/255 --out %s/%s/attack`.", r.data(), r.place(), r.place(), Folder)
		} else {
			b.attackTable(r)
			b.attackCurves(r)
			b.attackSheets(r)
		}
		if r.adversarial() {
			b.tagged(r, metrics.TagAdversarial)
		}
	}
}

// attackTable has a row an attack.
func (b *builder) attackTable(r *Run) {
	t := Table{Caption: "Accuracy under attack" + b.of(r) + ", per cent: before, and after each attack. Success is of the images that were recognised before; l∞ is the largest change of a value times 255.",
		Columns: []Column{{"attack", false}, {"norm", false}, {"eps", true}, {"steps", true}, {"images", true}, {"clean top-1", true}, {"top-5", true}, {"attacked top-1", true}, {"top-5", true}, {"success", true}, {"l∞ × 255", true}, {"l2", true}, {"time", true}}}
	var warnings List
	for _, row := range r.attackRows() {
		t.Rows = append(t.Rows, []string{row.Attack, row.Norm, epsText(row.Eps), fmt.Sprint(row.Steps), fmt.Sprint(row.Images), figure(row.Clean1, 1), figure(row.Clean5, 1), figure(row.Top1, 1),
			figure(row.Top5, 1), figure(row.Success, 1), figure(255*row.Linf, 2), figure(row.L2, 2), span(row.Seconds)})
		for _, w := range row.Warnings {
			warnings.Items = append(warnings.Items, spans(row.Attack+": "+w))
		}
	}
	b.add(t)
	if len(warnings.Items) > 0 {
		b.add(warnings)
	}
}

// attackRows are the rows of all results in the run's folder.
func (r *Run) attackRows() []attackRow {
	var out []attackRow
	for _, a := range r.attacks {
		out = append(out, a.Rows...)
	}
	return out
}

// attackCurves draws what `mp attack --curve` measured.
func (b *builder) attackCurves(r *Run) {
	for _, a := range r.attacks {
		if len(a.Curve) < 2 {
			continue
		}
		steps := a.Curve[0].Steps != a.Curve[1].Steps
		c := chart.Lines{XLabel: "eps × 255", YLabel: "top-1, per cent", FromZero: true, LogX: steps}
		if steps {
			c.XLabel = "steps"
		}
		for _, p := range a.Curve {
			if n := len(c.Curves); n == 0 || c.Curves[n-1].Name != p.Attack {
				c.Curves = append(c.Curves, chart.Curve{Name: p.Attack, Ink: chart.Series(n), Dots: true})
				if !steps {
					c.Curves[n].Points = append(c.Curves[n].Points, [2]float64{0, p.Clean1})
				}
			}
			l := &c.Curves[len(c.Curves)-1]
			if steps {
				l.Points = append(l.Points, [2]float64{float64(p.Steps), p.Top1})
			} else {
				l.Points = append(l.Points, [2]float64{255 * p.Eps, p.Top1})
			}
		}
		b.plot("Accuracy under attack by "+strings.TrimSuffix(c.XLabel, " × 255")+b.of(r)+".", c)
	}
}

// attackSheets shows images before and after each attack.
func (b *builder) attackSheets(r *Run) {
	for _, a := range r.attacks {
		for _, row := range a.Rows {
			path := filepath.Join(a.folder, filepath.Base(row.Attack)+".png")
			if _, err := os.Stat(path); err != nil {
				continue // saved with --json alone
			}
			caption := fmt.Sprintf("Images before and after %s, eps %s%s, and the change, amplified.", row.Attack, epsText(row.Eps), b.of(r))
			if m, ok := r.image(path, caption); ok {
				b.add(Picture{m, caption})
			}
		}
	}
}

// robustness is the chapter on training against attacks beside training without.
func (b *builder) robustness() {
	var against, control []*Run
	for _, r := range b.runs {
		if r.adversarial() {
			against = append(against, r)
		} else {
			control = append(control, r)
		}
	}
	if len(against) == 0 || !b.several() {
		return
	}
	b.section(2, "robustness", "Training against attacks beside training without")
	t := Table{Caption: "Clean and attacked top-1, per cent. Rows of training: the training images that are held out, which PGD-10 attacks after each epoch. Other rows: saved results of mp attack. Kept is attacked of clean.",
		Columns: []Column{{"run", false}, {"trained against", false}, {"attack", false}, {"eps", true}, {"images", true}, {"clean", true}, {"attacked", true}, {"kept", true}}}
	bars := chart.Bars{Unit: "%", Series: []string{"clean", "attacked"}}
	for _, r := range append(slices.Clone(control), against...) {
		how := "–"
		if r.adversarial() {
			how = fmt.Sprintf("%s, %s", r.option("adversarial"), r.option("adv-eps"))
		}
		add := func(attack, eps string, images int, clean, attacked float64) {
			t.Rows = append(t.Rows, []string{r.Name, how, attack, eps, fmt.Sprint(images), percent(clean), percent(attacked), share(attacked, clean)})
			bars.Rows = append(bars.Rows, chart.Row{Name: fmt.Sprintf("%s, %s %s", r.Name, attack, eps), Values: []float64{clean, attacked}})
		}
		if v := r.best(); v != nil && v.Robust != nil {
			clean := math.NaN()
			if v.Robust.CleanTop1 != nil {
				clean = *v.Robust.CleanTop1
			}
			add("PGD-10, training", r.option("adv-eps"), v.Robust.Images, clean, v.Robust.Top1)
		}
		for _, row := range r.attackRows() {
			add(row.Attack, epsText(row.Eps), row.Images, row.Clean1, row.Top1)
		}
		if len(r.attackRows()) == 0 {
			b.lacks(r, "No saved attack to compare with: run `mp attack %s --checkpoint %s --attack pgd --eps %s --out %s/%s/attack`, and the same for the other runs.", r.data(), r.place(), b.radius(against), r.place(), Folder)
		}
	}
	if len(control) == 0 {
		b.lacks(nil, "No control: report a run of the same options without `--adversarial` beside these.")
	}
	if len(t.Rows) == 0 {
		return
	}
	b.add(t)
	b.add(Plot{Figure: bars, Caption: "Top-1 accuracy on clean and on attacked images."})
	b.verdicts(control, against)
	for _, r := range against {
		for _, c := range control {
			if c.option("model") == r.option("model") {
				b.caution(r, c, "adversarial")
			}
		}
	}
}

// share is a part of what there was, in per cent.
func share(part, whole float64) string {
	if !(whole > 0) {
		return "–"
	}
	return figure(100*part/whole, 0) + " %"
}

// radius is what the runs trained against.
func (b *builder) radius(against []*Run) string {
	if eps := against[0].option("adv-eps"); eps != "" {
		return eps
	}
	return "8/255"
}

// verdicts says what training against attacks gains and costs under the same attack.
func (b *builder) verdicts(control, against []*Run) {
	var l List
	for _, r := range against {
		for _, c := range control {
			for _, x := range r.attackRows() {
				for _, y := range c.attackRows() {
					if x.Attack == y.Attack && x.Eps == y.Eps && x.Norm == y.Norm && x.Steps == y.Steps {
						l.Items = append(l.Items, spans(fmt.Sprintf("%s at eps %s: %s keeps %s %% of its images right under attack, %s %s %% (%s points); without attack %s and %s %% (%s points).", x.Attack, epsText(x.Eps),
							r.Name, figure(x.Top1, 1), c.Name, figure(y.Top1, 1), signed(x.Top1-y.Top1, 1), figure(x.Clean1, 1), figure(y.Clean1, 1), signed(x.Clean1-y.Clean1, 1))))
					}
				}
			}
		}
	}
	if len(l.Items) > 0 {
		b.add(l)
	}
}

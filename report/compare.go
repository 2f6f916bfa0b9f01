package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"mp/chart"
	"mp/metrics"
)

// pick is the best run that a condition holds for; nil where there is none.
func (b *builder) pick(holds func(*Run) bool) *Run {
	var out *Run
	for _, r := range b.runs {
		if holds(r) && (out == nil || r.top1() > out.top1()) {
			out = r
		}
	}
	return out
}

// top1 is the best validation's; -1 where there is none.
func (r *Run) top1() float64 {
	if v := r.best(); v != nil {
		return v.Top1
	}
	return -1
}

// natural is a run of a model that does not train against attacks.
func natural(models ...string) func(*Run) bool {
	return func(r *Run) bool { return slices.Contains(models, r.option("model")) && !r.adversarial() }
}

// transformer is the chapter on the vision transformer beside a convolutional network.
func (b *builder) transformer() {
	vit := b.pick(natural("simplevit"))
	cnn := b.pick(natural("simplenet"))
	if cnn == nil {
		cnn = b.pick(natural("scenenet", "resnet18"))
	}
	if vit == nil || cnn == nil {
		return
	}
	b.section(2, "transformer", "The vision transformer beside the convolutional network")
	b.beside(vit, cnn)
	b.add(prose("Why they may differ: a convolution sees neighbours and treats every place alike from the start, a transformer has to learn both from the images; in return its global blocks see the whole image at once. The shorter the training and the fewer the images, the more the first counts. " +
		"On all of MiniPlaces the course's own programs reach 41.9 to 44.6 %% with the transformer in 90 epochs, and 43.8 to 44.3 %% with SimpleNet in 60."))
}

// ownDesign is the chapter on our own network beside the fine-tuned one.
func (b *builder) ownDesign() {
	own, fine := b.pick(natural("scenenet")), b.pick(natural("resnet18"))
	if own == nil || fine == nil {
		return
	}
	b.section(2, "own-design", "Our own design beside ResNet-18")
	b.beside(own, fine)
	start := "It began with random weights, like scenenet: no file of weights was given with `--init`."
	if init := fine.option("init"); init != "" {
		start = fmt.Sprintf("ResNet-18 began with the weights of `%s`; scenenet began with random ones. What ImageNet taught the first is not counted in its epochs or its time.", init)
	}
	b.add(prose("%s On all of MiniPlaces the course's fine-tuned ResNet-18 reaches 52.1 to 53.0 %% in 60 epochs.", start))
}

// measure is one line of a comparison of two runs.
type measure struct {
	name string
	of   func(*Run) float64 // NaN where it is not known
	text func(float64) string
	diff func(a, b float64) string
}

func ratio(a, b float64) string { return figure(a/b, 2) + " ×" }

func measures() []measure {
	points := func(a, b float64) string { return signed(a-b, 2) }
	best := func(f func(*metrics.Validation) float64) func(*Run) float64 {
		return func(r *Run) float64 {
			if v := r.best(); v != nil {
				return f(v)
			}
			return math.NaN()
		}
	}
	known := func(f func(*Run) float64) func(*Run) float64 {
		return func(r *Run) float64 {
			if v := f(r); v != 0 {
				return v
			}
			return math.NaN()
		}
	}
	return []measure{
		{"best validation top-1, %", best(func(v *metrics.Validation) float64 { return v.Top1 }), percent, points},
		{"top-5 of that epoch, %", best(func(v *metrics.Validation) float64 { return v.Top5 }), percent, points},
		{"validation loss of that epoch", best(func(v *metrics.Validation) float64 { return float64(v.Loss) }), func(v float64) string { return figure(v, 4) }, func(a, b float64) string { return signed(a-b, 4) }},
		{"the best epoch", best(func(v *metrics.Validation) float64 { return float64(v.Epoch) }), func(v float64) string { return figure(v, 0) }, func(a, b float64) string { return signed(a-b, 0) }},
		{"images a second in training", known((*Run).speed), rate, ratio},
		{"an epoch's training", known((*Run).epochSeconds), span, ratio},
		{"all of the run", known((*Run).seconds), span, ratio},
		{"most memory of a reported step", known(func(r *Run) float64 { return float64(r.memory()) }), func(v float64) string { return mebibytes(int64(v)) }, ratio},
		{"parameters", known(func(r *Run) float64 {
			if r.evaluation == nil {
				return 0
			}
			return float64(r.evaluation.Parameters)
		}), func(v float64) string { return thousands(int64(v)) }, ratio},
	}
}

// beside sets two runs side by side: figures, curves and classes.
func (b *builder) beside(x, y *Run) {
	vx, vy := x.best(), y.best()
	if vx == nil || vy == nil {
		b.lacks(nil, "%s and %s cannot be compared: a validation is missing.", x.Name, y.Name)
		return
	}
	b.add(b.verdict(x, y, vx, vy))
	b.besideTable(x, y)
	b.caution(x, y, "model", "conv")
	byTime := chart.Lines{XLabel: "minutes of training and validation", YLabel: "validation top-1, per cent", FromZero: true}
	byEpoch := chart.Lines{XLabel: "epoch", YLabel: "validation top-1, per cent", FromZero: true, WholeX: true}
	for _, r := range []*Run{x, y} {
		e, t := chart.Curve{Name: r.Name, Ink: b.ink(r), Dots: true}, chart.Curve{Name: r.Name, Ink: b.ink(r), Dots: true}
		for _, v := range r.validations {
			e.Points = append(e.Points, [2]float64{float64(v.Epoch), v.Top1})
			t.Points = append(t.Points, [2]float64{r.until(v.Epoch) / 60, v.Top1})
		}
		byEpoch.Curves, byTime.Curves = append(byEpoch.Curves, e), append(byTime.Curves, t)
	}
	b.plot(fmt.Sprintf("%s and %s by epoch.", x.Name, y.Name), byEpoch)
	b.plot("The same by the time that it took.", byTime)
	b.classDifferences(x, y)
}

// verdict says who is ahead, and whether that is more than chance.
func (b *builder) verdict(x, y *Run, vx, vy *metrics.Validation) Prose {
	gap := vx.Top1 - vy.Top1
	sure := 2 * math.Hypot(standardError(vx.Top1, vx.Images), standardError(vy.Top1, vy.Images))
	text := fmt.Sprintf("%s reaches %s %% and %s %s %%, a difference of %s points.", x.Name, percent(vx.Top1), y.Name, percent(vy.Top1), signed(gap, 2))
	if math.Abs(gap) < sure {
		return prose("%s With %s of validation it may be chance: two standard errors of it are %s points.", text, count(vx.Images, "image"), figure(sure, 2))
	}
	return prose("%s That is more than two standard errors (%s points) of so many validation images; other seeds were not tried.", text, figure(sure, 2))
}

func (b *builder) besideTable(x, y *Run) {
	t := Table{Caption: fmt.Sprintf("%s beside %s.", x.Name, y.Name), Columns: []Column{{"", false}, {x.Name, true}, {y.Name, true}, {"difference or ratio", true}}}
	for _, m := range measures() {
		u, v := m.of(x), m.of(y)
		switch {
		case math.IsNaN(u) && math.IsNaN(v):
		case math.IsNaN(u):
			t.Rows = append(t.Rows, []string{m.name, "–", m.text(v), "–"})
		case math.IsNaN(v):
			t.Rows = append(t.Rows, []string{m.name, m.text(u), "–", "–"})
		default:
			t.Rows = append(t.Rows, []string{m.name, m.text(u), m.text(v), m.diff(u, v)})
		}
	}
	b.add(t)
}

// until is the time of the run up to the end of an epoch's validation.
func (r *Run) until(epoch int) float64 {
	sum := 0.
	for _, e := range r.epochs {
		if e.Epoch <= epoch {
			sum += e.Seconds
		}
	}
	for _, v := range r.validations {
		if v.Epoch <= epoch {
			sum += v.Seconds
		}
	}
	return sum
}

// caution names what else differs between two runs than what is compared.
func (b *builder) caution(x, y *Run, except ...string) {
	var differ []string
	for _, name := range b.names() {
		if name == "name" || slices.Contains(except, name) || slices.Contains(except, "adversarial") && strings.HasPrefix(name, "adv") {
			continue
		}
		if u, v := x.option(name), y.option(name); u != v {
			differ = append(differ, fmt.Sprintf("`%s` (%s and %s)", name, orNone(u), orNone(v)))
		}
	}
	if len(differ) > 0 {
		b.add(prose("%s and %s also differ in %s: not all of the difference comes from what is compared here.", x.Name, y.Name, joined(differ)))
	}
}

func orNone(v string) string {
	if v == "" {
		return "none"
	}
	return v
}

// classDifferences draws the classes in which two runs differ most.
func (b *builder) classDifferences(x, y *Run) {
	if x.evaluation == nil || y.evaluation == nil || !slices.Equal(x.evaluation.Classes, y.evaluation.Classes) || x.evaluation.Data != y.evaluation.Data {
		b.lacks(nil, "%s and %s cannot be compared by class: evaluate both on the same images with `mp report`.", x.Name, y.Name)
		return
	}
	u, v := x.evaluation.recall(), y.evaluation.recall()
	var rows []chart.Row
	for i, class := range x.evaluation.Classes {
		if u[i] >= 0 && v[i] >= 0 && u[i] != v[i] {
			rows = append(rows, chart.Row{Name: spoken(class), Values: []float64{u[i] - v[i]}})
		}
	}
	slices.SortStableFunc(rows, func(a, b chart.Row) int { return cmp.Compare(b.Values[0], a.Values[0]) })
	if n := len(rows); n > 12 {
		rows = append(rows[:6:6], rows[n-6:]...)
	}
	if len(rows) > 0 {
		b.add(Plot{Figure: chart.Bars{Unit: "points", Series: []string{"difference"}, Rows: rows}, Narrow: true,
			Caption: fmt.Sprintf("The classes in which they differ most: top-1 of %s less that of %s.", x.Name, y.Name)})
	}
}

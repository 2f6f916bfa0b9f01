package report

import (
	"cmp"
	"fmt"
	"slices"

	"mp/chart"
)

// mistakes is the chapter on what is taken for what.
func (b *builder) mistakes() {
	b.section(2, "mistakes", "What it gets wrong")
	for _, r := range b.runs {
		e := r.evaluation
		b.part(r, "mistakes")
		if e == nil {
			b.lacks(r, "No confusion matrix and no confused pairs: run `mp report %s` where the images are, without `--no-compute`; `--data DIR` names their folder.", r.place())
			continue
		}
		b.add(prose("The best checkpoint on %s: top-1 %s %%, top-5 %s %%, loss %s.", count(e.Images, "validation image"), percent(e.Top1), percent(e.Top5), figure(e.Loss, 4)))
		var names []string
		for _, c := range e.Classes {
			names = append(names, spoken(c))
		}
		b.classTable(r)
		b.add(Plot{Figure: chart.Matrix{Names: names, Counts: e.Matrix()}, Caption: "Confusion matrix" + b.of(r) + ": rows are what is true, columns what the network says; the darker, the larger the share of the row. On the diagonal it is right."})
		b.pairs(r)
	}
}

// classTable sets the classes it knows best beside those it knows least.
func (b *builder) classTable(r *Run) {
	e := r.evaluation
	type class struct {
		i      int
		recall float64
	}
	var known []class
	for i, v := range e.recall() {
		if v >= 0 {
			known = append(known, class{i, v})
		}
	}
	slices.SortStableFunc(known, func(a, b class) int { return cmp.Compare(b.recall, a.recall) })
	n := min(8, len(known)/2)
	if n == 0 {
		return
	}
	instead := func(i int) string {
		best, at := 0, -1
		for j, c := range e.Matrix()[i] {
			if j != i && c > best {
				best, at = c, j
			}
		}
		if at < 0 {
			return "–"
		}
		return fmt.Sprintf("%s (%d)", spoken(e.Classes[at]), best)
	}
	t := Table{Caption: "The classes recognised most and least often" + b.of(r) + ", per cent of their images, and what the latter are taken for most often.",
		Columns: []Column{{"most often", false}, {"right", true}, {"least often", false}, {"right", true}, {"taken for", false}}}
	for i := range n {
		most, least := known[i], known[len(known)-1-i]
		t.Rows = append(t.Rows, []string{spoken(e.Classes[most.i]), figure(most.recall, 0), spoken(e.Classes[least.i]), figure(least.recall, 0), instead(least.i)})
	}
	b.add(t)
}

// pairs shows the pairs of classes that are confused most, with images.
func (b *builder) pairs(r *Run) {
	e := r.evaluation
	if len(e.Pairs) == 0 {
		b.add(prose("No two classes are confused."))
		return
	}
	t := Table{Caption: "The most confused pairs of classes" + b.of(r) + ", in images.", Columns: []Column{{"class", false}, {"and class", false}, {"first taken for second", true}, {"second taken for first", true}, {"both", true}}}
	for _, p := range e.Pairs {
		t.Rows = append(t.Rows, []string{spoken(e.Classes[p.A]), spoken(e.Classes[p.B]), fmt.Sprint(p.AsB), fmt.Sprint(p.AsA), fmt.Sprint(p.AsB + p.AsA)})
	}
	b.add(t)
	g := Gallery{Columns: 6, Caption: "Images of these pairs, of each class those of which it was surest though it erred" + b.of(r) + ". Below each what is true, and what the network says with which probability."}
	for _, p := range e.Pairs {
		for _, m := range p.Pictures {
			truth, said := spoken(e.Classes[m.True]), spoken(e.Classes[m.Said])
			if picture, ok := r.computedImage(m.File, fmt.Sprintf("An image of %s taken for %s", truth, said)); ok {
				g.Tiles = append(g.Tiles, Tile{picture, truth, fmt.Sprintf("said %s, %.0f\u00a0%%", said, 100*m.Sure)})
			}
		}
	}
	if len(g.Tiles) > 0 {
		b.add(g)
	}
}

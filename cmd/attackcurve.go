package cmd

import (
	"fmt"
	"strconv"
	"strings"

	"mp/attack"
	"mp/chart"
)

// curvePlans are the attacks at each point of --curve, one attack after another.
func (o *attackFlags) curvePlans(plans []plan) ([]plan, error) {
	var out []plan
	for _, p := range plans {
		var made []plan
		var err error
		switch o.curve {
		case curveEps:
			made, err = o.overEps(p)
		case curveSteps:
			made, err = o.overSteps(p)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, made...)
	}
	return out, nil
}

// overEps varies the radius; a step keeps its size in radii, unless the command line gives it.
func (o *attackFlags) overEps(p plan) ([]plan, error) {
	var at []float64
	for _, text := range splitList(o.points) {
		v, err := parseAmount("points", text)
		if err != nil {
			return nil, err
		}
		at = append(at, v)
	}
	if o.points == "" {
		for _, share := range []float64{1. / 16, .125, .25, .5, 1, 2} {
			at = append(at, share*p.options.Eps)
		}
	}
	var out []plan
	for _, eps := range at {
		q := p
		if q.options.StepSize > 0 && o.stepSize == "" && p.name != "cw" {
			q.options.StepSize *= eps / p.options.Eps
		}
		q.options.Eps = eps
		q, err := q.make()
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

// overSteps varies the steps; their size stays where it is given or the attack's own, and is else 2.5 eps / steps.
func (o *attackFlags) overSteps(p plan) ([]plan, error) {
	var at []int
	for _, text := range splitList(o.points) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, badAttack("--points %q: want whole numbers of steps of at least 1, by commas", o.points)
		}
		at = append(at, n)
	}
	if o.points == "" {
		at = []int{1, 2, 5, 10, 20, 50, 100}
	}
	var out []plan
	for _, n := range at {
		q := p
		q.options.Steps = n
		q, err := q.make()
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

func splitList(text string) []string {
	if text == "" {
		return nil
	}
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// curveChart is the accuracy over eps or steps, a line an attack.
func curveChart(rows, points []attacked, curve string) chart.Lines {
	c := chart.Lines{
		Title: "Accuracy under attack", Subtitle: fmt.Sprintf("top-1 of %d images", rows[0].Images), XLabel: "steps", YLabel: "top-1, per cent",
		LogX: curve == curveSteps, FromZero: true, Height: 360,
	}
	if curve == curveEps {
		c.XLabel = "eps x 255 (l2 and course: eps)"
	}
	for _, p := range points {
		if n := len(c.Curves); n == 0 || c.Curves[n-1].Name != p.Attack {
			c.Curves = append(c.Curves, chart.Curve{Name: p.Attack, Ink: chart.Series(n), Dots: true})
		}
		l := &c.Curves[len(c.Curves)-1]
		if curve == curveEps {
			if len(l.Points) == 0 {
				l.Points = append(l.Points, [2]float64{0, p.Clean1})
			}
			scale := 255.
			if p.Norm == attack.L2.String() || p.Attack == "course" {
				scale = 1
			}
			l.Points = append(l.Points, [2]float64{p.Eps * scale, p.Top1})
		} else {
			l.Points = append(l.Points, [2]float64{float64(p.Steps), p.Top1})
		}
	}
	return c
}

package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"mp/ops"
)

// profileSteps is how many steps a profile is the mean of.
const profileSteps = 5

// stepProfile is where the time of a step goes.
type stepProfile struct {
	Model   string        `json:"model"`
	Mode    string        `json:"mode"`
	Seconds float64       `json:"seconds"` // of a step
	Costs   []operatorRow `json:"operators"`
}

// operatorRow is one operation, or one kind of node of the backward pass, without what it calls.
type operatorRow struct {
	Name    string  `json:"name"`
	Calls   float64 `json:"calls"`   // a step
	Seconds float64 `json:"seconds"` // a step
}

// profile is measureStep with --profile: it prints a stepProfile as JSON.
func (b *stepBench) profile(ctx context.Context, e *env, spec stepSpec) error {
	began := time.Now()
	costs, err := ops.Profile(func() error {
		for range profileSteps {
			if err := b.step(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p := stepProfile{Model: spec.Model, Mode: spec.Mode, Seconds: time.Since(began).Seconds() / profileSteps}
	rest := p.Seconds
	for _, c := range costs {
		row := operatorRow{c.Name, float64(c.Calls) / profileSteps, c.Self.Seconds() / profileSteps}
		rest -= row.Seconds
		p.Costs = append(p.Costs, row)
	}
	p.Costs = append(p.Costs, operatorRow{"outside of operations", 1, max(rest, 0)})
	return e.printJSON(p)
}

// benchProfile shows where the time of a step goes, for every model and mode.
func benchProfile(ctx context.Context, e *env, o benchStepOptions, program string) error {
	var all []stepProfile
	for _, model := range o.models {
		for _, mode := range o.modes {
			spec := o.stepSpec
			spec.Model, spec.Mode, spec.Profile = model, mode, true
			text, err := json.Marshal(spec)
			if err != nil {
				return err
			}
			c := exec.CommandContext(ctx, program, "bench", "step", "--measure", string(text))
			c.Stderr = os.Stderr
			out, err := c.Output()
			if err != nil {
				return fmt.Errorf("measure %s %s: %w", model, mode, err)
			}
			var p stepProfile
			if err := json.Unmarshal(out, &p); err != nil {
				return fmt.Errorf("measure %s %s: it prints no profile: %w", model, mode, err)
			}
			if all = append(all, p); e.json {
				continue
			}
			if err := p.write(e); err != nil {
				return err
			}
		}
	}
	if e.json {
		return e.printJSON(all)
	}
	return nil
}

// write prints a profile as a table with bars, down to a hundredth of the step.
func (p stepProfile) write(e *env) error {
	fmt.Fprintf(e.stdout, "%s %s: %.1f ms a step\n", p.Model, p.Mode, p.Seconds*1e3)
	var rows [][]string
	var small operatorRow
	for _, c := range p.Costs {
		if c.Seconds < p.Seconds/100 && c.Name != p.Costs[len(p.Costs)-1].Name {
			small.Calls += c.Calls
			small.Seconds += c.Seconds
			continue
		}
		rows = append(rows, c.cells(p.Seconds))
	}
	small.Name = "smaller ones together"
	rows = append(rows, small.cells(p.Seconds))
	if err := writeTable(e.stdout, []string{"operation", ">calls", ">ms", ">share", ""}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.stdout)
	return err
}

func (r operatorRow) cells(step float64) []string {
	name := strings.TrimPrefix(strings.TrimPrefix(r.Name, "aten::"), "autograd::engine::evaluate_function: ")
	return []string{name, fmt.Sprintf("%.4g", r.Calls), fmt.Sprintf("%.1f", r.Seconds*1e3), fmt.Sprintf("%.1f %%", 100*r.Seconds/step),
		strings.Repeat("█", int(r.Seconds/step*40+.5))}
}

package report

import (
	"fmt"
	"strings"
)

// what is the chapter on what was run, and why.
func (b *builder) what() {
	b.section(2, "what", "What was run, and why")
	if b.several() {
		b.differing()
	}
	common, of := b.commonOptions()
	if len(common) > 0 {
		b.add(optionTable(common, of))
	} else if !b.several() {
		b.lacks(nil, "The options of the run are not known: there is no `job.yaml`, and no event holds them.")
	}
	seen := map[string]bool{}
	for _, r := range b.runs {
		model := r.option("model")
		if seen[model] {
			continue
		}
		seen[model] = true
		if r.Design == "" {
			if model != "" {
				b.lacks(nil, "No design notes of `%s`: its section is missing in `model/DESIGN.md`.", model)
			}
			continue
		}
		b.doc.Sections = append(b.doc.Sections, markdown(r.Design, "The design of "+model, "design-"+model))
	}
}

// names lists the options of all runs, in the order of the first that has them.
func (b *builder) names() []string {
	var out []string
	seen := map[string]bool{}
	for _, r := range b.runs {
		for _, item := range r.options {
			if name := fmt.Sprint(item.Key); !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out
}

// same says whether all runs have the same value of an option.
func (b *builder) same(name string) bool {
	for _, r := range b.runs[1:] {
		if r.option(name) != b.runs[0].option(name) {
			return false
		}
	}
	return true
}

// differing is a table of the options in which the runs differ, a column a run or, of many runs, a row a run.
func (b *builder) differing() {
	var differ []string
	for _, name := range b.names() {
		if !b.same(name) {
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		b.add(prose("The runs have the same options: they differ in nothing that was asked for."))
		return
	}
	t := Table{Caption: "Options in which the runs differ.", Columns: []Column{{"option", false}}}
	for _, r := range b.runs {
		t.Columns = append(t.Columns, Column{Title: r.Name})
	}
	for _, name := range differ {
		row := []string{name}
		for _, r := range b.runs {
			value := r.option(name)
			if value == "" {
				value = "–"
			}
			row = append(row, value)
		}
		t.Rows = append(t.Rows, row)
	}
	b.add(t)
}

// commonOptions are those that all runs share, without what says nothing.
func (b *builder) commonOptions() ([]Fact, string) {
	against := false
	for _, r := range b.runs {
		against = against || r.adversarial()
	}
	var out []Fact
	for _, name := range b.names() {
		value := b.runs[0].option(name)
		if !b.same(name) || value == "" || strings.HasPrefix(name, "adv-") && !against {
			continue
		}
		out = append(out, Fact{name, value})
	}
	if b.several() {
		return out, "Options that all runs share."
	}
	return out, "The run's options, as `mp train` knows them."
}

// optionTable sets options side by side, down the columns first.
func optionTable(facts []Fact, caption string) Table {
	const side = 3
	t := Table{Caption: strings.ReplaceAll(caption, "`", "")}
	for range side {
		t.Columns = append(t.Columns, Column{Title: "option"}, Column{Title: "value"})
	}
	rows := (len(facts) + side - 1) / side
	for i := range rows {
		var row []string
		for j := range side {
			if k := j*rows + i; k < len(facts) {
				row = append(row, facts[k].Name, facts[k].Value)
			} else {
				row = append(row, "", "")
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

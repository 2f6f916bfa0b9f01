// Package report makes the write-up of runs: what was trained and why, curves, tables, mistakes, maps, attacks, comparisons,
// and how to repeat it. It reads run directories and nothing else: what only a network can tell is in files there, whose
// formats are in evaluation.go. What is not there is named, never made up.
//
// It may import chart and metrics; it must never import a room that computes (worker, ops, model), so that a report can be made on any
// machine. Start reading at Make, then Document; html.go and pdf.go render the same document.
package report

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrConfig is in the chain of every error about what the report is asked for: trying again does not help.
var ErrConfig = errors.New("bad request for a report")

// Request is what a report is to be about.
type Request struct {
	Runs    []Input   // at least one
	Made    time.Time // of the report
	Machine []Fact    // the program and machine that make it
	// Portable leaves out where runs and images lie on this machine: commands name them as in a folder of their own.
	Portable bool
}

// Input is a run to be reported, with what its directory does not say.
type Input struct {
	Directory string
	Design    string   // the model's design notes, Markdown; may be empty
	Command   string   // trains the run again; may be empty
	Remarks   []string // what whoever computed for the report could not do, a sentence each
}

// Fact is a name and a value for people.
type Fact struct{ Name, Value string }

// Make reads the runs and writes the document. Paths that are no runs are named in it, and in the error, which matches ErrConfig:
// the document is nil only where there is none that is.
func Make(r Request) (*Document, []*Run, error) {
	if len(r.Runs) == 0 {
		return nil, nil, fmt.Errorf("%w: no run: give one run directory or more", ErrConfig)
	}
	b := &builder{made: r.Made, machine: r.Machine}
	var bad []error
	for _, in := range r.Runs {
		in.Remarks = slices.Clone(in.Remarks) // a report of the same request adds its own
		run, err := readRun(in)
		if err != nil {
			bad = append(bad, err)
			b.warnings = append(b.warnings, fmt.Sprintf("%v.", err))
			continue
		}
		if run.portable = r.Portable; r.Portable {
			run.carry()
		}
		b.runs = append(b.runs, run)
	}
	if len(b.runs) == 0 {
		return nil, nil, errors.Join(bad...)
	}
	nameRuns(b.runs)
	return b.build(), b.runs, errors.Join(bad...)
}

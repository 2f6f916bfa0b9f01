package cmd

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/coordinator"
)

// Marks of what the doctor finds.
const (
	markOK      = "ok"
	markNote    = "note"    // works, but a person may want to know
	markMissing = "missing" // something does not work until it is there
)

// finding is one line of `mp doctor`.
type finding struct {
	Group  string `json:"group"`
	Name   string `json:"name"`
	Mark   string `json:"mark"` // ok, note or missing
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"` // what to do
}

// machine is where the doctor looks.
type machine struct {
	root    string                       // above /proc, /dev and /sys
	dir     string                       // the working directory
	home    string                       // the user's; empty when unknown
	program string                       // the running program's folder; empty when unknown
	torch   string                       // libtorch's folder if the user names one (LIBTORCH)
	data    string                       // where the user says the data are; empty: look around
	find    func(string) (string, error) // a program on the search path
	gpus    func() ([]gpuState, error)   // what the driver says of each

	failAfter time.Duration // of a cluster
}

// newDoctorCommand returns `mp doctor`.
func newDoctorCommand(e *env) *cobra.Command {
	var dataDir, compute, save string
	failAfter := coordinator.DefaultConfig().FailAfter
	c := &cobra.Command{
		Use:   "doctor",
		Short: "What this machine has, what is missing, what to do",
		Long: "doctor looks at the processor, memory, disk, GPUs, libraries and data of this machine and says what is missing\n" +
			"and what to do about it. It changes nothing. Its exit code is 0 whatever it finds.\n\n" +
			"--compute holds a device to what the CPU computes in float64: operations, gradients, networks, attacks, explanations,\n" +
			"updates, images, and one rank beside two that share the device. It takes a minute or two; what is further off than\n" +
			"rounding explains is named, and the exit code is 1.",
		Example: "  mp doctor\n  mp doctor --compute 0",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if compute != "" {
				return computeChecks(c.Context(), e, compute, save)
			}
			m := machine{root: "/", data: dataDir, find: exec.LookPath, gpus: askDriver, failAfter: failAfter}
			var err error
			if m.dir, err = os.Getwd(); err != nil {
				return fmt.Errorf("find the working directory: %w", err)
			}
			m.torch, _ = e.lookup("LIBTORCH")
			m.home, _ = e.lookup("HOME")
			if program, err := os.Executable(); err == nil {
				m.program = filepath.Dir(program)
			}
			return printFindings(e, m.examine())
		},
	}
	c.Flags().DurationVar(&failAfter, "fail-after", failAfter, "show the time-outs of a cluster that follow from this one")
	c.Flags().StringVar(&compute, "compute", "", "hold this device to the CPU instead: cpu, the number of a GPU, or auto; empty: none")
	c.Flags().StringVar(&save, "save", "", "with --compute: file for what the device computed in float32, as safetensors; empty: none")
	c.Flags().StringVar(&dataDir, "data", "", "folder where the data are; empty: look in the usual places")
	return c
}

// examine makes every check.
func (m machine) examine() []finding {
	var all []finding
	for _, group := range []struct {
		name  string
		check func() []finding
	}{
		{"Machine", m.checkMachine},
		{"GPU", m.checkGPU},
		{"Libraries", m.checkLibraries},
		{"Tools to build mp", m.checkTools},
		{"Data", m.checkData},
		{"Time-outs of a cluster", m.checkTimes},
	} {
		for _, f := range group.check() {
			f.Group = group.name
			all = append(all, f)
		}
	}
	return all
}

// printFindings prints the findings by group, then what to do.
func printFindings(e *env, all []finding) error {
	missing := 0
	for _, f := range all {
		if f.Mark == markMissing {
			missing++
		}
	}
	if e.json {
		return e.printJSON(struct {
			Missing  int       `json:"missing"`
			Findings []finding `json:"findings"`
		}{missing, all})
	}
	width := 0
	for _, f := range all {
		width = max(width, len(f.Name))
	}
	var b strings.Builder
	group := ""
	for _, f := range all {
		if f.Group != group {
			if group != "" {
				b.WriteByte('\n')
			}
			group = f.Group
			fmt.Fprintln(&b, group)
		}
		fmt.Fprintf(&b, "  %s  %-*s  %s\n", paintMark(f.Mark, e.useColor(e.stdout)), width, f.Name, f.Found)
	}
	b.WriteByte('\n')
	if missing == 0 {
		b.WriteString("Nothing is missing.\n")
	}
	for _, f := range all {
		if f.Advice != "" {
			fmt.Fprintf(&b, "%s %s: %s\n", paintMark(f.Mark, e.useColor(e.stdout)), f.Name, f.Advice)
		}
	}
	_, err := io.WriteString(e.stdout, b.String())
	return err
}

// paintMark pads a mark and, where colours are welcome, colours it.
func paintMark(mark string, color bool) string {
	text := fmt.Sprintf("%-7s", mark)
	if !color {
		return text
	}
	attribute := map[string]string{markOK: "32", markNote: "33", markMissing: "31"}[mark]
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}

package cmd

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// benchRow is one measured figure, beside the same figure of a peer measured in the same run where there is one.
type benchRow struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"` // value over the peer's; 0 when there is no peer
	Peer  string  `json:"peer"`
}

// newBenchCommand returns `mp bench`, the parent of the measurements.
func newBenchCommand(e *env) *cobra.Command {
	return newParent("bench", "Measure speed and memory, as ratios in one run",
		newBenchConvCommand(e), newBenchStepCommand(e), newBenchDecodeCommand(e), newBenchLoaderCommand(e), newBenchRingCommand(e), newBenchAttackCommand(e), newBenchControlCommand(e))
}

// printBench prints the figures of one `mp bench` verb, as a table or, with --json, as a list in one object.
func printBench(e *env, rows []benchRow) error {
	if e.json {
		return e.printJSON(map[string][]benchRow{"rows": rows})
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "name\tvalue\tunit\tratio\tpeer\t")
	for _, r := range rows {
		ratio := ""
		if r.Ratio != 0 {
			ratio = fmt.Sprintf("%.2fx", r.Ratio)
		}
		fmt.Fprintf(w, "%s\t%.5g\t%s\t%s\t%s\t\n", r.Name, r.Value, r.Unit, ratio, r.Peer)
	}
	return w.Flush()
}

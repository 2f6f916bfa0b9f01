package cmd

import (
	"os"
	"os/exec"
	"testing"
)

// The test binary is linked as mp is: that it starts at all on one processor is what is tested.
func TestStartsOnOneProcessor(t *testing.T) {
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		t.Skip("no taskset on this machine")
	}
	out, err := exec.Command(taskset, "-c", "0", os.Args[0], "-test.run", "^$").CombinedOutput()
	if err != nil {
		t.Errorf("started on one processor: %v\n%.500s", err, out)
	}
}

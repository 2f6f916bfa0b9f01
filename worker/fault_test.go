package worker

import (
	"errors"
	"strings"
	"testing"

	"mp/job"
	"mp/ops"
)

func TestFaultsAreWhatLibtorchSays(t *testing.T) {
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for text, want := range map[string]string{"memory@3": "can't allocate memory", "exception@3": "matmul [2 3] x [2 3]", "device@3": "illegal memory access"} {
		f, err := ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.strike(d, 2); err != nil {
			t.Errorf("%s strikes after 2 updates: %v", text, err)
		}
		err = f.strike(d, 3)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", text, err, want)
		}
		if got := errors.Is(err, ops.ErrOutOfMemory); got != (f.Kind == FaultMemory) {
			t.Errorf("%s is %v, out of memory: %t", text, err, got)
		}
	}
	var none *Fault
	if err := none.strike(d, 100); err != nil {
		t.Errorf("no fault gives %v", err)
	}
}

func TestFaultsThatCannotBe(t *testing.T) {
	if f, err := ParseFault(""); f != nil || err != nil {
		t.Errorf("nothing gives %v, %v", f, err)
	}
	for _, text := range []string{"memory", "memory@", "memory@-1", "lightning@3", "@3"} {
		if _, err := ParseFault(text); !errors.Is(err, job.ErrConfig) {
			t.Errorf("%s gives %v, want ErrConfig", text, err)
		}
	}
}

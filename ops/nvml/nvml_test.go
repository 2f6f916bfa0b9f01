package nvml

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	driver "github.com/NVIDIA/go-nvml/pkg/nvml"
)

func TestWithoutADriver(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "libnvidia-ml.so.1"), "testdata/fake.c"} { // missing; no library
		if _, err := open(driver.New(driver.WithLibraryPath(path))); !errors.Is(err, ErrNoDriver) {
			t.Errorf("%s: %v, want ErrNoDriver", path, err)
		}
	}
}

func TestAsksTheDriver(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "libfake.so")
	if out, err := exec.Command("g++", "-x", "c", "-shared", "-fPIC", "-Wall", "-o", fake, "testdata/fake.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := open(driver.New(driver.WithLibraryPath(fake)))
	if err != nil {
		t.Fatal(err)
	}
	all, err := l.Devices()
	if err != nil || len(all) != 3 {
		t.Fatalf("%d GPUs, %v, want 3", len(all), err)
	}
	for i, want := range []struct {
		about About
		use   Use
		fails string
	}{
		{About{"NVIDIA Whole", Shared, 2}, Use{.85, 30 << 20, 100 << 20}, ""},
		{About{"NVIDIA Part", Closed, 0}, Use{-1, 30 << 20, 100 << 20}, ""},
		{About{"NVIDIA Part", Exclusive, 0}, Use{}, "memory"},
	} {
		about, err := all[i].About()
		if err != nil || about != want.about {
			t.Errorf("GPU %d is %+v, %v, want %+v", i, about, err, want.about)
		}
		use, err := all[i].Use()
		if use != want.use || (err != nil) != (want.fails != "") || err != nil && !strings.Contains(err.Error(), want.fails) {
			t.Errorf("GPU %d is used %+v, %v, want %+v, %q", i, use, err, want.use, want.fails)
		}
	}
	d, err := l.At("0000:17:00.0")
	if err != nil {
		t.Fatal(err)
	}
	if u, err := d.Use(); err != nil || u.Busy != .85 {
		t.Errorf("by its place: %+v, %v", u, err)
	}
	if _, err := l.At("0000:99:00.0"); err == nil || !strings.Contains(err.Error(), "0000:99:00.0") {
		t.Errorf("a place without a GPU: %v", err)
	}
}

// Package shared finds the reference material (goldens, checkpoints, real images) that some tests compare with.
//
// It owns nothing but the search; it must never be imported outside tests. The folder is named by MP_SHARED, or is
// the folder `shared` beside the repository.
package shared

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir returns the folder of reference material, or skips the test when there is none on this machine.
func Dir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("MP_SHARED"); dir != "" {
		return dir
	}
	at, err := os.Getwd()
	if err != nil {
		t.Fatalf("find working directory: %v", err)
	}
	for {
		dir := filepath.Join(at, "shared")
		if _, err := os.Stat(filepath.Join(dir, "reference.md")); err == nil {
			return dir
		}
		up := filepath.Dir(at)
		if up == at {
			t.Skip("no reference material: set MP_SHARED to the folder that holds it")
		}
		at = up
	}
}

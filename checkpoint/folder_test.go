package checkpoint_test

import (
	"testing"

	"mp/checkpoint"
	"mp/checkpoint/storetest"
)

func TestFolder(t *testing.T) {
	storetest.Run(t, func(t testing.TB) checkpoint.Store { return checkpoint.NewFolder(t.TempDir()) })
	s := checkpoint.NewFolder(t.TempDir())
	for _, key := range []string{"../x", "/etc/passwd", "a/../../x", ""} {
		if _, err := s.Get(t.Context(), key); err == nil {
			t.Errorf("key %q led somewhere", key)
		}
	}
}

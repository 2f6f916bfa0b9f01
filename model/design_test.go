package model

import (
	"strings"
	"testing"
)

// Every network has design notes, and none has another's.
func TestDesign(t *testing.T) {
	for _, arch := range Names() {
		text := Design(arch)
		if len(text) < 200 || strings.Contains(text, "\n## ") || !strings.Contains(text, "`"+arch+"`") {
			t.Errorf("%s: got %q", arch, text)
		}
	}
	if got := Design("vgg"); got != "" {
		t.Errorf("a network that is not there: got %q", got)
	}
}

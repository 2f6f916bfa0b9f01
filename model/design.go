package model

import (
	_ "embed"
	"strings"
)

//go:embed DESIGN.md
var design string

// Design returns what DESIGN.md says of an architecture, Markdown without the section's own heading; empty where it says nothing.
func Design(arch string) string {
	for _, section := range strings.Split(design, "\n## ")[1:] {
		if title, text, _ := strings.Cut(section, "\n"); title == arch {
			return strings.TrimSpace(text)
		}
	}
	return ""
}

package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mp/docs"
)

// topic is something that `mp help` explains beside the verbs: a page of docs/, or one section of it.
type topic struct {
	name, short string
	page        string
	section     string // heading of the section; empty: the whole page
}

// topics are those that `mp help` lists.
func topics() []topic {
	return []topic{
		{"quickstart", "From nothing to a trained network", "quickstart.md", ""},
		{"course", "The course's exercise, part by part, with commands", "course.md", ""},
		{"cluster", "Several machines: coordinators, workers, jobs", "cluster.md", ""},
		{"failures", "What exit codes and failure words mean, and what to do", "cluster.md", "When something fails"},
		{"attacks", "Attacks, robust training and how to measure both", "attacks.md", ""},
		{"files", "What is in a run's directory, a pack, a checkpoint", "file-formats.md", ""},
		{"step", "How one step is computed by many workers", "how-it-works.md", ""},
	}
}

// print shows the topic.
func (t topic) print(e *env, c *cobra.Command) error {
	text, err := t.text()
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	r := pageRenderer{width: min(max(e.width(out), 60), 120), color: e.useColor(out)}
	_, err = io.WriteString(out, r.render(text))
	return err
}

// text is the topic's Markdown.
func (t topic) text() (string, error) {
	page, err := docs.Pages.ReadFile(t.page)
	if err != nil {
		return "", fmt.Errorf("read page %s: %w", t.page, err)
	}
	if t.section == "" {
		return string(page), nil
	}
	_, after, found := strings.Cut(string(page), "\n## "+t.section+"\n")
	if !found {
		return "", fmt.Errorf("page %s has no section %q", t.page, t.section)
	}
	section, _, _ := strings.Cut(after, "\n## ")
	return "# " + t.section + "\n" + section, nil
}

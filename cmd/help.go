package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newHelpCommand returns `mp help`.
func newHelpCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB|TOPIC]",
		Short:   "How to call mp or one of its verbs, and pages to learn from",
		Long:    "help shows how to call mp or one of its verbs, or one of these pages:\n" + topicList(),
		Example: "  mp help train\n  mp help course",
		RunE: func(c *cobra.Command, args []string) error {
			for _, t := range topics() {
				if len(args) == 1 && args[0] == t.name {
					return t.print(e, c)
				}
			}
			about, rest, err := c.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = noSuchVerb(about, rest)
			}
			if err != nil {
				return usageError{verb: about.CommandPath(), err: err}
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			about, _, err := c.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, child := range about.Commands() {
				names = append(names, cobra.CompletionWithDesc(child.Name(), child.Short))
			}
			if about == c.Root() {
				for _, t := range topics() {
					names = append(names, cobra.CompletionWithDesc(t.name, t.short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// topicList is a line for each topic.
func topicList() string {
	var b strings.Builder
	for _, t := range topics() {
		fmt.Fprintf(&b, "  %-12s %s\n", t.name, t.short)
	}
	return b.String()
}

// usage prints how to call c: its verbs grouped by purpose, its flags wrapped to the terminal and each with its
// MP_* twin.
func usage(e *env, c *cobra.Command) error {
	out := c.OutOrStderr()
	var b strings.Builder
	b.WriteString("Usage:\n")
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s VERB [flags]\n", c.CommandPath())
	} else {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	if c.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", strings.TrimRight(c.Example, "\n"))
	}
	writeVerbs(&b, c)
	width := min(max(e.width(out), 60), 120)
	writeFlags(&b, "Flags:", c.LocalNonPersistentFlags(), width)
	writeFlags(&b, "Flags of every verb:", c.Root().PersistentFlags(), width)
	if !c.HasParent() {
		fmt.Fprintf(&b, "\nPages (mp help TOPIC):\n%s", topicList())
		b.WriteString("\nShell completion: source <(mp completion bash), or zsh, fish, powershell.")
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nMore about a verb: %s VERB --help\n", c.CommandPath())
	}
	_, err := out.Write([]byte(b.String()))
	return err
}

// writeVerbs lists the commands below c, by group where c has groups.
func writeVerbs(b *strings.Builder, c *cobra.Command) {
	list := func(title, group string) {
		first := true
		for _, child := range c.Commands() {
			if child.GroupID != group || !(child.IsAvailableCommand() || child.Name() == "help") {
				continue
			}
			if first {
				fmt.Fprintf(b, "\n%s\n", title)
				first = false
			}
			fmt.Fprintf(b, "  %-12s %s\n", child.Name(), child.Short)
		}
	}
	for _, g := range c.Groups() {
		list(g.Title, g.ID)
	}
	list("Verbs:", "")
}

// flagGroup is the annotation that names the heading under which the help lists a flag.
const flagGroup = "mp_group"

// writeFlags lists flags under a title, and those with a flagGroup under that heading, each followed by its twin in the
// environment.
func writeFlags(b *strings.Builder, title string, flags *pflag.FlagSet, width int) {
	sections := map[string]*pflag.FlagSet{}
	titles := []string{title}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		heading := title
		if g := f.Annotations[flagGroup]; len(g) == 1 {
			heading = g[0]
		}
		if !slices.Contains(titles, heading) {
			titles = append(titles, heading)
		}
		if sections[heading] == nil {
			sections[heading] = pflag.NewFlagSet("", pflag.ContinueOnError)
			sections[heading].SortFlags = flags.SortFlags
		}
		shown := *f
		shown.Usage = flagHelp(f)
		sections[heading].AddFlag(&shown)
	})
	for _, t := range titles {
		if sections[t] != nil {
			fmt.Fprintf(b, "\n%s\n%s", t, sections[t].FlagUsagesWrapped(width))
		}
	}
}

// twinned is the help of a flag with its twin in the environment.
func twinned(f *pflag.Flag) string {
	if !hasTwin(f) {
		return f.Usage
	}
	return f.Usage + " [" + twin(f.Name) + "]"
}

// flagHelp is twinned with the flag's default where that is 0: pflag shows all others.
func flagHelp(f *pflag.Flag) string {
	text := twinned(f)
	if f.DefValue == "0" || f.DefValue == "0s" {
		text += " (default " + f.DefValue + ")"
	}
	return text
}

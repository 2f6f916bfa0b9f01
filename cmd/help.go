package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newHelpCommand returns `mp help`.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB]",
		Short: "How to call mp or one of its verbs",
		RunE: func(c *cobra.Command, args []string) error {
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
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
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
		twinned := *f
		if hasTwin(f) {
			twinned.Usage += " [" + twin(f.Name) + "]"
		}
		sections[heading].AddFlag(&twinned)
	})
	for _, t := range titles {
		if sections[t] != nil {
			fmt.Fprintf(b, "\n%s\n%s", t, sections[t].FlagUsagesWrapped(width))
		}
	}
}

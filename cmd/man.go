package cmd

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// newManCommand returns `mp man`.
func newManCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write manual pages, one for each verb",
		Long:    "man writes a manual page (section 1) for mp and for each verb into DIR, made if it is not there.",
		Example: "  mp man man1\n  man -l man1/mp-train.1",
		Args:    exactArgs("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("make the folder of manual pages: %w", err)
			}
			root, _ := newRoot(e)
			root.DisableAutoGenTag = true
			document(root)
			header := &doc.GenManHeader{Title: "MP", Section: "1", Source: "mp " + version(), Manual: "mp"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			pages, err := filepath.Glob(filepath.Join(args[0], "mp*.1"))
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(map[string]any{"directory": args[0], "pages": len(pages)})
			}
			_, err = fmt.Fprintf(e.stdout, "%s in %s; read one with: man -l %s\n", count(len(pages), "page", "pages"), args[0], filepath.Join(args[0], "mp.1"))
			return err
		},
	}
}

// document writes the twin of every flag of a tree into its help.
func document(c *cobra.Command) {
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) { f.Usage = twinned(f) })
	for _, child := range c.Commands() {
		document(child)
	}
}

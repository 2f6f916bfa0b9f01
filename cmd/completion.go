package cmd

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newCompletionCommand returns `mp completion`.
func newCompletionCommand(e *env) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "A script that completes verbs and flags: bash, zsh, fish, powershell",
		Long: "completion prints a script for a shell that completes verbs, flags and their values. Load it once to try it,\n" +
			"or from the shell's start-up file to keep it.",
		Example: "  source <(mp completion bash)\n  source <(mp completion zsh)\n  mp completion fish | source\n" +
			"  mp completion powershell | Out-String | Invoke-Expression",
		ValidArgs: shells,
		Args:      exactArgs("SHELL (bash, zsh, fish or powershell)"),
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(e.stdout, true)
			case "zsh":
				return root.GenZshCompletion(e.stdout)
			case "fish":
				return root.GenFishCompletion(e.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(e.stdout)
			}
			return usageError{verb: c.CommandPath(), err: fmt.Errorf("no shell %q: choose bash, zsh, fish or powershell", args[0])}
		},
	}
}

// Package cmd is the command line: one file a verb. It owns flags, their MP_* twins in the environment, signals and
// exit codes, and it picks implementations; nothing else in the module reads any of these, and nothing imports cmd but
// main.go. Start reading at Main, then at verbs, the table of what there is.
package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs one command line (without the program's name) and returns the exit code: 0 done, 1 failed,
// 64 bad configuration or data (do not retry), 85 drained on request (start me again). The first SIGINT or SIGTERM
// cancels the verb's context; the second ends the process at once.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()

	e := newEnv(stdout, stderr, os.LookupEnv)
	root, started := newRoot(e)
	root.SetArgs(args)
	verb, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !*started {
		err = usageError{verb: verb.CommandPath(), err: err}
	}
	fmt.Fprintf(stderr, "%s: %s\n", verb.CommandPath(), message(ctx, err))
	return exitCode(err)
}

// verb is a row of the table of what mp can do: its purpose in the help and how to make it.
type verb struct {
	group string
	make  func(*env) *cobra.Command
}

// Purposes by which the help groups the verbs, in the order shown.
const (
	groupRun     = "run"
	groupCluster = "cluster"
	groupFiles   = "files"
	groupMeasure = "measure"
	groupHelp    = "help"
)

// verbs lists every verb, in the order shown by the help.
func verbs() []verb {
	return []verb{
		{groupRun, newTrainCommand},
		{groupRun, newEvaluateCommand},
		{groupRun, newPredictCommand},
		{groupRun, newAttackCommand},
		{groupRun, newExplainCommand},
		{groupCluster, newCoordinatorCommand},
		{groupCluster, newWorkerCommand},
		{groupCluster, newSubmitCommand},
		{groupCluster, newJobsCommand},
		{groupCluster, newWatchCommand},
		{groupCluster, newDeployCommand},
		{groupCluster, newTokenCommand},
		{groupFiles, newDataCommand},
		{groupFiles, newCheckpointCommand},
		{groupMeasure, newReportCommand},
		{groupMeasure, newBenchCommand},
		{groupMeasure, newDrillCommand},
		{groupMeasure, newDoctorCommand},
		{groupHelp, newCompletionCommand},
		{groupHelp, newManCommand},
		{groupHelp, newVersionCommand},
	}
}

// newRoot builds the whole tree of commands. started becomes true as soon as a verb's own code runs: an error before
// that moment is about the command line itself.
func newRoot(e *env) (root *cobra.Command, started *bool) {
	root = &cobra.Command{
		Use:   "mp",
		Short: "Train, evaluate and attack scene classifiers on MiniPlaces",
		Long: "mp trains, evaluates and attacks scene classifiers on MiniPlaces.\n" +
			"Every flag may also be given by an environment variable: MP_BATCH_SIZE=64 is --batch-size 64.",
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              noSuchVerb,
		RunE:              showHelp,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return e.settle(c) },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetUsageFunc(func(c *cobra.Command) error { return usage(e, c) })
	flags := root.PersistentFlags()
	flags.BoolVar(&e.json, "json", false, "print the result as one JSON object on standard output, everything else on standard error")
	flags.BoolVarP(&e.quiet, "quiet", "q", false, "print results and errors only")
	flags.BoolVarP(&e.verbose, "verbose", "v", false, "print more than a person usually wants")

	for _, g := range []cobra.Group{
		{ID: groupRun, Title: "Train and use a model:"},
		{ID: groupCluster, Title: "Several machines:"},
		{ID: groupFiles, Title: "Data and checkpoints:"},
		{ID: groupMeasure, Title: "Measure and check:"},
		{ID: groupHelp, Title: "Help:"},
	} {
		root.AddGroup(&g)
	}
	for _, v := range verbs() {
		c := v.make(e)
		c.GroupID = v.group
		root.AddCommand(c)
	}
	root.SetHelpCommand(newHelpCommand(e))
	root.SetHelpCommandGroupID(groupHelp)
	root.InitDefaultHelpCmd()
	root.CompletionOptions.DisableDefaultCmd = true

	started = new(bool)
	markStart(root, started)
	return root, started
}

// markStart makes every command of the tree set started before it runs.
func markStart(c *cobra.Command, started *bool) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			*started = true
			return run(c, args)
		}
	}
	for _, child := range c.Commands() {
		markStart(child, started)
	}
}

// newParent returns a command that only groups others, such as `mp data`.
func newParent(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: noSuchVerb, RunE: showHelp}
	c.AddCommand(children...)
	return c
}

// exactArgs wants as many arguments as there are names, and says what they are when they are not there.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return fmt.Errorf("want %s, got %d arguments", strings.Join(names, " "), len(args))
	}
}

// atMostOneArg allows the argument called name to be left out.
func atMostOneArg(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < 2 {
			return nil
		}
		return fmt.Errorf("want one %s at most, got %d arguments", name, len(args))
	}
}

// noSuchVerb refuses arguments of a command that only groups others, and names what might have been meant.
func noSuchVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("no verb %q: did you mean %q?", args[0], near[0])
	}
	return fmt.Errorf("no verb %q", args[0])
}

func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	// exitTrouble is a failure where exitFailed has a meaning of its own.
	exitTrouble = 2
)

// errReported is a failure that was printed already.
var errReported = errors.New("failed")

// failure is what went wrong while a command did its work. Whatever goes wrong
// before that is a mistake in how it was called.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// trouble is a failure that ends the process with exitTrouble.
type trouble struct{ err error }

func (t *trouble) Error() string { return t.err.Error() }
func (t *trouble) Unwrap() error { return t.err }

// run runs the command line and returns the process's exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	called, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var failed *failure
	if errors.As(err, &failed) && !usage.Is(err) {
		if !errors.Is(err, errReported) {
			fmt.Fprintf(stderr, "error: %v\n", err)
		}
		var worse *trouble
		if errors.As(err, &worse) {
			return exitTrouble
		}
		return exitFailed
	}
	fmt.Fprintf(stderr, "error: %v\nrun \"%s --help\" for what it takes\n", err, called.CommandPath())
	return exitUsage
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "leasehold",
		Short: "Serve MCP sessions from any worker, each through its one owner",
		Long: "Leasehold puts any number of MCP servers behind one endpoint that scales out.\n" +
			"Every stateful session has one owner among the workers; a request may arrive\n" +
			"at any of them.\n\n" +
			"Every flag can also be set in the environment, by the name shown beside it;\n" +
			"the flag wins.",
		Example:       "  leasehold dev\n  leasehold apply -f gateways.yaml\n  leasehold get sessions",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usage.Group(cmd, args)
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return usage.ApplyEnv(cmd) },
	}
	root.SetFlagErrorFunc(usage.FlagError)
	root.AddCommand(
		newDev(), newControlPlane(), newWorker(),
		newApply(), newDiff(), newGet(), newDescribe(), newInspect(), newExplain(), newDelete(), newTerminate(), newMove(), newDrain(), newUndrain(), newForget(),
		newKeys(), newCerts(), newVersion(),
	)
	root.SetHelpCommand(newHelp())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	exemplifyCompletion(root)
	usage.ShowEnv(root)
	markFailures(root)
	return root
}

// newHelp is cobra's help command, but for a command that does not exist.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Example: "  leasehold help apply",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usage.Errorf("%w", err)
			}
			if len(rest) > 0 {
				return usage.Group(about, rest)
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// exemplifyCompletion gives cobra's own command what all others have: examples,
// and an answer to a word it does not know.
func exemplifyCompletion(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Example = "  source <(leasehold completion bash)"
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, usage.Group
		for _, shell := range cmd.Commands() {
			shell.Example = "  leasehold completion " + shell.Name()
		}
	}
}

// markFailures makes a failure of what each command returns from its work.
func markFailures(cmd *cobra.Command) {
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := work(cmd, args); err != nil {
				return &failure{err: err}
			}
			return nil
		}
	}
	for _, child := range cmd.Commands() {
		markFailures(child)
	}
}

// indent puts two spaces before each line but the first.
func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n  ") }

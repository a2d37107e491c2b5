package usage

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// EnvName returns the name of a flag's twin in the environment.
func EnvName(flag string) string {
	return "LEASEHOLD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// hasEnv reports whether a flag has a twin. Only --help has none: it is a
// question, not a setting.
func hasEnv(flag *pflag.Flag) bool { return flag.Name != "help" }

// ShowEnv adds the name of each flag's twin to its line in --help, for cmd and
// everything below it.
func ShowEnv(cmd *cobra.Command) {
	show := func(flag *pflag.Flag) {
		mark := " [$" + EnvName(flag.Name) + "]"
		if hasEnv(flag) && !strings.HasSuffix(flag.Usage, mark) {
			flag.Usage += mark
		}
	}
	cmd.LocalFlags().VisitAll(show)
	cmd.PersistentFlags().VisitAll(show)
	for _, child := range cmd.Commands() {
		ShowEnv(child)
	}
}

// ApplyEnv gives each flag of cmd that was not set on the command line the
// value of its twin, if that is set and not empty.
func ApplyEnv(cmd *cobra.Command) error {
	var errs []error
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		value := os.Getenv(EnvName(flag.Name))
		if flag.Changed || value == "" || !hasEnv(flag) {
			return
		}
		if err := cmd.Flags().Set(flag.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", EnvName(flag.Name), invalidValue(err)))
		}
	})
	if len(errs) == 0 {
		return nil
	}
	return &Error{Err: errors.Join(errs...)}
}

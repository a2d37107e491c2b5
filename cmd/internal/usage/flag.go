package usage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// FlagError turns what is wrong with a flag into an Error that names the flag
// that was meant. It is for cobra's SetFlagErrorFunc.
func FlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return &Error{Err: invalidValue(err)}
	}
	name := unknown.GetSpecifiedName()
	if unknown.GetSpecifiedShortnames() != "" {
		return Errorf("%q has no flag -%s", cmd.CommandPath(), name)
	}
	var names []string
	cmd.Flags().VisitAll(func(flag *pflag.Flag) { names = append(names, "--"+flag.Name) })
	return Errorf("%q has no flag --%s%s", cmd.CommandPath(), name, DidYouMean("--"+name, names))
}

// invalidValue leaves out the words that pflag puts before the reason of a
// value of our own types.
func invalidValue(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		var number *strconv.NumError
		if errors.As(err, &number) {
			return fmt.Errorf("invalid value %q for --%s: want %s", invalid.GetValue(), invalid.GetFlag().Name, wanted(invalid.GetFlag()))
		}
		return fmt.Errorf("invalid value %q for --%s: %w", invalid.GetValue(), invalid.GetFlag().Name, invalid.Unwrap())
	}
	return err
}

// wanted says what kind of value a flag takes.
func wanted(flag *pflag.Flag) string {
	if flag.Value.Type() == "bool" {
		return "true or false"
	}
	return "a number"
}

// Choice is a flag that takes one of a few words.
type Choice struct {
	value string
	words []string
}

// NewChoice returns a Choice among words, of which fallback is the default.
func NewChoice(fallback string, words ...string) *Choice {
	return &Choice{value: fallback, words: words}
}

// String returns the word chosen.
func (c *Choice) String() string { return c.value }

// Type returns the words as --help shows them.
func (c *Choice) Type() string { return strings.Join(c.words, "|") }

// Set chooses word, or says which one it may have been meant to be.
func (c *Choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("must be one of %s%s", strings.Join(c.words, ", "), DidYouMean(word, c.words))
	}
	c.value = word
	return nil
}

// Complete offers the words to a shell.
func (c *Choice) Complete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return c.words, cobra.ShellCompDirectiveNoFileComp
}

// Group returns what a command does that only holds other commands: it shows
// its help when it is called alone, and says which one may have been meant
// when it is called with a word it does not know.
func Group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Errorf("%q needs one of: %s", cmd.CommandPath(), strings.Join(childNames(cmd), ", "))
	}
	names := childNames(cmd)
	for _, child := range cmd.Commands() {
		names = append(names, child.Aliases...)
	}
	return Errorf("%q does not know %q%s", cmd.CommandPath(), args[0], DidYouMean(args[0], names))
}

// Args returns a check that a command has between least and most arguments.
// names says what they are.
func Args(least, most int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return Errorf("%q needs an argument: %s", cmd.CommandPath(), names)
		case len(args) > most && most == 0:
			return Errorf("%q takes no arguments, got %q", cmd.CommandPath(), args[0])
		case len(args) > most:
			return Errorf("%q takes %s only, got also %q", cmd.CommandPath(), names, args[most])
		}
		return nil
	}
}

func childNames(cmd *cobra.Command) []string {
	var names []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	return names
}

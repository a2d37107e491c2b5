package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/controlplane"
)

func newKeysGenerate() *cobra.Command {
	var prepend string
	cmd := &cobra.Command{
		Use:   "generate [FILE]",
		Short: "Make a root key",
		Long: "Makes a root key and writes it to a file that nobody but its owner may read; the\n" +
			"file must not be there yet. With --prepend puts it before the keys that a file\n" +
			"has, which begins a rotation. Without a file prints it, for a store of secrets.\n\n" +
			"Whoever has the root key and etcd's data, or a backup of it, has every secret; and\n" +
			"without it, nobody has.",
		Example: "  leasehold keys generate root.key\n  leasehold keys generate --prepend root.key\n  leasehold keys generate | ssh cp-1 'umask 077; cat > root.key'",
		Args:    usage.Args(0, 1, "a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case prepend != "" && len(args) > 0:
				return usage.Errorf("--prepend names the file already: leave %s out", args[0])
			case prepend != "":
				return prependKey(cmd.OutOrStdout(), cmd.ErrOrStderr(), prepend)
			case len(args) > 0:
				return generateKey(cmd.OutOrStdout(), args[0])
			}
			line, _ := controlplane.NewRootKey()
			_, err := fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		},
	}
	cmd.Flags().StringVar(&prepend, "prepend", "", "file of root keys to put the key into, before the others")
	return cmd
}

func generateKey(out io.Writer, path string) error {
	id, err := controlplane.MakeRootKeyFile(path)
	if errors.Is(err, fs.ErrExist) {
		return usage.Errorf("%s is there already; another key in its place would make all that is sealed with it worthless: use --prepend to rotate", path)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "root key %s in %s\n", id, path)
	return err
}

func prependKey(out, stderr io.Writer, path string) error {
	ids, err := controlplane.PrependRootKey(path)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "root key %s in %s, before %s\n", ids[0], path, strings.Join(ids[1:], ", ")); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stderr, "note: copy the file to every replica of the control plane, and then: leasehold keys rotate root")
	return err
}

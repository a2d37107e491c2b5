package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/leasehold/leasehold/cmd/internal/manifest"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// newValue stands for the fingerprint of a secret's value that is not stored yet.
const newValue = "(new value)"

func newDiff() *cobra.Command {
	var to client
	var files []string
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what `leasehold apply` would change",
		Long: "Shows how the gateways that are stored differ from what `leasehold apply` of the\n" +
			"same files would make of them, as a unified diff of what `leasehold get gateway\n" +
			"-o yaml` shows, without what only the control plane sets. It checks the files like\n" +
			"apply does, and writes nothing. The value of a secret is never shown, but whether\n" +
			"it would be another.\n\n" +
			"The exit code is 0 when nothing would change, 1 when something would, and 2 when a\n" +
			"gateway could not be compared.",
		Example: "  leasehold diff -f gateways.yaml",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return errNoFile
			}
			if err := to.check(); err != nil {
				return err
			}
			differ, err := compare(cmd.Context(), &to, files, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			if err != nil {
				return &trouble{err}
			}
			if differ {
				return errReported
			}
			return nil
		},
	}
	to.flags(cmd)
	fileFlag(cmd, &files)
	return cmd
}

// compare prints how what is stored differs from the files, and reports whether it
// does. All gateways are tried.
func compare(ctx context.Context, to *client, files []string, stdin io.Reader, stdout, stderr io.Writer) (differ bool, err error) {
	documents, failed := readFiles(stdin, stderr, files)
	if err := distinct(documents); err != nil {
		return false, err
	}
	if len(documents) > 0 {
		ctx, conn, closeAll, err := to.connect(ctx)
		if err != nil {
			return false, err
		}
		defer closeAll()
		w, err := newValidator(ctx, conn)
		if err != nil {
			return false, err
		}
		for _, d := range documents {
			text, err := w.diff(ctx, d.gateway)
			if err != nil {
				failed++
				fmt.Fprintf(stderr, "error: %s: %s\n", d.gateway.GetName(), indent(operator.Explain(err).Error()))
				continue
			}
			differ = differ || len(text) > 0
			if _, err := stdout.Write(text); err != nil {
				return false, err
			}
		}
	}
	if failed > 0 {
		return differ, errReported
	}
	return differ, nil
}

// diff returns what writing a gateway would change, nothing if it is unchanged.
func (w writer) diff(ctx context.Context, want *leaseholdv1.Gateway) ([]byte, error) {
	would, err := w.write(ctx, want)
	if err != nil {
		return nil, err
	}
	before, err := yamlOf(would.before)
	if err != nil {
		return nil, err
	}
	after, err := yamlOf(markNewValues(would.before, would.after))
	if err != nil {
		return nil, err
	}
	return diff.Diff("stored/"+want.GetName(), before, "given/"+want.GetName(), after), nil
}

// yamlOf returns what an operator may set of a gateway; nothing of none.
func yamlOf(gateway *leaseholdv1.Gateway) ([]byte, error) {
	if gateway == nil {
		return nil, nil
	}
	var out bytes.Buffer
	err := manifest.WriteYAML(&out, definition(gateway))
	return out.Bytes(), err
}

// markNewValues returns after with the fingerprints replaced that name no value of
// before: each write makes up another.
func markNewValues(before, after *leaseholdv1.Gateway) *leaseholdv1.Gateway {
	stored := map[string]bool{}
	eachSecret(before, func(s *leaseholdv1.Secret) { stored[s.GetFingerprint()] = true })
	marked := proto.CloneOf(after)
	eachSecret(marked, func(s *leaseholdv1.Secret) {
		if s.GetSet() && !stored[s.GetFingerprint()] {
			s.Fingerprint = newValue
		}
	})
	return marked
}

// eachSecret calls f for every secret of a gateway.
func eachSecret(gateway *leaseholdv1.Gateway, f func(*leaseholdv1.Secret)) {
	// It cannot fail: the function never does.
	_ = protorange.Range(gateway.ProtoReflect(), func(at protopath.Values) error {
		if message, ok := at.Index(-1).Value.Interface().(protoreflect.Message); ok {
			if secret, ok := message.Interface().(*leaseholdv1.Secret); ok {
				f(secret)
			}
		}
		return nil
	})
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/ca"
	"github.com/leasehold/leasehold/cmd/internal/trust"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// defaultCertsDir is where the authority is.
const defaultCertsDir = "certs"

func newCerts() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Make certificates by which processes know each other",
		Long: "Makes a small certificate authority in a directory, and certificates for the\n" +
			"processes of one Leasehold and for its operators, for those who have no authority\n" +
			"of their own.\n\n" +
			"A certificate says what its holder is, by one URI among its names:\n" +
			"leasehold://ROLE/NAME, such as leasehold://worker/worker-1. One of another\n" +
			"authority is as good if it has that. Roles are operator, worker and controlplane;\n" +
			"etcd is for an etcd's own listeners. A worker acts only for itself: give\n" +
			"each a name of its own. What has the same role and name is the same to others.",
		Example: "  leasehold certs init\n  leasehold certs issue --role controlplane --name cp-1 --dns cp-1.example.com",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	cmd.AddCommand(newCertsInit(), newCertsIssue())
	return cmd
}

// certsInit is the command's flags.
type certsInit struct {
	dir  string
	life time.Duration
}

func newCertsInit() *cobra.Command {
	c := &certsInit{}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a certificate authority",
		Long: "Makes an authority: ca.crt, which every process needs as --cluster-ca, and ca.key,\n" +
			"which signs certificates. Keep that one away from machines that serve.\n\n" +
			"To replace an authority, make another in another directory, give everybody both\n" +
			"certificates in one file, then new certificates of the new authority, and then its\n" +
			"certificate alone. Files are read each second; no call fails.",
		Example: "  leasehold certs init\n  leasehold certs init --dir /secure/leasehold-ca --valid-for 43800h",
		Args:    usage.Args(0, 0, ""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.OutOrStdout()) },
	}
	cmd.Flags().StringVar(&c.dir, "dir", defaultCertsDir, "directory of the authority; made if it is not there")
	cmd.Flags().DurationVar(&c.life, "valid-for", ca.DefaultLife, "how long the authority, and all of its certificates, are good for")
	return cmd
}

func (c *certsInit) run(out io.Writer) error {
	if err := checkLife(c.life); err != nil {
		return err
	}
	made, err := ca.Init(c.dir, c.life)
	if errors.Is(err, fs.ErrExist) {
		return usage.Errorf("--dir: %w; another authority in its place would make all of its certificates worthless: choose another directory", err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "authority in %s, good until %s\n", ca.CertFile(c.dir), until(made.NotAfter()))
	return err
}

// certsIssue is the command's flags.
type certsIssue struct {
	dir, name string
	role      *usage.Choice
	dns       []string
	ips       []net.IP
	life      time.Duration
}

func newCertsIssue() *cobra.Command {
	c := &certsIssue{role: usage.NewChoice("", trust.Roles()...)}
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Issue a certificate",
		Long: "Makes NAME.crt and NAME.key in the authority's directory; move them to where they\n" +
			"are needed. Issued again, a certificate is renewed: a process that has the files\n" +
			"uses the new ones from its next connection on.\n\n" +
			"Processes of Leasehold know each other by role and authority, not by address.\n" +
			"Other programs, such as grpcurl, and etcd's clients, want the host that they dial\n" +
			"among --dns or --ip.",
		Example: "  leasehold certs issue --role controlplane --name cp-1 --dns cp-1.example.com --ip 10.0.0.7\n" +
			"  leasehold certs issue --role worker --name worker-1\n" +
			"  leasehold certs issue --role operator --name alice --valid-for 12h",
		Args: usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.dir, "dir", defaultCertsDir, "directory of the authority")
	flags.Var(c.role, "role", "what the holder is to others")
	flags.StringVar(&c.name, "name", "", "who the holder is among those of its role; lower-case letters, digits, dots, dashes, underscores")
	flags.StringSliceVar(&c.dns, "dns", nil, "host names at which the holder is reached")
	flags.IPSliceVar(&c.ips, "ip", nil, "addresses at which the holder is reached")
	flags.DurationVar(&c.life, "valid-for", ca.DefaultCertLife, "how long the certificate is good for; not longer than the authority")
	// It cannot fail: the flag was just made.
	_ = cmd.RegisterFlagCompletionFunc("role", c.role.Complete)
	return cmd
}

func (c *certsIssue) run(out io.Writer) error {
	request := ca.Request{
		Identity: trust.Identity{Role: trust.Role(c.role.String()), Name: c.name},
		DNS:      c.dns, IPs: c.ips, Life: c.life,
	}
	switch err := request.Identity.Check(); {
	case c.role.String() == "":
		return usage.Errorf("--role: is needed: %s", c.role.Type())
	case err != nil:
		return usage.Errorf("--name: %w", err)
	case c.name == "ca":
		return usage.Errorf("--name: ca is what the authority's own files are called")
	case request.Identity.Role == trust.Etcd && len(c.dns)+len(c.ips) == 0:
		return usage.Errorf("--dns: is needed, or --ip: clients of etcd look for the host that they dial in its certificate")
	}
	if err := checkLife(c.life); err != nil {
		return err
	}
	authority, err := ca.Open(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return usage.Errorf("--dir: %w; `leasehold certs init` makes an authority", err)
	}
	if err != nil {
		return err
	}
	cert, key := filepath.Join(c.dir, c.name+".crt"), filepath.Join(c.dir, c.name+".key")
	if holder, err := ca.Holder(cert); err != nil {
		return err
	} else if holder != (trust.Identity{}) && holder != request.Identity {
		return usage.Errorf("--name: %s is that of %s, which is another's: choose another name", cert, holder)
	}
	pair, err := authority.Issue(request)
	if err != nil {
		return err
	}
	if err := pair.Write(cert, key); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s in %s and %s, good until %s\n", request.Identity, cert, key, until(pair.NotAfter))
	return err
}

func checkLife(life time.Duration) error {
	if life <= 0 {
		return usage.Errorf("--valid-for: %s is not a time that something could be good for", life)
	}
	return nil
}

func until(t time.Time) string { return t.UTC().Format(time.RFC3339) }

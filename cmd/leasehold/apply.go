package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/cmd/internal/manifest"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newApply() *cobra.Command {
	var to client
	var files []string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or update gateways from files",
		Long: "Creates the gateways of the files, or updates them. A file is YAML, also of\n" +
			"several documents, or JSON: a gateway, a list of gateways, or an object that has\n" +
			"them as gateways. What `leasehold get gateways -o yaml` printed can be applied\n" +
			"again; an etag in it guards against overwriting what others changed meanwhile.\n\n" +
			"All gateways are tried; the exit code is 1 when one of them failed.",
		Example: "  leasehold apply -f gateways.yaml\n  leasehold get gateways -o yaml | leasehold apply -f -",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usage.Errorf("name a file with -f, or - for standard input")
			}
			if err := to.check(); err != nil {
				return err
			}
			gateways, failed := readFiles(cmd.InOrStdin(), cmd.ErrOrStderr(), files)
			if len(gateways) > 0 {
				ctx, conn, closeAll, err := to.connect(cmd.Context())
				if err != nil {
					return err
				}
				defer closeAll()
				api := leaseholdv1.NewGatewayServiceClient(conn)
				for _, gateway := range gateways {
					done, err := applyGateway(ctx, api, gateway)
					if err != nil {
						failed = true
						fmt.Fprintf(cmd.ErrOrStderr(), "error: %s: %s\n", gateway.GetName(), indent(err.Error()))
						continue
					}
					if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", gateway.GetName(), done); err != nil {
						return err
					}
				}
			}
			if failed {
				return errReported
			}
			return nil
		},
	}
	to.flags(cmd)
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file of gateways, - for standard input; may be given several times")
	return cmd
}

// readFiles returns the gateways of all files, and whether something in them
// could not be read, which it has printed.
func readFiles(stdin io.Reader, stderr io.Writer, files []string) (gateways []*leaseholdv1.Gateway, failed bool) {
	for _, file := range files {
		data, err := readFile(stdin, file)
		var found []*leaseholdv1.Gateway
		if err == nil {
			found, err = manifest.Gateways(data)
		}
		if err != nil {
			failed = true
			fmt.Fprintf(stderr, "error: %s: %s\n", file, indent(err.Error()))
		}
		gateways = append(gateways, found...)
	}
	return gateways, failed
}

func readFile(stdin io.Reader, file string) ([]byte, error) {
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, errors.Unwrap(err) // the caller names the file
		}
		defer opened.Close()
		stdin = opened
	}
	data, err := io.ReadAll(io.LimitReader(stdin, manifest.MaxSize+1))
	if len(data) > manifest.MaxSize {
		return nil, fmt.Errorf("is larger than %d MiB", manifest.MaxSize>>20)
	}
	return data, err
}

// applyGateway makes the gateway be as given, and says what that took.
func applyGateway(ctx context.Context, api leaseholdv1.GatewayServiceClient, want *leaseholdv1.Gateway) (string, error) {
	stored, err := api.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: want.GetName()})
	if operator.Code(err) == codes.NotFound {
		if want.GetEtag() != "" {
			return "", errors.New("etag: is set, but there is no such gateway; leave it out to create one")
		}
		_, err = api.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{Gateway: want})
		if err == nil {
			return "created", nil
		}
		if operator.Code(err) != codes.AlreadyExists {
			return "", operator.Explain(err)
		}
		// Somebody else created it meanwhile.
		stored, err = api.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: want.GetName()})
	}
	if err != nil {
		return "", operator.Explain(err)
	}
	if sameDefinition(stored.GetGateway(), want) {
		return "unchanged", nil
	}
	updated, err := api.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: want})
	if err != nil {
		return "", operator.Explain(err)
	}
	if sameDefinition(stored.GetGateway(), updated.GetGateway()) {
		return "unchanged", nil // the server's defaults made them equal
	}
	return "updated", nil
}

// sameDefinition reports whether two gateways say the same in all that an
// operator may set.
func sameDefinition(a, b *leaseholdv1.Gateway) bool {
	return proto.Equal(definition(a), definition(b))
}

func definition(gateway *leaseholdv1.Gateway) *leaseholdv1.Gateway {
	only := proto.CloneOf(gateway)
	only.Etag, only.CreateTime, only.UpdateTime, only.Status = "", nil, nil, nil
	for _, upstream := range only.GetUpstreams() {
		if upstream.GetTransport() == leaseholdv1.Transport_TRANSPORT_UNSPECIFIED {
			upstream.Transport = leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP
		}
	}
	return only
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/manifest"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// errNoFile says that a command that takes files was given none.
var errNoFile = usage.Errorf("name a file with -f, or - for standard input")

// fileFlag adds the flag for files of gateways.
func fileFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, "file of gateways, - for standard input; may be given several times")
}

// document is a gateway as a file has it.
type document struct {
	gateway *leaseholdv1.Gateway
	file    string
}

// readFiles returns the gateways of all files, and how many of their documents, or
// whole files, could not be read, of which it has printed why.
func readFiles(stdin io.Reader, stderr io.Writer, files []string) (documents []document, unread int) {
	for _, file := range files {
		data, err := readFile(stdin, file)
		var found []*leaseholdv1.Gateway
		if err == nil {
			found, err = manifest.Gateways(data)
		}
		if err != nil {
			unread += mistakes(err)
			fmt.Fprintf(stderr, "error: %s: %s\n", file, indent(err.Error()))
		}
		for _, gateway := range found {
			documents = append(documents, document{gateway: gateway, file: file})
		}
	}
	return documents, unread
}

// mistakes is how many errors were joined to one.
func mistakes(err error) int {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return len(joined.Unwrap())
	}
	return 1
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

// distinct says which gateways are there more than once: what should be stored in the
// end would depend on their order.
func distinct(documents []document) error {
	first := make(map[string]string, len(documents))
	var errs []error
	for _, d := range documents {
		name := d.gateway.GetName()
		if file, ok := first[name]; ok {
			errs = append(errs, fmt.Errorf("%s is there twice, in %s and %s; nothing was written", name, file, d.file))
			continue
		}
		first[name] = d.file
	}
	return errors.Join(errs...)
}

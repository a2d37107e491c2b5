package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestMain(m *testing.M) {
	if door := os.Getenv(doorEnv); door != "" {
		fmt.Fprintln(os.Stderr, becomeClient(door, os.Getenv(clientEnv), os.Args[len(os.Args)-1]))
		os.Exit(1)
	}
	flag.Parse()
	if *trialRuns > 0 {
		if err := trial(context.Background(), *trialRuns); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		cluster.RemoveBinaries()
		os.Exit(code)
	}))
}

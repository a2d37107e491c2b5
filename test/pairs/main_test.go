package pairs

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(serverEnv); name != "" {
		fmt.Fprintln(os.Stderr, serve(name))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		cluster.RemoveBinaries()
		os.Exit(code)
	}))
}

// Package compat tests that processes of this version and of the release before work
// side by side, as they do while a system is upgraded, or the upgrade is undone. The
// release before is the commit in scripts/compat/commit, built from the history.
//
// Gateways with secrets in them are not among what is tested: the release before cannot
// read secrets as this version stores them.
package compat

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/leasehold/leasehold/controlplane/rpc"
	"github.com/leasehold/leasehold/dataplane/control"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// before is the program of the release before.
var before string

func TestMain(m *testing.M) {
	var err error
	if before, err = build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	cluster.RemoveBinaries()
	os.Exit(code)
}

func build() (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("../../scripts/compat/build.sh")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build the release before: %w\n%s", err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), nil
}

func TestWorkersAndControlPlanesOfThisVersionSpeakOneProtocol(t *testing.T) {
	if rpc.Protocol != control.Protocol {
		t.Errorf("control planes speak version %d, workers %d", rpc.Protocol, control.Protocol)
	}
}

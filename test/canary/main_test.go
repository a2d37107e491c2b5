// Package canary looks for secrets in all that Leasehold leaves behind and shows, with
// real processes: etcd and its files, logs, metrics, answers, the command line,
// arguments, environments, data directories.
package canary

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// limit bounds what a test waits for.
const limit = 30 * time.Second

// asProgram is the argument by which this binary is the program of a gateway.
const asProgram = "be-a-program"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == asProgram {
		program()
		return
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// program is an MCP server on standard input and output.
func program() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var request struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
		}
		if json.Unmarshal(lines.Bytes(), &request) == nil && request.ID != nil {
			fmt.Printf("%s\n", result(request.ID, request.Method))
		}
	}
}

// result is the answer of a server to a request.
func result(id json.RawMessage, method string) []byte {
	body := `{}`
	switch method {
	case "initialize":
		body = `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"scripted","version":"1"}}`
	case "tools/list":
		body = `{"tools":[]}`
	case "tools/call":
		body = `{"content":[{"type":"text","text":"done"}]}`
	}
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, body)
}

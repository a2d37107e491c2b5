package main

import (
	"fmt"
	"strings"

	"github.com/leasehold/leasehold/cmd/internal/version"
)

// welcome says where everything is and what to paste into a terminal. Its last
// line is "ready".
func (w *world) welcome() string {
	var out strings.Builder
	control := bound(w.listeners.control)
	fmt.Fprintf(&out, "%s\n\n", version.Line())
	fmt.Fprintf(&out, "  data directory   %s\n", w.flags.dataDir)
	fmt.Fprintf(&out, "  certificates     %s\n", w.flags.certsDir())
	fmt.Fprintf(&out, "  control plane    %s (gRPC)\n", control)
	fmt.Fprintf(&out, "  admin            http://%s/readyz, /metrics\n", bound(w.listeners.admin))
	for i, listener := range w.listeners.clients {
		fmt.Fprintf(&out, "  worker %-9d http://%s/gateways/{gateway}/mcp\n", i, bound(listener))
	}
	flag := ""
	if control != defaultControl {
		flag = " --control " + control
	}
	if w.demo == nil {
		fmt.Fprintf(&out, "\nadd a gateway:\n\n  leasehold apply%s -f gateways.yaml\n", flag)
	} else {
		fmt.Fprintf(&out, "  demo upstream    %s\n", w.demoURL())
		fmt.Fprintf(&out, "\nopen a session of the demo (any worker will do):\n\n%s", w.clientLines())
	}
	fmt.Fprintf(&out, "\nlook at the control plane:\n\n"+
		"  leasehold get sessions%s\n"+
		"  grpcurl -plaintext %s list\n"+
		"  grpcurl -plaintext %s describe leasehold.v1.GatewayService\n\nready\n", flag, control, control)
	return out.String()
}

func (w *world) clientLines() string {
	url := "http://" + bound(w.listeners.clients[0]) + "/gateways/demo/mcp"
	return fmt.Sprintf(`  curl -i %[1]s \
    -H 'Content-Type: application/json' \
    -H 'Accept: application/json, text/event-stream' \
    -d '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"curl","version":"1"}}}'

  npx @modelcontextprotocol/inspector --transport http --server-url %[1]s

  claude mcp add --transport http leasehold-demo %[1]s

  VS Code, .vscode/mcp.json:
  {"servers": {"leasehold-demo": {"type": "http", "url": "%[1]s"}}}
`, url)
}

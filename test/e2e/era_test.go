package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	mcpgo "github.com/mark3labs/mcp-go/client"
	mcpgotypes "github.com/mark3labs/mcp-go/mcp"
	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/leasehold/leasehold/test/internal/client"
)

// stateless is the protocol version without sessions.
const stateless = "2026-07-28"

// statelessBody is a request of that version.
func statelessBody(method, params string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":"era-1","method":%q,"params":{%s"_meta":{`+
		`"io.modelcontextprotocol/protocolVersion":%q,"io.modelcontextprotocol/clientCapabilities":{},`+
		`"io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"}}}}`, method, params, stateless)
}

func TestStatelessRequestsAreToldTheStatefulVersions(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "eras", "")
	before := len(report(t, remote).Entries)
	bodies := map[string]string{
		"server/discover":      statelessBody("server/discover", ""),
		"tools/list":           statelessBody("tools/list", ""),
		"tools/call":           statelessBody("tools/call", `"name":"echo","arguments":{"text":"x"},`),
		"resources/read":       statelessBody("resources/read", `"uri":"a://b",`),
		"subscriptions/listen": statelessBody("subscriptions/listen", `"notifications":{"toolsListChanged":true},`),
		"example/unknown":      statelessBody("example/unknown", ""),
	}
	for method, body := range bodies {
		for _, w := range c.Workers {
			header := http.Header{"Mcp-Protocol-Version": {stateless}, "Mcp-Method": {method}}
			resp, err := client.Do(t.Context(), "POST", w.URL("eras"), header, []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			failure := wantError(t, method, resp, 400, -32022, `"era-1"`)
			var data struct {
				Supported []string `json:"supported"`
			}
			if err := json.Unmarshal(failure.Data, &data); err != nil {
				t.Errorf("%s: data %s: %v", method, failure.Data, err)
			}
			slices.Sort(data.Supported)
			if got := strings.Join(data.Supported, " "); got != "2025-03-26 2025-06-18 2025-11-25" {
				t.Errorf("%s: supported is %q, want the stateful versions", method, got)
			}
		}
	}
	if after := len(report(t, remote).Entries); after != before {
		t.Errorf("the upstream saw %d requests of them, want none", after-before)
	}
}

func TestInitializeNegotiatesAStatefulVersion(t *testing.T) {
	c := shared(t)
	c.Serve(t, "negotiate", "")
	for asked, want := range map[string]string{
		"2025-03-26": "2025-03-26", "2025-06-18": "2025-06-18", "2025-11-25": "2025-11-25", stateless: "2025-11-25", "2099-01-01": "2025-11-25",
	} {
		body := strings.Replace(string(client.Initialize(1)), client.Version, asked, 1)
		resp, err := client.Do(t.Context(), "POST", c.Workers[0].URL("negotiate"), nil, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		var result struct {
			ProtocolVersion string `json:"protocolVersion"`
		}
		envelope, err := resp.Envelope()
		if err == nil {
			err = json.Unmarshal(envelope.Result, &result)
		}
		if err != nil || result.ProtocolVersion != want {
			t.Errorf("asked for %s: status %d, body %.300s; want %s", asked, resp.Status, resp.Body, want)
		}
	}
}

func TestMCPGoClientFallsBackToASession(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "mcpgo", "")
	cl, err := mcpgo.NewStreamableHttpClient(c.Workers[0].URL("mcpgo"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Initialize(t.Context(), mcpgotypes.InitializeRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := cl.ProtocolVersion(); got != client.Version {
		t.Errorf("mcp-go speaks %s, want %s", got, client.Version)
	}
	for want := 1; want <= 3; want++ {
		var call mcpgotypes.CallToolRequest
		call.Params.Name = "counter_increment"
		result, err := cl.CallTool(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := result.Content[0].(mcpgotypes.TextContent); !ok || text.Text != fmt.Sprint(want) {
			t.Errorf("counter_increment = %+v, want %d", result.Content, want)
		}
	}
	if err := cl.Close(); err != nil {
		t.Error(err)
	}
	if r := report(t, remote); r.Opened != 1 {
		t.Errorf("the upstream saw %d sessions, want 1", r.Opened)
	}
}

func TestGoSDKClientFallsBackToASession(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "gosdk", "")
	cl := gosdk.NewClient(&gosdk.Implementation{Name: "test", Version: "1"}, nil)
	s, err := cl.Connect(t.Context(), &gosdk.StreamableClientTransport{Endpoint: c.Workers[1].URL("gosdk")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.InitializeResult().ProtocolVersion; got != client.Version {
		t.Errorf("go-sdk speaks %s, want %s", got, client.Version)
	}
	for want := 1; want <= 3; want++ {
		result, err := s.CallTool(t.Context(), &gosdk.CallToolParams{Name: "counter_increment"})
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := result.Content[0].(*gosdk.TextContent); !ok || text.Text != fmt.Sprint(want) {
			t.Errorf("counter_increment = %+v, want %d", result.Content, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if r := report(t, remote); r.Opened != 1 || len(r.Live) != 0 {
		t.Errorf("the upstream saw %d sessions and has %d; want 1 and none", r.Opened, len(r.Live))
	}
}

package inspect_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	mcpgo "github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"
	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/duplex/duplextest"
	"github.com/leasehold/leasehold/dataplane/duplex/sse"
	"github.com/leasehold/leasehold/dataplane/duplex/stdio"
	"github.com/leasehold/leasehold/dataplane/inspect"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestAnInspectionShowsWhatAServerOfEachKindHas(t *testing.T) {
	mark := mcpserver.NewMCPServer("mark", "3", mcpserver.WithToolCapabilities(true), mcpserver.WithResourceCapabilities(true, false), mcpserver.WithPromptCapabilities(false), mcpserver.WithInstructions("do this"))
	mark.AddTool(mcpgo.NewTool("add", mcpgo.WithDescription("adds")), func(context.Context, mcpgo.CallToolRequest) (*mcpgo.CallToolResult, error) { return nil, nil })
	mark.AddResource(mcpgo.NewResource("demo://r", "r"), func(context.Context, mcpgo.ReadResourceRequest) ([]mcpgo.ResourceContents, error) { return nil, nil })
	mark.AddResourceTemplate(mcpgo.NewResourceTemplate("demo://t/{x}", "t"), func(context.Context, mcpgo.ReadResourceRequest) ([]mcpgo.ResourceContents, error) { return nil, nil })
	mark.AddPrompt(mcpgo.NewPrompt("greet"), func(context.Context, mcpgo.GetPromptRequest) (*mcpgo.GetPromptResult, error) { return nil, nil })
	official := gosdk.NewServer(&gosdk.Implementation{Name: "official", Title: "Official", Version: "8"}, nil)
	for _, name := range []string{"add", "subtract"} {
		official.AddTool(&gosdk.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *gosdk.CallToolRequest) (*gosdk.CallToolResult, error) { return nil, nil })
	}
	one := func(*http.Request) *gosdk.Server { return official }
	for name, c := range map[string]struct {
		handler      http.Handler
		era          leaseholdv1.InspectedEra
		server       string
		capabilities string
		tools        string
		all          bool // resources, templates and prompts too
		opened       int
	}{
		"mcp-go": {mcpserver.NewStreamableHTTPServer(mark), leaseholdv1.InspectedEra_INSPECTED_ERA_BOTH, "mark", "tools tools.listChanged", "add", true, 1},
		"go-sdk, with sessions": {gosdk.NewStreamableHTTPHandler(one, nil), leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL,
			"official", "tools tools.listChanged", "add subtract", false, 1},
		"go-sdk, without": {gosdk.NewStreamableHTTPHandler(one, &gosdk.StreamableHTTPOptions{Stateless: true}), leaseholdv1.InspectedEra_INSPECTED_ERA_BOTH,
			"official", "tools tools.listChanged", "add subtract", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, target := serve(t, c.handler)
			r := look(t, at(target))
			_, failed := kinds(r)
			if failed != nil || r.Upstream != "up" || r.ServerName != c.server || r.ProtocolVersion != "2025-11-25" || r.Era != c.era {
				t.Errorf("got %v, want no failure, and %s %v", r, c.server, c.era)
			}
			if got := strings.Join(r.Capabilities, " "); !strings.Contains(got, c.capabilities) {
				t.Errorf("capabilities: got %s, want %s", got, c.capabilities)
			}
			if names(r.Tools) != c.tools || c.all != (names(r.Resources) == "r" && names(r.ResourceTemplates) == "t" && names(r.Prompts) == "greet" && r.InstructionsBytes == 7) {
				t.Errorf("got %v, want the tools %s; all else: %t", r, c.tools, c.all)
			}
			if len(r.Findings) != 0 {
				t.Errorf("findings: got %s, want none", findings(r))
			}
			s.want(t, c.opened)
		})
	}
}

func TestEachStepIsShownInTurn(t *testing.T) {
	s, target := serve(t, ordinary(nil))
	r := look(t, at(target))
	want := []string{"RESOLVE", "CONNECT", "HTTP", "INITIALIZE", "LIST_TOOLS", "LIST_RESOURCES", "LIST_RESOURCE_TEMPLATES", "LIST_PROMPTS", "END", "DISCOVER"}
	if got, failed := kinds(r); !slices.Equal(got, want) || failed != nil {
		t.Errorf("got %v, of which %v failed; want %v and none", got, failed, want)
	}
	if r.Era != leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL || r.ServerTitle != "Scripted" || r.ServerVersion != "7" || !r.SessionId ||
		strings.Join(r.Capabilities, " ") != "prompts resources resources.subscribe tools tools.listChanged" {
		t.Errorf("got %v", r)
	}
	if r.Prompts.Items[0].Name != "greet" || r.Resources.Items[0].Uri != "demo://r" || r.ResourceTemplates.Items[0].Uri != "demo://t/{x}" {
		t.Errorf("got %v", r)
	}
	s.want(t, 1)
}

func TestAServerWithoutSessionsIsToldFromOthers(t *testing.T) {
	const versions = `"result":{"supportedVersions":["2026-07-28"],"capabilities":{}}`
	for name, c := range map[string]struct {
		initialize, discover string
		era                  leaseholdv1.InspectedEra
		detail               string
	}{
		"has no sessions":        {`400 `, versions, leaseholdv1.InspectedEra_INSPECTED_ERA_STATELESS, ""},
		"refuses by JSON-RPC":    {`"error":{"code":-32022,"message":"x"}`, versions, leaseholdv1.InspectedEra_INSPECTED_ERA_STATELESS, ""},
		"has both":               {aSession, versions, leaseholdv1.InspectedEra_INSPECTED_ERA_BOTH, ""},
		"knows older ones only":  {aSession, `"result":{"supportedVersions":["2025-11-25"]}`, leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL, ""},
		"does not understand":    {aSession, `"error":{"code":-32601,"message":"x"}`, leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL, "no version without sessions: the server answered with the JSON-RPC error -32601"},
		"is not to be asked":     {aSession, `401 `, leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL, "it is not known whether there are versions without sessions: the server answered HTTP 401"},
		"is broken":              {aSession, `503 `, leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL, "it is not known whether"},
		"speaks neither of both": {`400 `, `400 `, leaseholdv1.InspectedEra_INSPECTED_ERA_UNSPECIFIED, "no version without sessions: the server answered HTTP 400"},
	} {
		_, target := serve(t, ordinary(scripted{"initialize": c.initialize, "server/discover": c.discover}))
		r := look(t, at(target))
		if last := r.Steps[len(r.Steps)-1]; r.Era != c.era || short(last) != "DISCOVER" || last.Error != "" || !strings.HasPrefix(last.Detail, c.detail) {
			t.Errorf("%s: got %v after %v, want %v with %q", name, r.Era, last, c.era, c.detail)
		}
		if only := strings.Contains(findings(r), "it has only versions without sessions"); only != (c.era == leaseholdv1.InspectedEra_INSPECTED_ERA_STATELESS) {
			t.Errorf("%s: found %s", name, findings(r))
		}
	}
}

func TestWhatWouldCauseTroubleIsFound(t *testing.T) {
	tool := func(body string) scripted {
		return scripted{"tools/list": `"result":{"tools":[{"name":"add","inputSchema":{"type":"object"}},` + body + `]}`}
	}
	for name, c := range map[string]struct {
		changes    scripted
		repeatable []string
		want       string
	}{
		"nothing":                  {nil, []string{"add"}, ""},
		"a name twice":             {tool(`{"name":"add","inputSchema":{"type":"object"}}`), nil, "tools[1] add: was listed before: clients cannot tell the two apart\n"},
		"a name with a space":      {tool(`{"name":"a b","inputSchema":{"type":"object"}}`), nil, "tools[1] a b: its name, of 3 bytes, is not 1 to 128 characters of A-Z, a-z, 0-9, _, - and .: clients may refuse it\n"},
		"a long name":              {tool(`{"name":"` + strings.Repeat("n", 129) + `","inputSchema":{"type":"object"}}`), nil, "its name, of 129 bytes, is not"},
		"no name":                  {tool(`{"inputSchema":{"type":"object"}}`), nil, "tools[1]: has no name\n"},
		"a name that is a number":  {tool(`{"name":1,"inputSchema":{"type":"object"}}`), nil, "tools[1]: has no name\n"},
		"no object":                {tool(`"x"`), nil, "tools[1]: is not an object\n"},
		"no schema":                {tool(`{"name":"b"}`), nil, "tools[1] b: has no inputSchema\n"},
		"a schema of another kind": {tool(`{"name":"b","inputSchema":true}`), nil, "tools[1] b: inputSchema is not an object\n"},
		"a schema that is null":    {tool(`{"name":"b","inputSchema":null}`), nil, "tools[1] b: inputSchema is not an object\n"},
		"a schema of another type": {tool(`{"name":"b","inputSchema":{"type":"array"}}`), nil, "tools[1] b: inputSchema does not have the type \"object\"\n"},
		"an output schema":         {tool(`{"name":"b","inputSchema":{"type":"object"},"outputSchema":[]}`), nil, "tools[1] b: outputSchema is not an object\n"},
		"a huge tool":              {tool(`{"name":"b","inputSchema":{"type":"object"},"x":"` + strings.Repeat("x", 64<<10) + `"}`), nil, "more than 65536: clients and models may not take it\n"},
		"repeatable and not there": {nil, []string{"add", "lost"}, "repeatable_tools lost: the server has no such tool\n"},
		"tools that fail":          {scripted{"tools/list": `"error":{"code":-32603,"message":"x"}`}, []string{"add"}, "tools: it says that it has tools, but does not list these: the server answered with the JSON-RPC error -32603\n"},
		"a relative URI":           {scripted{"resources/list": `"result":{"resources":[{"name":"r","uri":"r"}]}`}, nil, "resources[0] r: its uri is no absolute URI\n"},
		"a URI twice":              {scripted{"resources/list": `"result":{"resources":[{"name":"r","uri":"a:b"},{"name":"s","uri":"a:b"}]}`}, nil, "resources[1] a:b: was listed before"},
		"a template without one":   {scripted{"resources/templates/list": `"result":{"resourceTemplates":[{"name":"t"}]}`}, nil, "resourceTemplates[0] t: has no uriTemplate\n"},
		"a prompt twice":           {scripted{"prompts/list": `"result":{"prompts":[{"name":"p"},{"name":"p"}]}`}, nil, "prompts[1] p: was listed before"},
		"no templates":             {scripted{"resources/templates/list": `"error":{"code":-32601,"message":"x"}`}, nil, ""},
		"no name of its own":       {scripted{"initialize": `"result":{"protocolVersion":"2025-11-25","capabilities":{}}`}, nil, ": it does not say what it is called (serverInfo.name)\n"},
		"an unknown version":       {scripted{"initialize": `"result":{"protocolVersion":"2031-01-01","capabilities":{},"serverInfo":{"name":"s"}}`}, nil, `: it answered initialize with the protocol version "2031-01-01"`},
		"another type":             {scripted{"initialize": `"result":{"protocolVersion":"2025-11-25","capabilities":[],"serverInfo":{"name":"s"}}`}, nil, ": its answer to initialize has parts of another type"},
	} {
		s, target := serve(t, ordinary(c.changes))
		u := at(target)
		u.Repeatable = map[string]bool{}
		for _, tool := range c.repeatable {
			u.Repeatable[tool] = true
		}
		r := look(t, u)
		if got := findings(r); c.want == "" && got != "" || !strings.Contains(got, c.want) || strings.Count(got, "\n") > 1 {
			t.Errorf("%s: found %q, want %q", name, got, c.want)
		}
		s.want(t, 1)
	}
}

func TestWhatAServerListsIsBounded(t *testing.T) {
	items := func(n int, more string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`{"name":"n%d","inputSchema":{"type":"object"}%s}`, i, more))
		}
		return strings.Join(all, ",")
	}
	long := `,"title":"` + strings.Repeat("t", 300) + `","description":"` + strings.Repeat("é", 300) + `"`
	for name, c := range map[string]struct {
		changes scripted
		items   int
		cut     string
		failed  string
	}{
		"all of them":       {scripted{"tools/list": `"result":{"tools":[` + items(500, "") + `]}`}, 500, "", ""},
		"too many":          {scripted{"tools/list": `"result":{"tools":[` + items(501, "") + `]}`}, 500, "500 are shown", ""},
		"two pages":         {scripted{"tools/list": `"result":{"tools":[` + items(1, "") + `],"nextCursor":"x"}`, "tools/list x": `"result":{"tools":[{"name":"z","inputSchema":{"type":"object"}}]}`}, 2, "", ""},
		"a page for ever":   {scripted{"tools/list": `"result":{"tools":[],"nextCursor":"x"}`, "tools/list x": `"result":{"tools":[],"nextCursor":"x"}`}, 0, "", "a cursor leads to itself"},
		"cursors for ever":  {pages(100), 0, "50 pages were read", ""},
		"too large":         {scripted{"tools/list": `"result":{"tools":[{"name":"` + strings.Repeat("x", session.MaxEvent) + `"}]}`}, 0, "", fmt.Sprintf("the answer has more than %d bytes", session.MaxEvent)},
		"no list":           {scripted{"tools/list": `"result":{"tools":{}}`}, 0, "", "tools of the result is not an array"},
		"no object":         {scripted{"tools/list": `"result":[]`}, 0, "", "the result is not an object"},
		"long descriptions": {scripted{"tools/list": `"result":{"tools":[` + items(5, long) + `]}`}, 5, "", ""},
	} {
		s, target := serve(t, ordinary(c.changes))
		r := look(t, at(target))
		_, failed := kinds(r)
		if len(r.Tools.GetItems()) != c.items || r.Tools.GetCut() != c.cut || (failed != nil) != (c.failed != "") || failed != nil && !strings.Contains(failed.Error, c.failed) {
			t.Errorf("%s: got %d tools, cut %q, failed %v; want %d, %q, %q", name, len(r.Tools.GetItems()), r.Tools.GetCut(), failed, c.items, c.cut, c.failed)
		}
		if size := proto.Size(r); size > 3<<19 {
			t.Errorf("%s: got %d bytes", name, size)
		}
		if name == "long descriptions" {
			if it := r.Tools.Items[0]; len(it.Title) > 256 || len(it.Description) > 512 || !strings.HasSuffix(it.Description, "é…") || !strings.HasSuffix(it.Title, "t…") {
				t.Errorf("got %d and %d bytes: %s", len(it.Title), len(it.Description), it)
			}
		}
		s.want(t, 1)
	}
	everything := scripted{}
	for method, key := range map[string][2]string{"resources/list": {"resources", "uri"}, "resources/templates/list": {"resourceTemplates", "uriTemplate"}} {
		everything[method] = `"result":{"` + key[0] + `":[` + items(400, long+`,"`+key[1]+`":"a:`+strings.Repeat("u", 1100)+`"`) + `]}`
	}
	_, target := serve(t, ordinary(everything))
	r := look(t, at(target))
	if size := proto.Size(r); size > 3<<19 || r.ResourceTemplates.GetCut() != "the texts of all lists have more than 1048576 bytes" || len(r.Findings) != 100 {
		t.Errorf("got %d bytes, %d findings, cut %q", size, len(r.Findings), r.ResourceTemplates.GetCut())
	}
}

// pages is a server with that many pages of no tools.
func pages(n int) scripted {
	s := scripted{"tools/list": `"result":{"tools":[],"nextCursor":"1"}`}
	for i := range n {
		s[fmt.Sprintf("tools/list %d", i)] = fmt.Sprintf(`"result":{"tools":[],"nextCursor":"%d"}`, i+1)
	}
	return s
}

func TestALegacyServerIsInspectedOverItsStream(t *testing.T) {
	official := gosdk.NewServer(&gosdk.Implementation{Name: "legacy", Version: "1"}, nil)
	official.AddTool(&gosdk.Tool{Name: "add", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *gosdk.CallToolRequest) (*gosdk.CallToolResult, error) { return nil, nil })
	over := make(chan struct{}, 1)
	handler := gosdk.NewSSEHandler(func(*http.Request) *gosdk.Server { return official }, nil)
	_, target := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		if r.Method == http.MethodGet {
			over <- struct{}{}
		}
	}))
	u := at(target)
	u.Transport = leaseholdv1.Transport_TRANSPORT_SSE
	r := inspect.Inspect(t.Context(), duplexOf(t, sse.NewDialer(usual.client(t))), u)
	got, failed := kinds(r)
	if want := []string{"RESOLVE", "CONNECT", "HTTP", "INITIALIZE", "LIST_TOOLS", "END"}; !slices.Equal(got, want) || failed != nil || names(r.Tools) != "add" {
		t.Errorf("got %v, %v and %v, want %v and the tool", got, failed, r, want)
	}
	<-over // its stream
}

func duplexOf(t *testing.T, opener duplex.Opener) *duplex.Upstream {
	d := duplex.New(opener, hclog.NewNullLogger())
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		d.Run(over)
	})
	return d
}

func TestAProgramIsInspectedAndEnded(t *testing.T) {
	host := func(allow bool) (*stdio.Host, *duplex.Upstream) {
		h, err := stdio.NewHost(stdio.Config{Allow: allow, Logger: hclog.NewNullLogger()})
		if err != nil {
			t.Fatal(err)
		}
		return h, duplexOf(t, h)
	}
	u := &config.Upstream{Name: "up", Transport: leaseholdv1.Transport_TRANSPORT_STDIO, Program: &config.Program{Command: os.Args[0], Env: map[string]string{duplextest.Env: ""}}}
	h, programs := host(true)
	r := inspect.Inspect(t.Context(), programs, u)
	got, _ := kinds(r)
	if want := []string{"START", "INITIALIZE", "LIST_TOOLS", "END"}; !slices.Equal(got, want) || r.ServerName != "program" || h.Running() != 0 {
		t.Errorf("got %v and %v, %d programs; want %v and none", got, r, h.Running(), want)
	}
	for name, c := range map[string]struct {
		command, step, reason string
		args                  []string
		allow                 bool
	}{
		"is not allowed": {os.Args[0], "START", `this worker does not run programs: start it with --allow-stdio`, nil, false},
		"is not there":   {"/no/such/program", "START", "no such file or directory", nil, true},
		"ends":           {"sh", "INITIALIZE", "the program ended by itself: exit status 3", []string{"-c", "read line; exit 3"}, true},
	} {
		h, programs := host(c.allow)
		u.Program = &config.Program{Command: c.command, Args: c.args}
		r := inspect.Inspect(t.Context(), programs, u)
		if _, failed := kinds(r); failed == nil || short(failed) != c.step || !strings.Contains(failed.Error, c.reason) || h.Running() != 0 {
			t.Errorf("a program that %s: got %v, %d programs; want %s: %s", name, r, h.Running(), c.step, c.reason)
		}
	}
}

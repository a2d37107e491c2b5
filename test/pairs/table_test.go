package pairs

import "testing"

// ways says on which ways from a client to a server something does not work.
type ways struct{ directly, through bool }

// The ways.
var (
	nowhere    = ways{true, true}
	notDirect  = ways{directly: true}
	notThrough = ways{through: true}
)

// exception is something that a pair cannot do.
type exception struct {
	client, server, step string // "" means all
	fails                ways
	because              string
}

// exceptions are all that does not work; the first that fits counts. What does not
// work through Leasehold does not work directly either, with the one exception
// that says why.
var exceptions = []exception{
	{"inspector", "", "progress", nowhere, "it says nothing of progress"},
	{"inspector", "", "subscribe", nowhere, "it has no command for it"},
	{"inspector", "", "cancel", nowhere, "it has no command for it"},
	{"inspector", "", "sampling", nowhere, "it does not offer it to servers"},
	{"inspector", "", "elicitation", nowhere, "it does not offer it to servers"},
	{"mcp-go", "everything-sse", "sampling", notDirect, "the client does not listen to requests on legacy streams"},
	{"mcp-go", "everything-sse", "elicitation", notDirect, "the client does not listen to requests on legacy streams"},
	{"mcp-go", "go-sdk", "cancel", nowhere, "the client sends no notification, it just closes the stream"},
	{"mcp-go", "mcp-go", "cancel", notThrough, "the client just closes the stream, which the protocol says is no cancellation; this server takes it for one"},
	{"mcp-go", "", "resume a broken stream", nowhere, "the client comes back only for streams that ended in order"},
	{"", "everything-sse", "resume a broken stream", notDirect, "a legacy session ends with its stream"},
	{"", "everything-sse", "resume an ended stream", notDirect, "a legacy session ends with its stream"},
	{"", "everything-stdio", "resume a broken stream", notDirect, "a program has no connection"},
	{"", "everything-stdio", "resume an ended stream", notDirect, "a program has no connection"},
}

// expected returns on which ways a step of a pair fails, and why.
func expected(client, server, step string) (ways, string) {
	for _, e := range exceptions {
		if (e.client == "" || e.client == client) && (e.server == "" || e.server == server) && e.step == step {
			return e.fails, e.because
		}
	}
	return ways{}, ""
}

// judge compares how the steps of a pair went with the exceptions.
func judge(t *testing.T, client, server string, directly, through map[string]error) {
	t.Helper()
	for _, s := range steps {
		want, because := expected(client, server, s.name)
		if got := (ways{directly[s.name] != nil, through[s.name] != nil}); got != want {
			t.Errorf("%s with %s: %s (fails: %+v %s):\n\tdirectly: %v\n\tthrough:  %v",
				client, server, s.name, want, because, directly[s.name], through[s.name])
		}
	}
}

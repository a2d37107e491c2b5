package duplex

import (
	"bytes"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// maxBatch bounds the messages that a server sends at once.
const maxBatch = 1000

// message is something that the server sent: one message, or a batch.
type message struct {
	data []byte
	// kind and id are those of a message; a batch has neither.
	kind mcp.Kind
	id   []byte
	// answers are the ids of the requests that it answers.
	answers []string
	// token is the progress token that it names, or empty.
	token string
	// claimed says that it belongs to the request on whose stream it is.
	claimed bool
}

// parse reads what the server sent, which it copies.
func parse(data []byte) (*message, error) {
	m := &message{data: bytes.Clone(data)}
	envelope, err := mcp.Parse(m.data, mcp.Limits{Depth: mcp.MaxDepth, Batch: maxBatch})
	if err != nil {
		return nil, err
	}
	for _, one := range envelope.Messages() {
		switch {
		case one.Kind == mcp.KindResponse && one.ID != nil:
			m.answers = append(m.answers, string(one.ID))
		case one.Method == mcp.MethodProgress && m.token == "":
			token, _ := mcp.Lookup(one.Params, "progressToken")
			m.token = string(token)
		}
	}
	if !envelope.Batch {
		m.kind, m.id = envelope.First().Kind, envelope.First().ID
	}
	return m, nil
}

// asked is what a client's POST asks of the server.
type asked struct {
	ids, tokens []string
	cancelled   []string // requests whose answers the client does not want any more
}

// askedBy reads a client's body. Ids and tokens are kept as they came: 1 and "1"
// are two.
func askedBy(body []byte) (asked, error) {
	var a asked
	envelope, err := mcp.Parse(body, mcp.Limits{})
	if err != nil {
		return a, err
	}
	for _, one := range envelope.Messages() {
		switch {
		case one.Kind == mcp.KindRequest:
			a.ids = append(a.ids, string(one.ID))
			if token, ok := mcp.Lookup(one.Params, "_meta", "progressToken"); ok {
				a.tokens = append(a.tokens, string(token))
			}
		case one.Method == mcp.MethodCancelled:
			if id, ok := mcp.Lookup(one.Params, "requestId"); ok {
				a.cancelled = append(a.cancelled, string(id))
			}
		}
	}
	return a, nil
}

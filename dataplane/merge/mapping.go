package merge

import (
	"bytes"
	"strings"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// What a part made up and the client says again carries the part's name:
//
//	ids, progress tokens   a string, {part}:{the part's JSON}
//	task ids               a string, {part}:{the part's text}
//	URIs                   as the catalogue has it
//
// Names of parts have no colon.

// markRaw returns an id or a token of a part for the client.
func markRaw(part string, raw []byte) []byte {
	return mcp.AppendQuoted(make([]byte, 0, len(part)+len(raw)+8), part+":"+string(raw))
}

// unmarkRaw returns whose an id or a token is that the client says, and what it was.
func unmarkRaw(raw []byte) (part string, own []byte, ok bool) {
	text, ok := mcp.Unquote(raw)
	if !ok {
		return "", nil, false
	}
	part, rest, ok := strings.Cut(text, ":")
	own, valid := mcp.Lookup([]byte(rest))
	if !ok || !valid || len(own) != len(rest) || own[0] != '"' && own[0] != '-' && (own[0] < '0' || own[0] > '9') {
		return "", nil, false
	}
	return part, own, true
}

// markTask returns a task id of a part for the client; nil if it is none.
func markTask(part string, raw []byte) []byte {
	text, ok := mcp.Unquote(raw)
	if !ok {
		return nil
	}
	return mcp.AppendQuoted(nil, part+":"+text)
}

// unmarkTask returns whose a task id is that the client says, and what it was.
func unmarkTask(raw []byte) (part string, own []byte, ok bool) {
	text, ok := mcp.Unquote(raw)
	if !ok {
		return "", nil, false
	}
	part, rest, ok := strings.Cut(text, ":")
	return part, mcp.AppendQuoted(nil, rest), ok
}

const metaRelatedTask = "io.modelcontextprotocol/related-task"

// Paths of what a part makes up in its requests and notifications.
var (
	requestPaths = [][]string{
		{"id"},
		{"params", "_meta", "progressToken"},
		{"params", "_meta", metaRelatedTask, "taskId"},
	}
	noticePaths = [][]string{
		{"params", "requestId"},
		{"params", "uri"},
		{"params", "taskId"},
		{"params", "_meta", metaRelatedTask, "taskId"},
	}
)

// resultPaths are where results have URIs and task ids.
var resultPaths = [][]string{
	{"result", "content", mcp.Each, "uri"},
	{"result", "content", mcp.Each, "resource", "uri"},
	{"result", "contents", mcp.Each, "uri"},
	{"result", "messages", mcp.Each, "content", "uri"},
	{"result", "messages", mcp.Each, "content", "resource", "uri"},
	{"result", "messages", mcp.Each, "content", mcp.Each, "uri"},
	{"result", "messages", mcp.Each, "content", mcp.Each, "resource", "uri"},
	{"result", "task", "taskId"},
	{"result", "_meta", metaRelatedTask, "taskId"},
	{"result", "taskId"},
}

// Places in resultPaths.
const (
	uriPaths = 7 // up to here are URIs
	ownTask  = 9 // is a task id in the answer to a request for a task
)

// asked is what the client has asked for with the call that an answer is to.
type asked struct {
	tasks bool // something about tasks
	// part and client are a URI as the part and as the client has it, JSON both; nil
	// for none.
	part, client []byte
	// nothing says that it is no answer to a call, or one to some earlier call: some
	// parts send on such a stream what they have ever sent.
	nothing bool
}

var keyURI, keyTaskID = []byte(`"uri"`), []byte(`"taskId"`)

// forClient returns a message of a part as the client gets it; the message itself if
// nothing has to be different. nil: the client does not get it.
func (m *merged) forClient(l *link, data []byte, a asked) []byte {
	kind, _ := mcp.KindOf(data)
	switch kind {
	case mcp.KindResponse:
		if a.nothing && answersUs(data) {
			return nil
		}
		return m.resultForClient(l, data, a)
	case mcp.KindRequest:
		// What cannot be read cannot be mapped, and must not meet another part's id.
		if own, ok := mcp.Splice(nil, data, requestPaths, func(path int, value []byte) []byte {
			if path == 2 {
				return markTask(l.upstream.Name, value)
			}
			return markRaw(l.upstream.Name, value)
		}); ok {
			return own
		}
	case mcp.KindNotification:
		return m.noticeForClient(l, data)
	}
	m.log.Warn("upstream sent something that is no message; ignored", "upstream", l.upstream.Name, "bytes", len(data))
	return nil
}

func (m *merged) resultForClient(l *link, data []byte, a asked) []byte {
	if !bytes.Contains(data, keyURI) && !bytes.Contains(data, keyTaskID) {
		return data
	}
	return splice(data, resultPaths, func(path int, value []byte) []byte {
		switch {
		case path == ownTask && !a.tasks:
			return nil
		case path >= uriPaths:
			return markTask(l.upstream.Name, value)
		case a.part != nil && bytes.Equal(value, a.part):
			return a.client
		}
		return m.uriForClient(l, value)
	})
}

// uriForClient returns a URI of a part as the client has it; nil if it is the same.
func (m *merged) uriForClient(l *link, raw []byte) []byte {
	uri, ok := mcp.Unquote(raw)
	place := m.placeOf(l.part)
	if !ok || place < 0 {
		return nil
	}
	mapped := m.items().ClientURI(place, uri)
	if mapped == uri {
		return nil
	}
	return mcp.AppendQuoted(nil, mapped)
}

// placeOf returns the place of a part among the upstreams; -1 if it is none any more.
func (m *merged) placeOf(p *part) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, other := range m.parts {
		if other == p {
			return i
		}
	}
	return -1
}

// noticeForClient returns a notification of a part as the client gets it. Of a list
// that has changed the client is told once that is certain.
func (m *merged) noticeForClient(l *link, data []byte) []byte {
	raw, _ := mcp.Lookup(data, "method")
	method, _ := mcp.Unquote(raw)
	if kinds := changedBy(method); kinds != 0 {
		m.unlist(l.part, kinds)
		m.announce(kinds)
		return nil
	}
	return splice(data, noticePaths, func(path int, value []byte) []byte {
		switch {
		case path == 0 && method == mcp.MethodCancelled:
			return markRaw(l.upstream.Name, value)
		case path == 1 && method == mcp.MethodResourcesUpdated:
			return m.uriForClient(l, value)
		case path == 2 && method == mcp.MethodTasksStatus, path == 3:
			return markTask(l.upstream.Name, value)
		}
		return nil
	})
}

// changedBy returns the lists of which a notification says that they have changed.
func changedBy(method string) kindSet {
	switch method {
	case mcp.MethodToolsListChanged:
		return toolKinds
	case mcp.MethodPromptsListChanged:
		return promptKinds
	case mcp.MethodResourcesListChanged:
		return resourceKinds
	}
	return 0
}

// splice is mcp.Splice that returns what cannot be read as it came.
func splice(data []byte, paths [][]string, edit func(int, []byte) []byte) []byte {
	changed := false
	out, ok := mcp.Splice(nil, data, paths, func(path int, value []byte) []byte {
		to := edit(path, value)
		changed = changed || to != nil
		return to
	})
	if !ok || !changed {
		return data
	}
	return out
}

// responsePaths are of what the client says again in its answers.
var responsePaths = [][]string{
	{"id"},
	{"result", "_meta", metaRelatedTask, "taskId"},
}

// forPart returns the client's answer to a request of a part as that gets it.
func forPart(part string, data, id []byte) []byte {
	return splice(data, responsePaths, func(path int, value []byte) []byte {
		if path == 0 {
			return id
		}
		if of, own, ok := unmarkTask(value); ok && of == part {
			return own
		}
		return nil
	})
}

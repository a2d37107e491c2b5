package merge

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// listTasks serves tasks/list: the pages of one part after those of the other. A part
// that fails costs its own tasks.
func (m *merged) listTasks(ctx context.Context, r *request) (*http.Response, error) {
	var links []*link
	for _, l := range m.open() {
		if l.offers.tasks {
			links = append(links, l)
		}
	}
	if len(links) == 0 {
		return r.refuse(mcp.CodeMethodNotFound, "Method not found: "+mcp.MethodTasksList), nil
	}
	if err := r.Dispatch.LetOut(); err != nil {
		return nil, err
	}
	at, cursor := 0, []byte(nil)
	if raw := r.param("cursor"); raw != nil && raw[0] != 'n' {
		opened, _ := m.openCursor(raw)
		name, own, ok := parseTaskCursor(opened)
		for at < len(links) && links[at].upstream.Name != name {
			at++
		}
		if !ok || at == len(links) {
			return r.refuse(mcp.CodeInvalidParams, "params.cursor is not one of this list"), nil
		}
		cursor = own
	}
	for ; at < len(links); at, cursor = at+1, nil {
		page, err := m.ask(ctx, links[at], mcp.MethodTasksList, cursorParams(cursor))
		if err != nil {
			m.log.Warn("tasks not listed", "upstream", links[at].upstream.Name, "error", err)
			continue
		}
		next := nextTaskCursor(links, at, page)
		if tasks, _ := mcp.Lookup(page, "tasks"); next == nil || len(bytes.TrimSpace(tasks)) > len("[]") {
			return result(r.message.ID, m.taskPage(links[at], page, next)), nil
		}
		if own, ok := mcp.Lookup(page, "nextCursor"); ok && own[0] == '"' {
			return result(r.message.ID, m.taskPage(links[at], page, next)), nil
		}
	}
	return result(r.message.ID, []byte(`{"tasks":[]}`)), nil
}

func cursorParams(cursor []byte) []byte {
	if cursor == nil {
		return nil
	}
	return append(append([]byte(`{"cursor":`), cursor...), '}')
}

// nextTaskCursor returns the cursor of what follows a part's page; nil if nothing does.
func nextTaskCursor(links []*link, at int, page []byte) []byte {
	if own, ok := mcp.Lookup(page, "nextCursor"); ok && own[0] == '"' && len(own) <= maxCursorBytes {
		return formatTaskCursor(links[at].upstream.Name, own)
	}
	if at+1 < len(links) {
		return formatTaskCursor(links[at+1].upstream.Name, nil)
	}
	return nil
}

// taskPage returns the result for the client of a part's page.
func (m *merged) taskPage(l *link, page, next []byte) []byte {
	tasks, ok := mcp.Lookup(page, "tasks")
	if !ok || tasks[0] != '[' {
		tasks = []byte("[]")
	}
	body := append([]byte(`{"tasks":`), splice(tasks, [][]string{{mcp.Each, "taskId"}}, func(_ int, value []byte) []byte {
		return markTask(l.upstream.Name, value)
	})...)
	if next != nil {
		body = mcp.AppendQuoted(append(body, `,"nextCursor":`...), m.sealCursor(next))
	}
	return append(body, '}')
}

func formatTaskCursor(part string, own []byte) []byte { return []byte("t" + part + ":" + string(own)) }

func parseTaskCursor(cursor []byte) (part string, own []byte, ok bool) {
	if len(cursor) == 0 || cursor[0] != 't' {
		return "", nil, false
	}
	part, rest, ok := strings.Cut(string(cursor[1:]), ":")
	if !ok || rest == "" {
		return part, nil, ok
	}
	own, ok = mcp.Lookup([]byte(rest))
	return part, own, ok && own[0] == '"'
}

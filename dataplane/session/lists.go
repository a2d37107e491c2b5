package session

import (
	"strings"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// Lists are the lists of a server that requests concern: tools, prompts, resources.
type Lists uint32

// The lists, which are added up.
const (
	ToolLists Lists = 1 << iota
	PromptLists
	ResourceLists
)

// ListsOf returns the lists that a method concerns.
func ListsOf(method string) Lists {
	of, _, _ := strings.Cut(method, "/")
	switch of {
	case "tools":
		return ToolLists
	case "prompts":
		return PromptLists
	case "resources":
		return ResourceLists
	}
	return 0
}

// changed returns the notifications that tell a client to ask again for the lists.
func (l Lists) changed() (events [][]byte) {
	for _, list := range [...]struct {
		of     Lists
		method string
	}{{ToolLists, mcp.MethodToolsListChanged}, {PromptLists, mcp.MethodPromptsListChanged}, {ResourceLists, mcp.MethodResourcesListChanged}} {
		if l&list.of != 0 {
			events = append(events, mcp.AppendEvent(nil, []byte(`{"jsonrpc":"2.0","method":"`+list.method+`"}`)))
		}
	}
	return events
}

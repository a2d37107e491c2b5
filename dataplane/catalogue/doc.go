// Package catalogue makes one list of what several MCP servers list: how items are
// called, which of them there are for clients, and to which server a name or a URI
// belongs. It does no I/O and starts nothing; its values are never changed and are
// safe for concurrent use.
//
//	definition ──▶ Policy ─┐
//	                       ├─ Merge ──▶ Catalogue: Page, Route, ClientURI
//	list answers ─▶ List ──┘
//
// Items are kept as the bytes that came: only a name, a URI or a description is
// another in what clients get, and only where the policy or another server's item
// of the same name asks for it.
//
// What clients see and what they may use is decided by the same rules: an item that
// is not listed because of a filter is not found by [Catalogue.Route] either.
package catalogue

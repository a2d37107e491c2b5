// Package conformance runs the official conformance suite of MCP, and requests on
// which servers differ, directly and through Leasehold, and compares what comes of
// it. README.md has the commands and what was found.
package conformance

// Package conformance runs the official conformance suite of MCP against a server
// directly and through Leasehold, and compares check by check. README.md has the
// commands and what was found.
package conformance

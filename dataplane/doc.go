// Package dataplane assembles a worker: it serves MCP clients over HTTP, owns
// client sessions and their upstream sessions, and forwards requests of
// sessions that other workers own.
package dataplane

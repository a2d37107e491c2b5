// Package mcp is the wire format of the Model Context Protocol as far as a
// relay needs it: which protocol version belongs to which era, a strict reader
// of the JSON-RPC envelope, a reader of server-sent events, and the errors that
// the gateway answers with.
//
// A relay must not decide by one reading of a message and forward bytes that
// its receiver reads differently. So [Parse] refuses whatever two JSON parsers
// may disagree about in the members that it looks at (duplicate keys, keys that
// differ only in case, invalid UTF-8), and hands out everything else as the
// bytes that came in: nothing is decoded and encoded again, so that big numbers,
// unknown members and the order of keys survive.
//
// Slices in a [Message] and an [Event] alias the buffer they were read from.
package mcp

// Package audit keeps the audit log of a control-plane replica: one line of JSON for
// each call that changes something, or would have, and who made it.
//
// A line has what of this is known:
//
//	time           when the call came, in UTC
//	request_id     what the caller's x-request-id says
//	role, name     of the caller's certificate
//	address        of the caller
//	method         the full name of the RPC
//	resource       what it changes
//	validate_only  true: nothing was to be changed
//	before, after  digests of the definition, see Digest; one is missing when it was
//	               made or deleted, both are equal when nothing changed
//	revision       the revision of the change
//	code, reason   the outcome, as the caller was told
//	omitted        how many calls that were not allowed have no line of their own before
//	               this one
//
// It has no values of secrets, nor anything else of a definition.
package audit

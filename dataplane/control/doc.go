// Package control is a worker's side of the control plane: it registers the
// worker and keeps its lease, follows config and members, and carries the
// worker's claims and ends.
//
// The worker's authority to dispatch comes from its lease alone:
//
//	            register                 renewed in time
//	(no lease) ──────────▶ authorised ◀──────────────────┐
//	                           │  └───────────────────────┘
//	                           │ no acknowledged renewal for TTL − margin
//	                           ▼
//	                         fenced ──▶ lease gone? ── re-adopt ok ──▶ authorised (same incarnation)
//	                                        └── condemned ──▶ every session dropped, register anew
//
// A worker that does not serve leaves its lease to run out, and renews or
// re-adopts once it serves again. What it registered as is kept in its data
// directory, so that the worker which is started there after a crash can leave
// in its stead.
package control

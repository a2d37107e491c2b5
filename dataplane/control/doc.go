// Package control is a worker's side of the control plane: it registers the
// worker and keeps its lease, follows config and members, and carries the
// worker's claims and ends.
//
// The worker's authority to dispatch comes from its lease, and while the control plane
// is away from the word of all other workers that could take over:
//
//	            register                 renewed in time
//	(no lease) ──────────▶ contact ◀───────────────────────────────────────┐
//	                          │  └──────────────────────┘                  │
//	                          │ no acknowledged renewal for TTL − margin   │
//	                          ▼                                            │
//	       everybody on its list could not have taken over, and cannot     │
//	          │ yes: permit, for a moment at a time ──── renewed ──────────┤
//	          │                                                            │
//	          └ no: fenced ──▶ lease gone? ── re-adopt ok ─────────────────┘ (same incarnation)
//	                              └── condemned ──▶ every session dropped, register anew
//
// A worker may take over from one that may serve on only with power: contact that has
// lasted for a lease and a half. So whoever told another that it has none has none
// until the other has asked again, or has stopped.
//
// A worker that does not serve leaves its lease to run out, and renews or
// re-adopts once it serves again. What it registered as is kept in its data
// directory, so that the worker which is started there after a crash can leave
// in its stead.
package control

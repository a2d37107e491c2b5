// Package etcd keeps the control plane's state in etcd. It is the only package
// that imports go.etcd.io.
//
// Each change is one transaction and one function, named after what it does:
// Register, Readopt, Leave, Forget, RecordPeers, SetDraining, Claim, Reclaim, HandOver,
// Save, End, WishEnd and the gateways' Create, Update and Delete. Nothing else writes the
// keys that they write.
//
//	incarnations/{worker}            {registered, left, whom it knows}; its first revision is the
//	                                 incarnation E, which every later value says
//	members/{worker}/{E}             what the worker says of itself, and whether it drains; the one
//	                                 key on the worker's lease
//	condemned/{worker}/{E}           E never comes back: a session was reclaimed from it, or those who
//	                                 may take over from it found it dead for long
//	dead/{worker}/{E}                when the incarnation was first seen to be dead; whatever brings it
//	                                 back deletes that
//	sessions/{gateway}/{digest}      the record, or the tombstone that took its place
//	ended/{gateway}/{digest}         beside each tombstone: when it may be collected
//	endings/{gateway}/{digest}       the session is to be ended: an operator wants it, or it is an
//	                                 orphan that nobody asks for
//	gateways/{id}                    the definition
//	keys/ring                        the key ring, sealed
//	collector                        the replica that collects garbage, on a lease of its own
//	orphans                          the replica that sees to orphans, likewise
//
// A worker is alive while members/{worker}/{E} exists. In comparisons that is
// its create-revision and never its value: comparing the value of a key that is
// absent is false whatever the operator, so a guard on a value would quietly
// refuse everything.
//
// An incarnation is superseded when incarnations/{worker} is absent, says another, or
// says that it left: then it certainly never acts again. A dead one that is not may still
// run, and serve on without the control plane while all whom it is recorded to know say
// that they could not have taken anything from it. Who may take over from it is decided
// by that list, at the revision that the transaction compares.
package etcd

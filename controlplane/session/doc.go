// Package session knows who owns a client session: the rules of claim, reclaim,
// hand-over, save and end as functions over records, and of who may take over from a
// dead owner. It is pure: the facts (what the store has, who is alive) come in as
// arguments and the decision goes out. Every function is safe to call from many
// goroutines and changes none of its arguments.
//
//	(none) ──claim──▶ epoch 1 ──reclaim, hand over──▶ epoch n+1 ──┐
//	   │                 ▲ save                                   │ end
//	   └──────end────────┴──▶ tombstone ◀─────────────────────────┘   (final)
package session

// Package model checks the rules of ownership: it looks at every state that a small
// world of workers, sessions and clocks can get into, and not at the product. What
// holds here holds because of the rules; that the product follows them is for
// test/linear and test/chaos to see.
//
// # The rules
//
// A worker w registers as an incarnation E. TTL is its lease's; margin, H, V and
// S_max are the other times.
//
//	contact       now < when the last acknowledged renewal was sent + TTL - margin
//	power         contact has lasted for H without a lapse, counted from when the
//	              acknowledgement arrived. A worker may renounce it at any time: as if contact
//	              had just lapsed
//	may dispatch  for a session that it believes to own under its present E, that is not moving,
//	              with contact or a permit
//	permit        asked at T, of all of a list that is recorded and not empty. Each answers, as the
//	              incarnation that is listed, for how long it has had no power (g) and how long it
//	              takes at least until it has (r): now - g is before my deadline, or g covers the time
//	              since all last answered (g reaches far back, and clocks drift).
//	              Valid until T + min(V, all r), less drift; all in all for S_max past the deadline.
//	              It ends when the list grows, and before a call that may record an empty list
//	superseded    E left (or somebody left for it that knows that its process is dead), or w registered
//	              anew, or incarnations/w was collected: E never acts again. It is for ever
//	reclaim       resolve: the owner o is dead. Sent with power, unless o is superseded. If the record and
//	              incarnations/o are as read, o is dead, I am alive and may take: put me with epoch + 1
//	              and condemned/o. Answered: with power again, and under the same E; else forget it
//	may take      from o: it is superseded · I am on its recorded list · that is empty · somebody on it
//	              left or registered anew, V and drift ago · o has been dead for S_max + drift + TTL
//	condemn       a reclaim of no session, with the same guards
//	list          who joins is in the worker's list first and recorded then; who leaves (condemned or
//	              superseded only) leaves the record first. A list is recorded if E is neither condemned
//	              nor superseded, and no list that was sent later is
//	register      puts incarnations/w, if that still says what the worker knew of it
//	re-adopt      if E is neither condemned nor superseded: put the member key, and incarnations/w as it
//	              is, so that whoever had seen E dead before has to read again. Refused: drop every
//	              session of E, then register anew
//	hand over     stop dispatching, then put the other with epoch + 1, if the record is as read and
//	              both are alive. An outcome that stays unknown is decided by a write that refuses it.
//	              The receiver believes an epoch above all that it has seen, for its own E
//	end           drop, then put a tombstone, if the record is as read
//	unrecorded    a session that was opened without the control plane belongs, from the first claim on,
//	              to the E that the claim names. Once its worker was without contact and permit, or has
//	              another E, it is not dispatched for before a claim is granted
//	404           no record, and the opener is condemned, superseded, or dead for S_max + drift + TTL: put a
//	              tombstone first
//	collect       condemned/w/E and incarnations/w in one transaction, long after S_max
//	leave         stop dispatching, then leave
//	hold          a replica that starts, or has etcd back after more than TTL, takes nothing for H from
//	              an owner that is not superseded, and condemns nobody
//
// # What they promise
//
//	S1  no two workers are entitled to dispatch for one session at once
//	S2  epochs of dispatches never go back
//	S3  what a living worker believes of a session is what the store says
//	S4  a claim or hand-over that was acknowledged is never lost
//	S5  after an end, or a 404, nobody dispatches
//	P5  no session of a running, connected worker moves across an outage
//	L1  when nothing goes wrong any more, every session gets one living owner
//
// Two lemmas are checked with them: the recorded list has nobody that the worker does not
// ask, and nobody is entitled under an incarnation that is condemned or superseded.
//
// # What is modelled
//
// Two or three workers, one session, one store, up to two replicas. Time goes in ticks; a
// worker's clock may lose or gain one against the others. Messages are late, lost and
// doubled, as far as a world keeps them apart; a message that is lost is one that is not
// chosen to arrive. A worker that is cut off is one whose renewals do not arrive, a pause is
// a clock that goes on while nothing is done. Member lists are stale until a worker hears
// of a newcomer. Entitlement stands for dispatch: a worker that may dispatch in a state is
// taken to do so, and pauses between check and write, which nothing can help, are left out.
//
// Not modelled: the front's caches (an owner checks incarnation and epoch itself), a lease
// that is gone before its time, a change of S_max while workers are cut off, several
// sessions (each is for itself; that one moves is modelled by condemn), capacity,
// and that a registration is two transactions.
//
// The times are small and keep the order of the real ones (TTL 6 s, margin 1.5 s, H 9 s, V 2
// s, S_max 10 min), not their ratios: a tick is a third of the TTL.
//
// # How to run it
//
//	go test ./test/model                            everything, in about a minute
//	go test ./test/model -run Mutants -v            the shortest way to break each rule, in words
//	go test ./test/model -args -deep 20             twenty times as far, for a soak
//	go test ./test/model -run Random -args -seed 7  other random walks
//
// Two workers are searched completely, most of the rest as far as a bound. Every
// rule has a mutant without it that has to be found out: whoever adds a rule adds a weakness,
// and the world in which it shows.
package model

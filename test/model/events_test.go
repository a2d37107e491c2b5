package model

import (
	"fmt"
	"strings"
)

// kind is what can happen.
type kind uint8

// event is what happened, and to whom.
type event struct {
	kind
	w   uint8 // the worker that acts, or the replica
	who id    // the other one
	n   uint8 // an epoch
}

const (
	ticked kind = iota
	tickLost
	tickGained
	renewed
	renewalSent
	renewalArrived
	renewalAnswered
	refused
	registered
	registeredLate
	started
	crashed
	stopped
	left
	forgotten
	succeeded
	collected
	collectedHalf
	permitted
	asked
	confirmed
	renounced
	heardOf
	peersRecorded
	livingRecorded
	peersSent
	livingSent
	peersArrived
	peersArrivedLate
	peersAnswered
	condemned
	condemnSent
	condemnArrived
	took
	takeResolved
	takeSent
	takeArrived
	takeAnswered
	readOwner
	handoverSent
	handoverArrived
	handoverLearnt
	handoverSaved
	granted
	endSent
	endArrived
	claimSent
	claimArrived
	claimGranted
	claimRefused
	notFound
	etcdLost
	etcdBack
	booted
	kinds
)

var words = [kinds]string{
	ticked:           "a tick passes",
	tickLost:         "a tick passes, which W's clock loses",
	tickGained:       "a tick passes, which W's clock counts twice",
	renewed:          "W renews, or re-adopts, I",
	renewalSent:      "W sends a renewal",
	renewalArrived:   "W's renewal, or re-adoption, of I is carried out",
	renewalAnswered:  "W is acknowledged its renewal",
	refused:          "W learns that I is over, and drops what it owned under it",
	registered:       "W registers as I",
	registeredLate:   "a copy of W's registration arrives and makes I",
	started:          "W starts as a new process",
	crashed:          "W crashes",
	stopped:          "W stops dispatching and is about to leave",
	left:             "I leaves",
	forgotten:        "the operator has I forgotten",
	succeeded:        "a successor leaves in the stead of I",
	collected:        "what is left of I is collected",
	collectedHalf:    "that I is condemned is collected",
	permitted:        "W asks its list, and all confirm",
	asked:            "W asks its list",
	confirmed:        "I confirms to W",
	renounced:        "W renounces its power",
	heardOf:          "W hears of I",
	peersRecorded:    "W has its list recorded",
	livingRecorded:   "W has those of its list recorded that are alive",
	peersSent:        "W sends its list to be recorded",
	livingSent:       "W sends those of its list that are alive to be recorded",
	peersArrived:     "the list of I is recorded",
	peersArrivedLate: "a list that I sent before is recorded",
	peersAnswered:    "W learns what list is recorded",
	condemned:        "W has I condemned",
	condemnSent:      "W asks that I be condemned",
	condemnArrived:   "I is condemned, as W asked",
	took:             "W reclaims the session from I",
	takeResolved:     "W reads that the owner, I, is dead",
	takeSent:         "W sends a reclaim from I",
	takeArrived:      "W's reclaim from I is carried out",
	takeAnswered:     "W is answered its reclaim",
	readOwner:        "W reads that it is the owner",
	handoverSent:     "W sends a hand-over to I",
	handoverArrived:  "W's hand-over to I is carried out",
	handoverLearnt:   "W learns that the session is that of I",
	handoverSaved:    "W saves the session and goes on with it",
	granted:          "W is granted epoch N",
	endSent:          "W drops the session and sends its end",
	endArrived:       "W's end is carried out",
	claimSent:        "W sends a claim",
	claimArrived:     "the claim of I is carried out",
	claimGranted:     "W learns that its claim is granted",
	claimRefused:     "W learns that its claim is refused, and drops the session",
	notFound:         "a front asks for a session that I opened, and answers 404",
	etcdLost:         "replica N loses etcd",
	etcdBack:         "replica N has etcd back",
	booted:           "replica N starts anew",
}

func (e event) String() string {
	n := e.n
	if e.kind >= etcdLost {
		n = e.w + 1
	}
	return strings.NewReplacer("W", workerName(int(e.w)), "I", e.who.String(), "N", fmt.Sprint(n)).Replace(words[e.kind])
}

// is reports whether e is what is meant by want, which may leave out who.
func (e event) is(want event) bool {
	return e.kind == want.kind && e.w == want.w && e.n == want.n && (want.who == none || e.who == want.who)
}
